"""The figure of the study on real prices: how the models learned, and what became of the money."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foldopt.experiments.markowitz.outcome import Result
from foldopt.experiments.markowitz.plan import (
    EQUAL_WEIGHTS,
    FOLDED,
    MINIMUM_VARIANCE,
    TRAILING_MEAN,
    TWO_STAGE,
)

__all__ = ["write_figure"]

# Wong's palette, which readers with any colour vision can tell apart, and dashes for the untrained.
STYLE = {
    TWO_STAGE: ("#D55E00", "-"),
    FOLDED: ("#0072B2", "-"),
    TRAILING_MEAN: ("#009E73", "--"),
    MINIMUM_VARIANCE: ("#CC79A7", "--"),
    EQUAL_WEIGHTS: ("#000000", "--"),
}


def write_figure(result: Result, path: Path) -> None:
    """Draw validation regret by epoch and test wealth by year, and write them as PNG."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    learning, wealth = figure.subplots(1, 2)
    _draw_learning(learning, result)
    _draw_wealth(wealth, result)
    figure.savefig(path, dpi=150)


def _draw_learning(axes: Axes, result: Result) -> None:
    epochs = np.arange(1, result.config.epochs + 1)
    for name in (TWO_STAGE, FOLDED):
        scores = [track.history.score for track in result.tracks[name] if track.history]
        _draw_band(axes, epochs, np.array(scores), name)
    axes.set(
        xlabel="epoch", ylabel="mean regret, % of wealth", title="Validation regret in training"
    )
    axes.legend(title=_band_title(result))


def _draw_wealth(axes: Axes, result: Result) -> None:
    # The last portfolio is held for as many trading days, five of which make seven of the calendar.
    last = result.days[-1] + np.timedelta64(round(7 / 5 * result.config.holding), "D")
    days = np.append(result.days, last)
    for name in result.tracks:
        grown = np.cumprod(1 + result.returns(name) / 100, axis=1)
        _draw_band(axes, days, np.insert(grown, 0, 1.0, axis=1), name)
    axes.set(
        ylabel="wealth, from 1 at the start (log scale)",
        title="Wealth in the test years",
        yscale="log",
    )
    ticks = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)
    low, high = axes.get_ylim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.3)
    axes.legend(title=_band_title(result))


def _draw_band(axes: Axes, x: np.ndarray, curves: np.ndarray, name: str) -> None:
    """The mean over seeds, in the band of their range."""
    color, dashes = STYLE[name]
    marker = "o" if len(x) == 1 else ""
    axes.plot(x, curves.mean(0), label=name, color=color, linestyle=dashes, marker=marker)
    if len(curves) > 1:
        axes.fill_between(x, curves.min(0), curves.max(0), color=color, alpha=0.15, linewidth=0)


def _band_title(result: Result) -> str:
    seeds = result.config.seeds
    return "one seed" if seeds == 1 else f"mean and range of {seeds} seeds"
