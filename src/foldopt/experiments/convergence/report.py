"""What the convergence study says: tables, a verdict on each pitfall, and a file of numbers."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

from rich.table import Table

from foldopt.diagnose import StepSize, Trace
from foldopt.experiments.convergence.measure import Result

__all__ = ["introduction", "tables", "verdict", "write_numbers"]

PACKAGES = ("fold-opt", "torch", "numpy", "qpsolvers", "piqp", "PYPOWER")


def introduction(result: Result) -> str:
    """One paragraph on what was measured."""
    config = result.config
    return (
        f"Smooth top-k selection (eq. 19, corrected): {config.k} of {config.n}, ε = 1, scores on a "
        f"sphere of radius {1 / config.temperature:g}; projected gradient descent with α = "
        f"{config.step_size:g}; loss −log x_y.\n"
        f"ρ(Φ) = {result.radius:.4f} by Arnoldi, {result.analytic_radius:.4f} from the eigenvalues "
        "of the Hessian on Σt = 0."
    )


def tables(result: Result) -> list[Table]:
    """Every table of the study."""
    return [
        _figure3(result),
        _lag(result),
        _step_sizes(result),
        _nested(result),
        _adjoints(result),
        _starts(result),
        _layers(result),
    ]


def _figure3(result: Result) -> Table:
    table = Table("iteration", title="Figure 3: relative L1 errors")
    for name in ("backward from x*", "forward from random", "backward from random", "ρ^k"):
        table.add_column(name, justify="right")
    start, random = result.from_solution, result.from_random
    for k in (1, 5, 10, 20, 40, 80):
        if k < len(start.iterations):
            errors = start.backward.error[k], random.forward[k], random.backward.error[k]
            shown = [f"{float(error):.1e}" for error in errors]
            table.add_row(str(k), *shown, f"{result.radius**k:.1e}")
    return table


def _lag(result: Result) -> Table:
    table = Table("stop at", title="(a) Stopping when the forward pass has converged")
    for name in ("iteration", "forward error", "backward error", "ratio"):
        table.add_column(name, justify="right")
    for row in result.lag:
        ratio = row.backward / row.forward
        errors = f"{row.forward:.1e}", f"{row.backward:.1e}"
        table.add_row(f"{row.tolerance:g}", str(row.iterations), *errors, f"{ratio:.0f}")
    return table


def _step_sizes(result: Result) -> Table:
    table = Table("step size", title="(b) The step size (Appendix D): iterations to 1e-6")
    for name in ("ρ(Φ)", "predicted", "LFPI counted"):
        table.add_column(name, justify="right")
    every = max(1, len(result.step_sizes) // 12)
    for row in result.step_sizes[::every]:
        counts = (_count(row.predicted), _count(row.counted))
        table.add_row(f"{row.step_size:.4f}", f"{row.radius:.3f}", *counts)
    tuned = result.tuned
    table.add_section()
    table.add_row(f"{tuned.step_size:.4f}", f"{tuned.radius:.3f}", "← tune_step_size", "")
    table.add_row(f"{result.analytic_step_size:.4f}", "", "← 2/(μ_min + μ_max)", "")
    table.add_row(f"{result.step_size_bound:.4f}", "", "← bound 2 min x", "")
    return table


def _nested(result: Result) -> Table:
    table = Table("inner loop", title="(c) A projection by ADMM inside the step")
    for name in ("inner iterations", "error of x", "error of gradient", "kB held each"):
        table.add_column(name, justify="right")
    for row in result.nested:
        errors = f"{row.forward:.1e}", f"{row.backward:.1e}"
        table.add_row(row.name, str(row.inner), *errors, f"{1e3 * row.megabytes:.1f}")
    return table


def _adjoints(result: Result) -> Table:
    table = Table("adjoint", title="(d) Products with Φᵀ until the gradient's error is below")
    targets = (1e-3, 1e-6, 1e-9, 1e-12)
    for target in targets:
        table.add_column(f"{target:g}", justify="right")
    for name, curve in result.from_solution.adjoints.items():
        counts = [curve.first_below(target) for target in targets]
        table.add_row(name, *("–" if count is None else str(count) for count in counts))
    return table


def _starts(result: Result) -> Table:
    table = Table("start", title="Question 1: the starting point")
    for name in ("distance", "forward rate", "backward rate", "forward 1e-6", "backward 1e-6"):
        table.add_column(name, justify="right")
    for row in result.starts:
        table.add_row(
            row.name,
            f"{row.distance:.1e}",
            *(f"{rate:.3f}" for rate in (row.forward_rate, row.backward_rate)),
            *(_whole(count) for count in (row.forward_iterations, row.backward_iterations)),
        )
    table.caption = "rates: fitted, over −log ρ(Φ); iterations until the error stays below 1e-6"
    return table


def _layers(result: Result) -> Table:
    table = Table("layer", title="Question 2: ρ(Φ) of every experiment's layer")
    for name in ("state", "ρ(Φ)", "LFPI to 1e-6", "GMRES to 1e-6", "best α", "its ρ(Φ)"):
        table.add_column(name, justify="right")
    table.add_column("Auto takes")
    for layer in result.layers:
        alpha, radius = layer.best or (math.nan, math.nan)
        table.add_row(
            layer.name,
            str(layer.n),
            f"{layer.radius:.4f}" if layer.radius > 1e-9 else "0",
            _count(layer.lfpi),
            _count(layer.gmres),
            f"{alpha:.3g}" if layer.best else "",
            f"{radius:.3f}" if layer.best else "",
            layer.adjoint.removeprefix("Auto: "),
        )
    return table


def verdict(result: Result) -> list[str]:
    """What was seen, in sentences that hold for these numbers."""
    rate = -math.log(result.radius)
    solution = _or_nan(lambda: result.from_solution.fitted_rate()) / rate
    random = _or_nan(lambda: result.from_random.fitted_rate()) / rate
    counted = [row for row in result.step_sizes if math.isfinite(row.counted)]
    fastest = min(counted, key=lambda row: row.counted) if counted else None
    unrolled = [row for row in result.nested if row.name == "unrolled"]
    lines = [
        f"Fitted backward rate over −log ρ(Φ): {solution:.3f} from the solution, {random:.3f} from "
        "a random start (as k ρ^k). It is one rate; the lag is the factor k."
    ]
    if result.lag:
        row = max(result.lag, key=lambda row: row.backward / row.forward)
        lines.append(
            f"Stopping at a forward error of {row.tolerance:g} leaves a gradient that is "
            f"{row.backward / row.forward:.0f} times worse, after {row.iterations} iterations."
        )
    if fastest is not None:
        lines.append(
            f"tune_step_size: α = {result.tuned.step_size:.4f} from {result.tuned.products} "
            f"products; the fastest on the grid {fastest.step_size:.4f}; the formula "
            f"2/(μ_min + μ_max) = {result.analytic_step_size:.4f}."
        )
    if unrolled:
        first, last = unrolled[0], unrolled[-1]
        lines.append(
            f"Unrolled inner loop: gradient error {first.backward:.0e} with {first.inner} and "
            f"{last.backward:.0e} with {last.inner} iterations; each adds "
            f"{1e3 * _slope(unrolled):.1f} kB to every outer one. Folded: nothing."
        )
    return lines


def write_numbers(result: Result, path: Path) -> None:
    """Everything as JSON, with the versions that made it; inf and NaN as null."""
    numbers = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    content = {"python": platform.python_version(), "versions": versions, **_plain(numbers)}
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Trace):
        return _plain(value.as_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, StepSize):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _slope(rows: list[Any]) -> float:
    """Megabytes for each further inner iteration."""
    first, last = rows[0], rows[-1]
    return (last.megabytes - first.megabytes) / max(1, last.inner - first.inner)


def _count(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "never"


def _whole(value: int | None) -> str:
    return "never" if value is None else str(value)


def _or_nan(fit: Any) -> float:
    try:
        return fit()
    except ValueError:
        return math.nan
