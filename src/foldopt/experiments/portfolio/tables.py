"""The tables of the portfolio study."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from foldopt.experiments.frame import Table
from foldopt.experiments.portfolio.plan import (
    CONES,
    FOLDED,
    SCALED_CONES,
    SPO,
    TWO_STAGE,
    Config,
    Task,
    plan,
)
from foldopt.experiments.statistics import mean_interval

__all__ = [
    "Trainings",
    "engine_findings",
    "engine_table",
    "engines_of",
    "forward_errors",
    "gathered",
    "own_decisions",
    "paired",
    "real",
    "regrets",
    "title_of",
]

Trainings = dict[tuple[Task, str], dict[int, dict[str, Any]]]
"""The result of each training by its task and method, then by its seed."""

METHODS = {
    TWO_STAGE: "two-stage",
    SPO: "SPO+",
    FOLDED: "f-SQP",
    CONES: "cvxpylayers",
    SCALED_CONES: "cvxpylayers, scaled",
}


def title_of(method: str) -> str:
    """A method's name for readers."""
    return METHODS[method]


def gathered(config: Config, results: dict[str, Any]) -> Trainings:
    """The trainings that have been done."""
    found: Trainings = {}
    for spec in plan(config):
        if spec.kind == "train" and spec.key in results:
            found.setdefault((spec.task, spec.method), {})[spec.seed] = results[spec.key]
    return found


def engines_of(config: Config, results: dict[str, Any]) -> dict[str, Any]:
    """The short trainings around each engine, by task and engine."""
    return {
        f"{spec.task.title}, {spec.method}": results[spec.key]
        for spec in plan(config)
        if spec.kind == "engine" and spec.key in results
    }


def paired(trained: Trainings, method: str, other: str) -> list[float]:
    """The regret of one method less that of another, wherever both have been trained."""
    return [
        result["regret"] - trained[task, other][seed]["regret"]
        for (task, kind), found in trained.items()
        if kind == method and (task, other) in trained
        for seed, result in found.items()
        if seed in trained[task, other]
    ]


def regrets(trained: Trainings) -> Table:
    """Test regret: a row for each task, a column for each method."""
    methods = [method for method in METHODS if any(kind == method for _, kind in trained)]
    rows = []
    for task in dict.fromkeys(task for task, _ in trained):
        cells = [task.title]
        for method in methods:
            found = trained.get((task, method))
            values = [one["regret"] for one in found.values()] if found else []
            cells.append(mean_interval(values).text(2) if values else "–")
        rows.append(tuple(cells))
    return Table(
        "Test regret, in percent of the best return (± 95 % over seeds)",
        ("data", *(METHODS[method] for method in methods)),
        tuple(rows),
        "Of the predictions; all portfolios are solved exactly. “Scaled”: V and γ × 10⁶, the same "
        "program. With few seeds, intervals are wide: each seed is a new B, L and network.",
    )


def own_decisions(trained: Trainings) -> Table:
    """What cvxpylayers would have decided itself."""
    rows = []
    for (task, method), found in trained.items():
        own = [one["own"] for one in found.values() if "own" in one]
        if own:
            rows.append(
                (
                    f"{task.title}, {METHODS[method]}",
                    f"{np.mean([one['exact'] for one in own]):.2f}",
                    f"{np.mean([one['regret'] for one in own]):.2f}",
                    f"{max(one['risk'] for one in own):.3g}",
                )
            )
    return Table(
        "The trained models of cvxpylayers, by two solvers",
        ("training", "regret, exact portfolios", "regret, its own portfolios", "its risk / γ"),
        tuple(rows),
        "A negative regret is no merit: the portfolio takes a risk that is not allowed. The worst "
        "of the first 256 test decisions, means over seeds for the regret.",
    )


def forward_errors(accuracy: dict[str, Any]) -> list[Table]:
    """How exactly each solver solves (20): a table for each τ."""
    return [
        Table(
            f"Forward error of each solver, {title}",
            ("solver", "scale", "‖x − x*‖∞ median", "worst", "worst risk / γ", "least weight",
             "gradient error", "ms a program", "failed"),
            tuple(_accuracy_row(row) for row in found["rows"]),
            f"{found['programs']} programs at the true returns; γ is {found['risk']:.1e}, the "
            f"largest entry of V {found['V']:.1e}. Scale: what both are multiplied by. The exact "
            "answer meets the optimality conditions to "
            f"{found['reference']:.0e}. Gradient: of a random cotangent, relative, over the batch. "
            "Failed: by the solver's own word. QCQP, on Clarabel, brings constraints to size one "
            "itself.",
        )
        for title, found in accuracy.items()
    ]  # fmt: skip


