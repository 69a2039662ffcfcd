"""The figures: training curves by method, and how far the losses of the first steps are apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foldopt.experiments.multilabel.curves import curves, steps
from foldopt.experiments.multilabel.plan import LOGITS, METHODS, Config
from foldopt.experiments.statistics import mean_interval

__all__ = ["NAMES", "draw_curves", "draw_steps"]

NAMES = {"normalised": "z/‖z‖ (paper)", "sharp": "z/‖z‖, τ = 0.1", "raw": "z as it is"}
# Wong's palette, which readers with any colour vision can tell apart. Curves that coincide are
# still seen: wide below narrow, then dashed, then dots.
STYLES = {
    "exact": {"color": "#BBBBBB", "linewidth": 5.0},
    "pgd": {"color": "#0072B2", "linewidth": 1.8},
    "sqp": {"color": "#D55E00", "linewidth": 1.4, "linestyle": "--"},
    "disturbed": {"color": "#555555", "linewidth": 1.0, "linestyle": ":"},
    "cvxpylayers": {"color": "#009E73", "linestyle": "none", "marker": "o", "markersize": 4.5},
}
_ROWS = ("loss", "train top-1", "test top-1", "test top-5")
_LEAST = 1e-18


def draw_curves(config: Config, results: dict[str, Any], path: Path) -> None:
    """Loss, top-1 and top-5 over the epochs: a column for each kind of logits, bands over seeds.

    Parameters
    ----------
    config
        The settings.
    results
        By job.
    path
        The PNG.
    """
    figure = Figure(figsize=(11, 10.5), layout="constrained")
    axes = figure.subplots(len(_ROWS), len(LOGITS), sharex=True, sharey="row", squeeze=False)
    for row, metric in zip(axes, _ROWS, strict=True):
        for place, logits in zip(row, LOGITS, strict=True):
            _panel(place, config, results, logits, metric)
    for place, logits in zip(axes[0], LOGITS, strict=True):
        place.set_title(NAMES[logits])
    for row, metric in zip(axes, _ROWS, strict=True):
        row[0].set_ylabel("training loss" if metric == "loss" else f"{metric}, share")
    for place in axes[-1]:
        place.set_xlabel("epoch")
    axes[0][0].legend()
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, config: Config, results: dict[str, Any], logits: str, metric: str) -> None:
    for method, name in METHODS.items():
        found = curves(config, results, logits, method, metric)
        if not found.size or method == "disturbed":
            continue
        start = 1 if metric == "loss" else 0
        intervals = [mean_interval(column) for column in found.T[start:]]
        epochs = np.arange(start, start + len(intervals))
        mean = np.array([interval.mean for interval in intervals])
        style: dict[str, Any] = STYLES[method]
        axes.plot(epochs, mean, label=name, **style)
        if method == "exact" and len(found) > 1:
            half = np.array([interval.half for interval in intervals])
            axes.fill_between(epochs, mean - half, mean + half, color=style["color"], alpha=0.35)
    axes.grid(alpha=0.3)


def draw_steps(config: Config, results: dict[str, Any], path: Path) -> None:
    """The distance of the loss from that of the closed form over the first gradient steps.

    Parameters
    ----------
    config
        The settings.
    results
        By job.
    path
        The PNG.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    row = figure.subplots(1, len(LOGITS), sharey=True, squeeze=False)[0]
    for axes, logits in zip(row, LOGITS, strict=True):
        exact = steps(config, results, logits, "exact")
        for method, name in METHODS.items():
            own = steps(config, results, logits, method)
            if method == "exact" or not own.size:
                continue
            count = min(own.shape[1], exact.shape[1])
            apart = np.abs(own[:, :count] - exact[: len(own), :count]).max(0)
            style: dict[str, Any] = dict(STYLES[method])
            if method == "cvxpylayers":
                style |= {"linestyle": "-", "marker": "", "linewidth": 1.4}
            axes.plot(np.arange(1, count + 1), np.maximum(apart, _LEAST), label=name, **style)
        axes.set(yscale="log", xlabel="gradient step", title=NAMES[logits])
        axes.grid(alpha=0.3)
    row[0].set_ylabel("|loss − loss of the closed form|")
    row[-1].legend()
    figure.savefig(path, dpi=130)
