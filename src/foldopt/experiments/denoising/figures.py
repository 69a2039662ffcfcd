"""The pictures of the denoising study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foldopt.experiments.statistics import mean_interval

__all__ = ["Curve", "draw_curves", "draw_photograph", "draw_signals"]

# Wong's palette, which readers with any colour vision can tell apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

Curve = tuple[str, Sequence[Sequence[float]]]
"""A label, and for each seed the errors before training and after each epoch."""


def draw_curves(panels: Sequence[tuple[str, Sequence[Curve]]], path: Path) -> None:
    """One panel for each noise and λ: the mean error over seeds, with 95 % intervals.

    Parameters
    ----------
    panels
        Titles and curves.
    path
        The PNG to write.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.1 * columns + 0.6, 2.7 * rows + 0.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (title, curves) in zip(grid.flat, panels, strict=False):
        axes.set_axis_on()
        _draw_panel(axes, title, curves)
    for axes in grid[:, 0]:
        axes.set_ylabel("validation MSE")
    figure.savefig(path, dpi=150)


def _draw_panel(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    for color, (label, seeds) in zip(_COLORS, curves, strict=False):
        found = [mean_interval(values) for values in zip(*seeds, strict=True)]
        mean = np.array([interval.mean for interval in found])
        half = np.nan_to_num(np.array([interval.half for interval in found]))
        epochs = np.arange(len(mean))
        dashed = "--" if label.startswith("qpth") else "-"
        axes.plot(epochs, mean, dashed, color=color, label=label, marker=".")
        axes.fill_between(epochs, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
    axes.set(title=title, xlabel="epoch")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def draw_signals(cases: Sequence[tuple[str, dict[str, Any]]], path: Path) -> None:
    """Some test signals: clean, noisy, and denoised with D before and after training.

    Parameters
    ----------
    cases
        A title, and the arrays ``clean``, ``noisy``, ``before`` and ``after``, ``(count, n)``.
    path
        The PNG to write.
    """
    count = min(2, *(len(arrays["clean"]) for _, arrays in cases))
    figure = Figure(figsize=(6.2 * count, 2.4 * len(cases) + 0.4), layout="constrained")
    grid = figure.subplots(len(cases), count, squeeze=False)
    for row, (title, arrays) in zip(grid, cases, strict=True):
        for index, axes in enumerate(row):
            axes.plot(arrays["noisy"][index], ".", color="#bbbbbb", markersize=4, label="noisy")
            axes.plot(arrays["clean"][index], color="black", linewidth=1, label="clean")
            axes.plot(arrays["before"][index], color=_COLORS[1], label="D fixed")
            axes.plot(arrays["after"][index], color=_COLORS[0], label="D learned")
            axes.set_title(title, fontsize=9)
    grid[0, 0].legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=150)


def draw_photograph(arrays: dict[str, Any], titles: dict[str, str], path: Path) -> None:
    """The test part of the photograph, and the learned kernels.

    Parameters
    ----------
    arrays
        Pictures by name, and ``kernels``, ``(C, 3, 3)``.
    titles
        Of the pictures, by name, in the order in which they are shown.
    path
        The PNG to write.
    """
    kernels = arrays["kernels"]
    columns = max(len(titles), len(kernels))
    figure = Figure(figsize=(3 * columns, 4.8), layout="constrained")
    above, below = figure.subplots(2, columns, height_ratios=(3, 1.5), squeeze=False)
    for axes in (*above, *below):
        axes.set_axis_off()
    for axes, (name, title) in zip(above, titles.items(), strict=False):
        axes.imshow(arrays[name], cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=9)
    for axes, kernel in zip(below, kernels, strict=False):
        axes.imshow(kernel, cmap="RdBu", vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(kernel):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7)
    below[0].set_title("learned kernels", fontsize=9)
    figure.savefig(path, dpi=150)
