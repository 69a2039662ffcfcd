"""Nonconvex bilinear decisions (E1): regret against error."""
