"""The figure of the bilinear study: the test regret of each model on each Q."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foldopt.experiments.bilinear.training import TWO_STAGE, UNTRAINED, Result
from foldopt.experiments.statistics import mean_interval

__all__ = ["write_figure"]

# Wong's palette, which readers with any colour vision can tell apart.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#56B4E9", "#CC79A7", "#E69F00")


def write_figure(result: Result, path: Path) -> None:
    """Draw mean test regret by Q, with 95 % intervals over test decisions, and write it as PNG."""
    figure = Figure(figsize=(max(7.5, 0.8 * len(result.trials) + 3), 4.4), layout="constrained")
    _draw(figure.subplots(), result)
    figure.savefig(path, dpi=150)


def _draw(axes: Axes, result: Result) -> None:
    models = [TWO_STAGE, *(fold.name for fold in result.config.folds)]
    place = np.arange(len(result.trials))
    width = 0.8 / len(models)
    for index, name in enumerate(models):
        found = [mean_interval(trial.tracks[name].regret.numpy()) for trial in result.trials]
        axes.bar(
            place + (index - (len(models) - 1) / 2) * width,
            [interval.mean for interval in found],
            width,
            yerr=[interval.half for interval in found],
            label=name,
            color=COLORS[index % len(COLORS)],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
    ignorant = [float(trial.tracks[UNTRAINED].regret.mean()) for trial in result.trials]
    axes.hlines(ignorant, place - 0.42, place + 0.42, color="black", linestyle=":", label=UNTRAINED)
    axes.set_xticks(place, [str(trial.seed) for trial in result.trials])
    axes.set(
        xlabel="Q, by seed",
        ylabel="mean test regret",
        title="Nonconvex bilinear decisions: regret on unseen examples (± 95 %)",
    )
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