def _accuracy_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        ENGINE_TITLES.get(str(row["solver"]), str(row["solver"])),
        "1" if row["scale"] == 1 else f"{row['scale']:.0e}",
        _number(row["median"]),
        _number(row["worst"]),
        "–" if row["risk"] is None else f"{row['risk']:.6g}",
        _number(row["least"]),
        _number(row["gradient"]),
        f"{1e3 * row['seconds']:.2f}",
        str(row["failed"]),
    )


ENGINE_TITLES = {
    "batched": "batched interior points",
    "clarabel": "QCQP on Clarabel, 1e-10",
    "sqp": "own SQP, batched",
    "gurobi": "Gurobi, 1e-9",
}


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1e}"


def engine_table(engines: dict[str, Any]) -> Table:
    """The short trainings by engine, against the one around the batched solver."""
    rows = []
    for name, found in engines.items():
        if "missing" in found:
            rows.append((name, "not installed", "–", "–"))
            continue
        first = engines[f"{name.rsplit(', ', 1)[0]}, batched"]
        distance = np.abs(np.array(found["decisions"]) - np.array(first["decisions"])).max()
        rows.append(
            (
                name,
                f"{found['regret']:.4f}",
                f"{distance:.1e}",
                f"{1e3 * found['seconds'] / found['steps']:.0f}",
            )
        )
    return Table(
        "f-SQP around each engine: a short training from the same weights",
        ("engine", "test regret, %", "largest difference of a weight of x", "ms a step"),
        tuple(rows),
        "The difference is that of the decisions after training to those of the training around "
        "the batched solver. Time: forward, backward and validation.",
    )


def engine_findings(accuracy: dict[str, Any], engines: dict[str, Any]) -> list[str]:
    """What the engines say of the paper's words on Gurobi, and of the scales."""
    lines = []
    for title, found in accuracy.items():
        rows = {(row["solver"], row["scale"]): row for row in found["rows"]}
        gurobi, cones = (
            rows.get((name, 1e6)) for name in ("gurobi", "cvxpylayers, SCS, eps = 1e-4 (default)")
        )
        if gurobi and cones:
            sqp = rows[("sqp", 1.0)]
            ratio = cones["seconds"] / gurobi["seconds"]
            lines.append(
                f"{title}: Gurobi's weights are within {gurobi['worst']:.0e} of the exact ones, "
                f"own SQP's within {sqp['worst']:.0e}: not agreement to machine precision, though "
                "Gurobi's tolerances are 1e-9; the optimum is flat. cvxpylayers takes "
                f"{ratio:.2f} times Gurobi's time for a program, both in the scale 10⁶."
            )
        raw, norm = (
            rows.get((name, 1.0))
            for name in ("cvxpylayers, Clarabel", "cvxpylayers, SCS, ‖Lᵀx‖ ≤ √γ")
        )
        if raw and norm and raw["worst"] is not None and norm["worst"] is not None:
            lines.append(
                f"{title}, unscaled: cvxpylayers with Clarabel in place of SCS errs by "
                f"{raw['worst']:.0e}, and SCS with the risk written as a norm by "
                f"{norm['worst']:.0e}."
            )
        slow = rows.get(("sqp", 1e6))
        if slow and slow["failed"]:
            lines.append(
                f"{title}: scaled by 10⁶, γ is {1e6 * found['risk']:.0f}, and our own SQP fails on "
                f"{slow['failed']} of {found['programs']} programs: it wants constraints of size "
                "one as well."
            )
    return lines


def real(config: Config, results: dict[str, Any], trained: Trainings) -> list[Table]:
    """The S&P 500, with what needs no training."""
    spec = next((spec for spec in plan(config) if spec.kind == "benchmarks"), None)
    if spec is None or spec.key not in results:
        return []
    plain = results[spec.key]
    rows = []
    best = math.nan
    for (task, method), found in trained.items():
        if task != spec.task:
            continue
        several = list(found.values())
        best = several[0]["best_return"]
        rows.append(
            (
                METHODS[method],
                mean_interval([one["regret"] for one in several]).text(2),
                mean_interval([one["return"] for one in several]).text(3),
                f"{100 * float(np.mean([one['risk_binds'] for one in several])):.0f} %",
            )
        )
    rows += [
        (name, f"{one['regret']:.2f}", f"{one['return']:.3f}", "–")
        for name, one in plain["portfolios"].items()
    ]
    train, choose, test = plain["days"]
    return [
        Table(
            "S&P 500: test regret and return",
            ("portfolio", "regret, % of the best return", "return a week, %", "risk binds on"),
            tuple(rows),
            f"{train} weeks to train on, {choose} to choose the epoch by, {test} for the test. "
            f"With hindsight, {best:.2f} % a week could be had. Before costs.",
        )
    ]
