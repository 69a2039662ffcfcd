"""The pictures of the study: the grid's dispatch, and regret by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from foldopt.experiments.acopf.layout import spring_layout
from foldopt.experiments.acopf.plan import METHODS, PREDICTORS, Config, plan
from foldopt.nn._acopf.derivatives import Derivatives
from foldopt.nn._acopf.flow import flows
from foldopt.nn._acopf.network import Network
from foldopt.nn.acopf import Grid

__all__ = ["draw_dispatch", "draw_regret"]

# Of Wong's palette, which readers with any colour vision can tell apart.
_COLORS = {"folded": "#0072B2", "tuned": "#CC79A7", "two-stage": "#D55E00"}
_GENERATOR, _LOAD = "#009E73", "#999999"
_TITLES = {"before": "before training", "after": "after training", "best": "with hindsight"}


def draw_dispatch(grid: Grid, shown: dict[str, Any], path: Path) -> None:
    """A test sample's dispatch before and after training, and the best one.

    Parameters
    ----------
    grid
        The grid.
    shown
        What a training gave under ``"shown"``.
    path
        The PNG to write.
    """
    figure = Figure(figsize=(13.5, 5.2), layout="constrained")
    panels = figure.subplots(1, 3)
    places = spring_layout(len(grid.buses), grid.ends)
    carried = {name: _carried(grid, shown[name]) for name in _TITLES}
    most = max(np.abs(part).max() for part in carried.values()) or 1.0
    lines: Any = None
    for axes, (name, title) in zip(panels, _TITLES.items(), strict=True):
        lines = _branches(axes, places[grid.ends], np.abs(carried[name]), most)
        _buses(axes, grid, places, np.array(shown["pd"]), np.array(shown[name]["pg"]))
        excess = 100 * (shown[name]["cost"] / shown["best"]["cost"] - 1)
        of = f"{excess:.2f} % above the least cost" if name != "best" else "the least cost"
        axes.set_title(f"{title}: {of}")
        axes.set_axis_off()
        axes.margins(0.12)
    figure.colorbar(lines, ax=panels, label="power on a branch, MW", shrink=0.8, aspect=30)
    figure.savefig(path, dpi=130)


def _carried(grid: Grid, found: dict[str, Any]) -> np.ndarray:
    """Active power into the first end of each branch, MW."""
    network = Network(grid)
    z = np.concatenate([found["va"], found["vm"], found["pg"], found["qg"]])
    return grid.base * flows(Derivatives(network).ends(z), network.flows)[0]


def _branches(axes: Axes, segments: np.ndarray, carried: np.ndarray, most: float) -> Any:
    lines = LineCollection(
        segments.transpose(1, 0, 2).tolist(),
        array=carried,
        cmap="viridis_r",
        clim=(0, most),
        linewidths=(0.8 + 5 * carried / most).tolist(),
        zorder=1,
    )
    axes.add_collection(lines)
    return lines


def _buses(axes: Axes, grid: Grid, places: np.ndarray, pd: np.ndarray, pg: np.ndarray) -> None:
    room = min(1.0, (40 / len(grid.buses)) ** 0.5)
    unit = 900 * room / max(float(np.abs(pd).max()), float(np.abs(pg).max()), 1e-9)
    axes.scatter(*places.T, s=8 + unit * np.abs(pd), color=_LOAD, edgecolor="white", zorder=2)
    at = places[grid.generators]
    axes.scatter(*at.T, s=unit * np.abs(pg), marker="s", color=_GENERATOR, alpha=0.75, zorder=3)
    # Generators at one bus would have their numbers in one place: theirs are added up.
    for bus in np.unique(grid.generators) if len(grid.generators) <= 20 else ():
        made = pg[grid.generators == bus].sum()
        axes.annotate(
            f"{made:.0f}", tuple(places[bus]), xytext=(13, 7), textcoords="offset points",
            ha="left", fontsize=9, color="black", zorder=4,
        )  # fmt: skip


def draw_regret(config: Config, results: dict[str, Any], path: Path) -> None:
    """Validation regret by epoch: means over seeds, and their range.

    Parameters
    ----------
    config, results
        The settings and the results by key.
    path
        The PNG to write.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(PREDICTORS), sharey=True)
    for axes, predictor in zip(panels, PREDICTORS, strict=True):
        for method in METHODS:
            keys = [
                spec.key
                for spec in plan(config)
                if (spec.predictor, spec.method) == (predictor, method)
            ]
            curves = np.array([results[key]["validation"] for key in keys], dtype=float)
            epochs, color = np.arange(1, curves.shape[1] + 1), _COLORS[method]
            axes.fill_between(epochs, curves.min(0), curves.max(0), color=color, alpha=0.15, lw=0)
            axes.plot(epochs, curves.mean(0), color=color, marker=".", label=method)
        axes.set(title=f"{predictor} predictor", xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("regret, % of least cost")
    panels[-1].legend()
    figure.savefig(path, dpi=130)
