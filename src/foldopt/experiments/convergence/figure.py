"""The figures of the convergence study, each with the theory's curve over the measured one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foldopt.experiments.convergence.measure import Result

__all__ = ["FIGURES", "write_figures"]

# Wong's palette, which readers with any colour vision can tell apart.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
FLOOR = 1e-16


def write_figures(result: Result, folder: Path) -> list[Path]:
    """Write every figure as PNG, and return the paths."""
    written = []
    for name, draw in FIGURES.items():
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        draw(figure, result)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=130)
        written.append(path)
    return written


def _errors(axes: Axes, k: Any, error: Any, label: str, color: str, **rest: Any) -> None:
    shown = np.maximum(np.asarray(error, dtype=float), FLOOR)
    axes.plot(k, shown, label=label, color=color, **rest)


def _log_axes(axes: Axes, title: str, x: str) -> None:
    axes.set(yscale="log", xlabel=x, ylabel="relative L1 error", title=title)
    axes.set_ylim(FLOOR, 30)
    axes.grid(alpha=0.3)
    axes.legend()


def _figure3(figure: Figure, result: Result) -> None:
    left, right = figure.subplots(1, 2)
    start, rho = result.from_solution, result.radius
    k = start.iterations.numpy()
    _errors(left, k, start.forward.numpy(), "forward", BLUE)
    _errors(left, k, start.backward.error.numpy(), "backward", ORANGE)
    anchor = _anchor(start.backward.error.numpy(), k, rho, 0)
    left.plot(k, anchor * rho**k, "--", color=GREY, label=f"theory: ρ^k, ρ = {rho:.3f}")
    _log_axes(left, "Unfolded from the solution", "iteration k")
    start = result.from_random
    _errors(right, k, start.forward.numpy(), "forward", BLUE)
    _errors(right, k, start.backward.error.numpy(), "backward", ORANGE)
    for error, power, label in (
        (start.forward.numpy(), 0, "theory: ρ^k"),
        (start.backward.error.numpy(), 1, "theory: k ρ^k"),
    ):
        anchor = _anchor(error, k, rho, power)
        style = "--" if power else ":"
        right.plot(k[1:], anchor * k[1:] ** power * rho ** k[1:], style, color=GREY, label=label)
    _log_axes(right, "Unrolled from a random start", "iteration k")


def _anchor(error: np.ndarray, k: np.ndarray, rho: float, power: int) -> float:
    """The factor that lays kᵖ ρ^k on what is measured late, where the theory speaks."""
    good = (error > 1e-12) & (error < 1e-6) & (k > 0)
    if not good.any():
        return 1.0
    logs = np.log(error[good]) - power * np.log(k[good]) - k[good] * math.log(rho)
    return float(np.exp(np.median(logs)))


def _step_sizes(figure: Figure, result: Result) -> None:
    left, right = figure.subplots(1, 2)
    rows = result.step_sizes
    alpha = np.array([row.step_size for row in rows])
    left.plot(alpha, [row.predicted for row in rows], "--", color=GREY, label="theory: from ρ(Φ)")
    left.plot(alpha, [row.counted for row in rows], "o", ms=4, color=ORANGE, label="LFPI, counted")
    left.axvline(result.tuned.step_size, color=GREEN, label="tune_step_size")
    left.axvline(result.step_size_bound, color=PINK, ls=":", label="bound 2 min x")
    left.set(xlabel="step size α", ylabel="iterations to 1e-6", yscale="log")
    left.set_title("The cost of the backward pass")
    twin = left.twinx()
    twin.plot(alpha, [row.radius for row in rows], color=BLUE, alpha=0.6)
    twin.set_ylabel("ρ(Φ)", color=BLUE)
    left.legend(loc="lower right", fontsize="small")
    for index, (name, values) in enumerate(result.exploded.items()):
        color = BLUE if name.endswith("forward") else ORANGE
        style = "-" if index < 2 else "--"
        right.plot(np.maximum(values, FLOOR), style, color=color, label=name)
    right.set(yscale="log", xlabel="iteration k", ylabel="relative L1 error")
    right.set_title("A step size too large: explosion, and a stall")
    right.grid(alpha=0.3)
    right.set_ylim(top=1e24)  # room for the legend
    right.legend(fontsize="small")


def _nested(figure: Figure, result: Result) -> None:
    left, right = figure.subplots(1, 2)
    for name, color in (("unrolled", ORANGE), ("folded", BLUE)):
        rows = [row for row in result.nested if row.name == name]
        inner = [row.inner for row in rows]
        _errors(left, inner, [row.backward for row in rows], name, color, marker="o")
        right.plot(inner, [1e3 * row.megabytes for row in rows], "o-", color=color, label=name)
    _log_axes(left, "Error floor of the gradient", "inner iterations K")
    left.set_xscale("log")
    right.set(
        xlabel="inner iterations K", ylabel="kB held for each outer iteration", xscale="log",
        title="Memory",
    )  # fmt: skip
    right.set_ylim(bottom=0)
    right.grid(alpha=0.3)
    right.legend()


def _adjoints(figure: Figure, result: Result) -> None:
    axes = figure.subplots(1, 1)
    curves = result.from_solution.adjoints
    for (name, curve), color in zip(curves.items(), (ORANGE, BLUE, GREEN, PINK), strict=False):
        _errors(axes, curve.spent.numpy(), curve.error.numpy(), name, color, marker=".")
    k = curves["LFPI"].spent.numpy()
    anchor = _anchor(curves["LFPI"].error.numpy(), k, result.radius, 0)
    axes.plot(k, anchor * result.radius**k, "--", color=GREY, label="theory: ρ^k")
    _log_axes(axes, "The same adjoint system, by linear solver", "products with Φᵀ")
    axes.set_xlim(0, 60)


def _starts(figure: Figure, result: Result) -> None:
    left, right = figure.subplots(1, 2)
    rows = [row for row in result.starts if row.distance > 0]
    distance = [row.distance for row in rows]
    left.axhline(1.0, color=GREY, ls="--", label="theory: −log ρ(Φ)")
    left.plot(distance, [row.backward_rate for row in rows], "o", color=ORANGE, label="backward")
    left.plot(distance, [row.forward_rate for row in rows], "x", color=BLUE, label="forward")
    left.set(xscale="log", xlabel="relative distance of the start", ylabel="fitted rate / theory")
    left.set(ylim=(0, 1.5), title="The rate does not depend on the start")
    left.legend()
    solution = next(row for row in result.starts if row.distance == 0)
    counts = [row.backward_iterations for row in rows]
    right.plot(distance, [math.nan if c is None else c for c in counts], "o", color=ORANGE)
    if solution.backward_iterations is not None:
        right.axhline(solution.backward_iterations, color=GREY, ls="--", label="from the solution")
        right.legend()
    right.set(xscale="log", xlabel="relative distance of the start")
    right.set(ylabel="iterations to a backward error of 1e-6", title="The delay does")


FIGURES: dict[str, Callable[[Figure, Result], None]] = {
    "figure3": _figure3,
    "step_sizes": _step_sizes,
    "nested": _nested,
    "adjoints": _adjoints,
    "starts": _starts,
}
