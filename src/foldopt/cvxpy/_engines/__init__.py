"""Solvers of one cone program: two called directly, all others through CVXPY."""
