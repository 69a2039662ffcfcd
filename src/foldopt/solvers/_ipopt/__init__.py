"""What Ipopt is given and says: derivatives, sparsity, and the packages that bring it."""
