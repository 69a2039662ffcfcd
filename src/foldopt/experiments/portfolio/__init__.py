"""Portfolios with a bound on their risk: eq. 20 of the paper, on synthetic data and on prices."""
