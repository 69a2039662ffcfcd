"""The figures of the bilinear study: a pair of bars for each Q, and what each model saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from foldopt.experiments.bilinear.outcome import Outcome
from foldopt.experiments.statistics import mean_interval

__all__ = ["draw_pairs", "draw_saved"]

# Wong's palette, which readers with any colour vision can tell apart.
_COLORS = ("#D55E00", "#0072B2")


def draw_pairs(outcome: Outcome, pair: tuple[str, str], title: str, path: Path) -> None:
    """Draw mean test regret by Q, with 95 % intervals over repetitions, and write it as PNG.

    Parameters
    ----------
    outcome
        What was trained.
    pair
        The names of two models.
    title
        Of the figure.
    path
        Where to write.
    """
    count = len(outcome.seeds)
    figure = Figure(figsize=(max(6.0, 0.5 * count + 3), 4.2), layout="constrained")
    axes = figure.subplots()
    place, width = np.arange(count), 0.38
    for side, name, color in zip((-0.5, 0.5), pair, _COLORS, strict=True):
        found = [mean_interval(row) for row in outcome.regret(name)]
        axes.bar(
            place + side * width,
            [interval.mean for interval in found],
            width,
            yerr=None if outcome.config.seeds == 1 else [interval.half for interval in found],
            label=name,
            color=color,
            error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "#444444"},
        )
    ignorant = outcome.untrained("mean costs").mean(1)
    axes.hlines(ignorant, place - 0.42, place + 0.42, color="black", linestyle=":")
    axes.plot([], [], color="black", linestyle=":", label="every cost predicted by its mean")
    axes.set_xticks(place, [str(seed) for seed in outcome.seeds])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="Q, by seed", ylabel="mean test regret", title=title)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=150)


def draw_saved(outcome: Outcome, pairs: Sequence[tuple[str, str]], path: Path) -> None:
    """Draw by how much each model's regret is below its reference's, and write it as PNG.

    Parameters
    ----------
    outcome
        What was trained.
    pairs
        The names of a reference and of a model.
    path
        Where to write.
    """
    figure = Figure(figsize=(7.5, 0.45 * len(pairs) + 1.6), layout="constrained")
    axes = figure.subplots()
    for row, (reference, name) in enumerate(pairs):
        by_problem = outcome.saved(reference, name).mean(1)
        interval = mean_interval(by_problem)
        axes.plot(by_problem, np.full(len(by_problem), row), ".", color="#999999", markersize=5)
        half = 0.0 if len(by_problem) == 1 else interval.half
        axes.errorbar(interval.mean, row, xerr=half, fmt="o", color=_COLORS[1], capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(pairs)), [f"{name}\nagainst {first}" for first, name in pairs])
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()
    axes.set(
        xlabel="regret saved (right of 0: better than its reference)",
        title="Mean over all Q ± 95 %, and each Q (dots)",
    )
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
