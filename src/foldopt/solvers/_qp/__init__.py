"""The engines for convex quadratic programs, and what is done before and after them."""
