"""Means with their intervals, and the ratio that investors quote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = ["Interval", "annual_sharpe", "mean_interval"]


class Interval(NamedTuple):
    """A mean and the half-width of its 95 % interval, which is NaN if one value gave the mean."""

    mean: float
    half: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the mean is more than chance, by this interval."""
        return abs(self.mean) > self.half

    def text(self, decimals: int) -> str:
        """``"1.23 ± 0.04"``, or ``"1.23"`` where there is no interval."""
        mean = f"{self.mean:.{decimals}f}"
        return mean if math.isnan(self.half) else f"{mean} ± {self.half:.{decimals}f}"


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    r"""The mean of independent values and its 95 % interval by Student's t.

    :math:`\bar v \pm t_{0.975,\,k-1}\, s / \sqrt k` for k values of sample deviation s.

    Parameters
    ----------
    values
        k ≥ 1 values.

    Returns
    -------
    Interval
        With a half-width of NaN for k = 1.

    Raises
    ------
    ValueError
        If there are no values.

    Examples
    --------
    >>> mean_interval([1.0, 2.0, 3.0]).text(2)
    '2.00 ± 2.48'
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("mean_interval: there are no values")
    if array.size == 1:
        return Interval(float(array[0]), math.nan)
    half = stats.t.ppf(0.975, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size)
    return Interval(float(array.mean()), float(half))


def annual_sharpe(returns: np.ndarray, periods_a_year: float) -> float:
    r"""The Sharpe ratio of a year, with a risk-free rate of zero.

    :math:`\sqrt p\, \bar r / s` for p periods a year with mean return r̄ and deviation s.

    Parameters
    ----------
    returns
        One return a period, two at least.
    periods_a_year
        p.

    Returns
    -------
    float
        NaN where the returns do not vary.

    Examples
    --------
    >>> round(annual_sharpe(np.array([1.0, 2.0, 3.0]), periods_a_year=4), 3)
    4.0
    """
    deviation = float(returns.std(ddof=1))
    return math.sqrt(periods_a_year) * float(returns.mean()) / deviation if deviation else math.nan
