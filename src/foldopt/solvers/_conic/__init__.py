"""Cones, the engines for them, and quadratic constraints as cones."""
