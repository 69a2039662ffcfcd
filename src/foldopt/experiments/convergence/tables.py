"""The tables of the convergence study."""

from __future__ import annotations

import math

from foldopt.experiments.convergence.measure import Result
from foldopt.experiments.frame import Table

__all__ = ["tables"]


def tables(result: Result) -> tuple[Table, ...]:
    """Every table of the measurements.

    Parameters
    ----------
    result
        The measurements.

    Returns
    -------
    tuple of Table
        Figure 3, the four pitfalls, and the two open questions.
    """
    return (
        _figure3(result),
        _lag(result),
        _step_sizes(result),
        _nested(result),
        _adjoints(result),
        _starts(result),
        _layers(result),
    )


def _figure3(result: Result) -> Table:
    start, random = result.from_solution, result.from_random
    rows = []
    for k in (1, 5, 10, 20, 40, 80):
        if k < len(start.iterations):
            errors = start.backward.error[k], random.forward[k], random.backward.error[k]
            shown = [f"{float(error):.1e}" for error in errors]
            rows.append((str(k), *shown, f"{result.radius**k:.1e}"))
    names = ("backward from x*", "forward from random", "backward from random", "ρ^k")
    return Table("Figure 3: relative L1 errors", ("iteration", *names), tuple(rows))


def _lag(result: Result) -> Table:
    rows = tuple(
        (
            f"{row.tolerance:g}",
            str(row.iterations),
            f"{row.forward:.1e}",
            f"{row.backward:.1e}",
            f"{row.backward / row.forward:.0f}",
        )
        for row in result.lag
    )
    return Table(
        "(a) Stopping when the forward pass has converged",
        ("stop at", "iteration", "forward error", "backward error", "ratio"),
        rows,
    )


def _step_sizes(result: Result) -> Table:
    every = max(1, len(result.step_sizes) // 12)
    rows = [
        (f"{row.step_size:.4f}", f"{row.radius:.3f}", _count(row.predicted), _count(row.counted))
        for row in result.step_sizes[::every]
    ]
    tuned = result.tuned
    rows += [
        (f"{tuned.step_size:.4f}", f"{tuned.radius:.3f}", "← tune_step_size", ""),
        (f"{result.analytic_step_size:.4f}", "", "← 2/(μ_min + μ_max)", ""),
        (f"{result.step_size_bound:.4f}", "", "← bound 2 min x", ""),
    ]
    return Table(
        "(b) The step size (Appendix D): iterations to 1e-6",
        ("step size", "ρ(Φ)", "predicted", "LFPI counted"),
        tuple(rows),
    )


def _nested(result: Result) -> Table:
    rows = tuple(
        (
            row.name,
            str(row.inner),
            f"{row.forward:.1e}",
            f"{row.backward:.1e}",
            f"{1e3 * row.megabytes:.1f}",
        )
        for row in result.nested
    )
    return Table(
        "(c) A projection by ADMM inside the step",
        ("inner loop", "inner iterations", "error of x", "error of gradient", "kB held each"),
        rows,
    )


def _adjoints(result: Result) -> Table:
    targets = (1e-3, 1e-6, 1e-9, 1e-12)
    rows = []
    for name, curve in result.from_solution.adjoints.items():
        counts = [curve.first_below(target) for target in targets]
        rows.append((name, *("–" if count is None else str(count) for count in counts)))
    return Table(
        "(d) Products with Φᵀ until the gradient's error is below",
        ("adjoint", *(f"{target:g}" for target in targets)),
        tuple(rows),
    )


def _starts(result: Result) -> Table:
    rows = tuple(
        (
            row.name,
            f"{row.distance:.1e}",
            *(f"{rate:.3f}" for rate in (row.forward_rate, row.backward_rate)),
            *(_whole(count) for count in (row.forward_iterations, row.backward_iterations)),
        )
        for row in result.starts
    )
    return Table(
        "Question 1: the starting point",
        ("start", "distance", "forward rate", "backward rate", "forward 1e-6", "backward 1e-6"),
        rows,
        "Rates: fitted, over −log ρ(Φ). Iterations until the error stays below 1e-6.",
    )


def _layers(result: Result) -> Table:
    rows = []
    for layer in result.layers:
        alpha, radius = layer.best or (math.nan, math.nan)
        rows.append(
            (
                layer.name,
                str(layer.n),
                f"{layer.radius:.4f}" if layer.radius > 1e-9 else "0",
                _count(layer.lfpi),
                _count(layer.gmres),
                f"{alpha:.3g}" if layer.best else "",
                f"{radius:.3f}" if layer.best else "",
                layer.adjoint.removeprefix("Auto: "),
            )
        )
    names = ("state", "ρ(Φ)", "LFPI to 1e-6", "GMRES to 1e-6", "best α", "its ρ(Φ)", "Auto takes")
    return Table("Question 2: ρ(Φ) of every experiment's layer", ("layer", *names), tuple(rows))


def _count(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "never"


def _whole(value: int | None) -> str:
    return "never" if value is None else str(value)
