"""Portfolios of mean and variance on real prices: regret against error."""
