"""The pictures of the portfolio study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foldopt.experiments.portfolio.plan import Config
from foldopt.experiments.portfolio.tables import ENGINE_TITLES, METHODS, Trainings

__all__ = ["draw_accuracy", "draw_regret"]

# Wong's palette, which readers with any colour vision can tell apart.
_COLORS = ("#D55E00", "#56B4E9", "#0072B2", "#CC79A7", "#009E73")


def draw_regret(config: Config, trained: Trainings, path: Path) -> None:
    """Regret by epoch, a panel for each task: means over seeds, and their range.

    Parameters
    ----------
    config
        The settings.
    trained
        See :func:`~foldopt.experiments.portfolio.tables.gathered`.
    path
        The PNG to write.
    """
    tasks = list(dict.fromkeys(task for task, _ in trained))
    columns = min(len(tasks), max(3, len(config.degrees)), 4)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.2 * columns + 0.6, 2.8 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(tasks) :]:
        axes.set_axis_off()
    handles: dict[str, Any] = {}
    for axes, task in zip(panels.flat, tasks, strict=False):
        for color, (method, name) in zip(_COLORS, METHODS.items(), strict=True):
            found = trained.get((task, method))
            if found:
                handles[name] = _curve(axes, [one["validation"] for one in found.values()], color)
        axes.set(title=task.title, xlabel="epoch")
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
    for axes in panels[:, 0]:
        axes.set_ylabel("regret, % of best return")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles) or 1
    )
    figure.savefig(path, dpi=150)


def _curve(axes: Axes, curves: list[list[float]], color: str) -> Any:
    values = np.array(curves, dtype=float)
    epochs = np.arange(1, values.shape[1] + 1)
    axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    return axes.plot(epochs, values.mean(0), color=color, marker=".")[0]


def draw_accuracy(accuracy: dict[str, Any], path: Path) -> None:
    """The worst error of each solver, a row of panels for each τ: in x, and in the gradient.

    Parameters
    ----------
    accuracy
        The results of the accuracy jobs, by title.
    path
        The PNG to write.
    """
    figure = Figure(figsize=(10, 3.4 * max(1, len(accuracy))), layout="constrained")
    panels = figure.subplots(max(1, len(accuracy)), 2, squeeze=False, sharey=True)
    for row, (title, found) in zip(panels, accuracy.items(), strict=True):
        solvers = list(dict.fromkeys(one["solver"] for one in found["rows"]))
        for axes, quantity in zip(row, ("worst", "gradient"), strict=True):
            for offset, scale, color in ((-0.2, 1.0, _COLORS[0]), (0.2, 1e6, _COLORS[2])):
                errors = {
                    one["solver"]: one[quantity] for one in found["rows"] if one["scale"] == scale
                }
                # Below rounding there is nothing to see; a solver without an answer has no bar.
                heights = [max(errors.get(name) or 1e-17, 1e-17) for name in solvers]
                label = "as it is" if scale == 1 else "V, γ × 10⁶"
                axes.barh(np.arange(len(solvers)) + offset, heights, 0.38, color=color, label=label)
            axes.set_xscale("log")
            axes.set_xlim(1e-17, 30)
            axes.set_yticks(range(len(solvers)), [ENGINE_TITLES.get(s, s) for s in solvers])
            what = "worst error in x" if quantity == "worst" else "relative error of the gradient"
            axes.set(title=f"{title}: {what}")
            axes.grid(axis="x", alpha=0.3)
        row[0].invert_yaxis()
        row[1].legend(loc="lower right")
    figure.savefig(path, dpi=150)
