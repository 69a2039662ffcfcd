"""The measurements as plain numbers, and back: what a job writes down, and a report reads."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from foldopt.diagnose import StepSize, Trace
from foldopt.diagnose.trace import Curve
from foldopt.experiments.convergence.layers import Layer
from foldopt.experiments.convergence.measure import LagRow, Result, StepSizeRow
from foldopt.experiments.convergence.nested import NestedRow
from foldopt.experiments.convergence.plan import Config
from foldopt.experiments.convergence.starts import StartRow

__all__ = ["as_numbers", "restored"]

# What a number that JSON does not have stands for, by the kind of row: never reached, or unknown.
_MISSING = {
    LagRow: math.nan,
    StepSizeRow: math.inf,
    NestedRow: math.nan,
    StartRow: math.nan,
    Layer: math.inf,
}
_ROWS = {
    "lag": LagRow, "step_sizes": StepSizeRow, "nested": NestedRow, "starts": StartRow,
    "layers": Layer,
}  # fmt: skip
_NUMBERS = ("radius", "analytic_radius", "step_size_bound", "analytic_step_size", "seconds")


def as_numbers(result: Result) -> dict[str, Any]:
    """All measurements in lists and dicts.

    Parameters
    ----------
    result
        What was measured.

    Returns
    -------
    dict
        By the names of its fields, without the config.
    """
    found: dict[str, Any] = {name: getattr(result, name) for name in _NUMBERS}
    found |= {name: [dataclasses.asdict(row) for row in getattr(result, name)] for name in _ROWS}
    return {
        **found,
        "from_solution": result.from_solution.as_dict(),
        "from_random": result.from_random.as_dict(),
        "tuned": result.tuned._asdict(),
        "exploded": result.exploded,
    }


def restored(config: Config, numbers: dict[str, Any]) -> Result:
    """The measurements again, from what JSON has kept of them.

    Parameters
    ----------
    config
        With which they were made.
    numbers
        What :func:`as_numbers` gave, with null for inf and NaN.

    Returns
    -------
    Result
        The same.
    """
    known: dict[str, Any] = {name: numbers[name] for name in _NUMBERS}
    known |= {name: [_row(kind, row) for row in numbers[name]] for name, kind in _ROWS.items()}
    return Result(
        config=config,
        **known,
        from_solution=_trace(numbers["from_solution"]),
        from_random=_trace(numbers["from_random"]),
        tuned=StepSize(**numbers["tuned"]),
        exploded={
            name: [math.inf if value is None else value for value in values]
            for name, values in numbers["exploded"].items()
        },
    )


def _row(kind: Any, values: dict[str, Any]) -> Any:
    filled = {}
    for field in dataclasses.fields(kind):
        value = values[field.name]
        if value is None and field.type == "float":
            value = _MISSING[kind]
        filled[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**filled)


def _trace(values: dict[str, Any]) -> Trace:
    eps = torch.finfo(torch.float64).eps

    def errors(numbers: list[float | None]) -> torch.Tensor:
        known = [math.nan if number is None else number for number in numbers]
        return torch.tensor(known, dtype=torch.float64)

    iterations = torch.tensor(values["iterations"])
    return Trace(
        values["start"],
        iterations,
        errors(values["forward"]),
        Curve(iterations, errors(values["backward"]), eps),
        {
            name: Curve(torch.tensor(curve["spent"]), errors(curve["error"]), eps)
            for name, curve in values["adjoints"].items()
        },
    )
