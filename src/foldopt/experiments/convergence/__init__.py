"""How the backward pass converges: Figure 3, step sizes, nested loops."""
