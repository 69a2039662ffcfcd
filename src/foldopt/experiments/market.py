"""Prices turned into decisions: what was known on each day, and what came after it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

__all__ = ["LAGS", "Market", "load_sp500", "observe", "split"]

LAGS = (1, 5, 21, 63, 250)
"""Over how many trading days past returns are taken: a day, week, month, quarter and year."""


@dataclasses.dataclass(frozen=True)
class Market:
    """T decisions on n assets, in the order of time. Returns are in percent.

    Attributes
    ----------
    days
        The day at whose close each decision is taken, ``datetime64``, shape ``(T,)``.
    assets
        The names of the n assets.
    features
        Past returns over each of ``LAGS``, in standard deviations, shape ``(T, n, len(LAGS))``.
    trailing_mean
        Mean past return per holding period, shape ``(T, n)``.
    covariance
        Covariance of past returns per holding period, shape ``(T, n, n)``.
    realised
        The return from this decision to the next one: what nobody knows, shape ``(T, n)``.
    """

    days: np.ndarray
    assets: tuple[str, ...]
    features: Tensor
    trailing_mean: Tensor
    covariance: Tensor
    realised: Tensor

    def __len__(self) -> int:
        return len(self.days)

    def between(self, first: int, last: int) -> Market:
        """The decisions from number ``first`` up to, but not with, number ``last``."""
        part = slice(first, last)
        return Market(
            self.days[part],
            self.assets,
            self.features[part],
            self.trailing_mean[part],
            self.covariance[part],
            self.realised[part],
        )


def load_sp500() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The daily closes of 20 stocks, 1990–2022, that skfolio ships.

    All 20 were alive and large in 2022, so that every strategy on them looks better than it was.

    Returns
    -------
    days
        ``datetime64``, shape ``(8313,)``.
    prices
        Closes, adjusted for splits and dividends, shape ``(8313, 20)``.
    assets
        The 20 ticker symbols.
    """
    from skfolio.datasets import load_sp500_dataset

    table = load_sp500_dataset()
    return (
        table.index.to_numpy().astype("datetime64[D]"),
        table.to_numpy(dtype=np.float64),
        tuple(map(str, table.columns)),
    )


def observe(
    days: np.ndarray,
    prices: np.ndarray,
    assets: tuple[str, ...],
    *,
    holding: int = 5,
    window: int = 250,
) -> Market:
    r"""Lay out every decision with what was known when it was taken.

    A decision at the close of day t sees the prices up to day t alone, and holds its portfolio to
    the close of day t + ``holding``, when the next one is taken: no two holding periods overlap.

    Parameters
    ----------
    days
        Shape ``(D,)``.
    prices
        Above 0, shape ``(D, n)``.
    assets
        The n names.
    holding
        Days from one decision to the next.
    window
        Days of past returns that the trailing mean and covariance are taken over; more than n, or
        the covariance is singular and the portfolio not unique.

    Returns
    -------
    Market
        One entry for each decision.

    Raises
    ------
    ValueError
        If prices are not above 0, shapes do not fit, the window is not longer than the number of
        assets, or the days do not suffice for one decision.

    Examples
    --------
    >>> import numpy as np
    >>> from foldopt.experiments.market import observe
    >>> days = np.arange("2000-01-03", "2001-02-06", dtype="datetime64[D]")
    >>> prices = 100 + np.random.default_rng(0).random((len(days), 2))
    >>> market = observe(days, prices, ("A", "B"))
    >>> len(market), tuple(market.features.shape)
    (29, (29, 2, 5))
    """
    n = len(assets)
    if prices.shape != (len(days), n):
        raise ValueError(
            f"observe: prices have shape {prices.shape}, but there are {len(days)} days and "
            f"{n} assets; give one row a day and one column an asset"
        )
    if not bool((prices > 0).all()):
        raise ValueError("observe: every price must be above 0; drop or fill missing days")
    if holding < 1 or window <= n:
        raise ValueError(
            f"observe: holding must be at least 1 and window above the number of assets, {n}; "
            f"got {holding} and {window}"
        )
    first = max(window, *LAGS)  # the first close with enough of a past
    closes = np.arange(first, len(days) - holding, holding)
    if len(closes) == 0:
        raise ValueError(
            f"observe: {len(days)} days leave no decision after {first} days of past and before "
            f"{holding} days of holding; give more days or a shorter window"
        )
    # Percent: weekly returns, variances and weights are then all of the order of 1, and one
    # tolerance of the solver means the same for each of them.
    daily = 100 * (prices[1:] / prices[:-1] - 1)  # daily[t - 1] ends at the close of day t
    past = np.stack([daily[t - window : t] for t in closes])  # (T, window, n)
    # Days are taken as uncorrelated: means and covariances grow with their number.
    mean = holding * past.mean(1)
    centred = past - past.mean(1, keepdims=True)
    covariance = holding * np.einsum("tdi,tdj->tij", centred, centred) / (window - 1)
    deviation = past.std(1, ddof=1)  # of one day
    # In units of its own past deviation, a return needs no standardisation by later data.
    features = np.stack(
        [
            100 * (prices[closes] / prices[closes - lag] - 1) / (deviation * np.sqrt(lag))
            for lag in LAGS
        ],
        axis=-1,
    )
    realised = 100 * (prices[closes + holding] / prices[closes] - 1)
    return Market(
        days[closes],
        assets,
        *(torch.from_numpy(array) for array in (features, mean, covariance, realised)),
    )


def split(
    market: Market, train: float = 0.6, validation: float = 0.2
) -> tuple[Market, Market, Market]:
    """Cut a market in time: training, then validation, then test.

    Parameters
    ----------
    market
        At least one decision for each part.
    train, validation
        Shares of the decisions; the rest is for the test.

    Returns
    -------
    train, validation, test
        Three markets, in the order of time.

    Raises
    ------
    ValueError
        If a part would be empty.

    Examples
    --------
    >>> import numpy as np
    >>> from foldopt.experiments.market import observe, split
    >>> days = np.arange("2000-01-03", "2001-02-06", dtype="datetime64[D]")
    >>> prices = 100 + np.random.default_rng(0).random((len(days), 2))
    >>> [len(part) for part in split(observe(days, prices, ("A", "B")))]
    [17, 6, 6]
    """
    first, second = round(train * len(market)), round((train + validation) * len(market))
    if not 0 < first < second < len(market):
        raise ValueError(
            f"split: {len(market)} decisions, shares {train} and {validation}: the parts would "
            f"hold {first}, {second - first} and {len(market) - second}; none may be empty"
        )

    return (
        market.between(0, first),
        market.between(first, second),
        market.between(second, len(market)),
    )
