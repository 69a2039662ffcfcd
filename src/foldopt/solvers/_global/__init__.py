"""The engines for nonconvex quadratic programs, and the polish after them."""
