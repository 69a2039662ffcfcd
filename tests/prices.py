"""Prices for tests, where real ones are not the point."""

from __future__ import annotations

import numpy as np


def invented_prices(days: int, n: int = 4) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    random = np.random.default_rng(0)
    daily = 0.02 * random.standard_normal((days, n)) + 0.01 * random.standard_normal((days, 1))
    dates = np.arange(days) + np.datetime64("2000-01-03")
    return dates, 100 * np.cumprod(1 + daily, axis=0), tuple("ABCDEFGH"[:n])
