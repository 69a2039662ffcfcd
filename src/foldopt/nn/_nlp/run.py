"""One call of the layer: where it begins, who solves it, and what comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from foldopt._tree import flatten
from foldopt.nn._nlp.engines import Found, Limits, by_callable, by_ipopt, by_sqp
from foldopt.nn._nlp.forward import (
    Settled,
    best_of,
    chosen,
    pattern_of,
    sample_of,
    settle,
)
from foldopt.nn._nlp.model import Model, Point, repeated, sound_params
from foldopt.nn._nlp.starts import Begin
from foldopt.status import Status

__all__ = ["Engine", "answer_of"]

# From so many variables on, "auto" takes sparse matrices.
_LARGE = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """Who solves the program, and what is kept from call to call."""

    solver: Literal["ipopt", "sqp"] | Callable[..., Any]
    limits: Limits
    patterns: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.solver) and self.solver not in ("ipopt", "sqp"):
            raise ValueError(
                "nn.NLP: solver must be 'ipopt', 'sqp' or a function solver(*params), got "
                f"{self.solver!r}"
            )
        if self.limits.sparse not in (True, False, "auto"):
            raise ValueError(
                f"nn.NLP: sparse must be True, False or 'auto', got {self.limits.sparse!r}"
            )
        if self.limits.options and self.solver != "ipopt":
            raise ValueError("nn.NLP: options are Ipopt's, and solver is not 'ipopt'")

    def found(
        self, model: Model, params: tuple[Any, ...], start: Tensor, warm: Point | None
    ) -> Found:
        """The answer from given starts ``(B, n)``."""
        bounds = model.limits(start, params) if model.bounded else None
        if self.solver == "sqp":
            return by_sqp(model, self.limits, params, start, bounds)
        found = by_ipopt(model, self.limits, params, start, bounds, warm, self.patterns)
        if warm is not None and bool((found.status != Status.CONVERGED).any()):
            # A start that was good for the last params may be worse than none for these.
            found = by_ipopt(model, self.limits, params, start, bounds, None, self.patterns)
        return found


def answer_of(
    engine: Engine, model: Model, asked: tuple[Any, ...], begin: Begin, on_failure: str
) -> Settled:
    """Solve, choose, and make exact.

    Parameters
    ----------
    asked
        The params with one batch dimension, in the dtypes that they were given in.
    """
    samples = begin.samples
    params, unusable = sound_params(asked, model.program.shared, samples)
    holds = next((text for text in unusable if text), "")
    if holds and (on_failure == "raise" or all(unusable)):
        raise ValueError(
            f"nn.NLP: {holds}. Look at where it comes from: a network that has diverged, or "
            "missing data"
        )
    with torch.no_grad():
        settled = _solved(engine, model, asked, params, begin)
    if not holds:
        return settled if any(settled.messages) else dataclasses.replace(settled, messages=())
    bad = torch.tensor([bool(text) for text in unusable], device=settled.status.device)
    point = type(settled.point)(
        *(torch.where(bad.unsqueeze(-1), torch.nan, part) for part in settled.point)
    )
    messages = tuple(a or b for a, b in zip(unusable, settled.messages, strict=True))
    status = torch.where(bad, int(Status.NONFINITE), settled.status)
    return dataclasses.replace(settled, point=point, status=status, messages=messages)


def _solved(
    engine: Engine,
    model: Model,
    asked: tuple[Any, ...],
    params: tuple[Any, ...],
    begin: Begin,
) -> Settled:
    if callable(engine.solver):
        found = by_callable(engine.solver, model, asked, params, begin.samples)
        return _settled(engine, model, found, params)
    device = _device(params)
    first = begin.base.to(device)
    if not begin.samples:
        return _settled(engine, model, _nothing(model, first, params), params)
    lower, upper = model.limits(first, params)
    starts = begin.all(lower, upper)  # (B, k, n)
    times = starts.shape[1]
    if times == 1:
        found = engine.found(model, params, starts[:, 0], begin.warm)
        return _settled(engine, model, found, params)
    many = repeated(params, model.program.shared, times)
    found = engine.found(model, many, starts.flatten(0, 1), None)
    index, said = chosen(_settled(engine, model, found, many), times)
    best = _settled(engine, model, best_of(found, index), params)
    messages = tuple(
        "; ".join(text for text in both if text) for both in zip(best.messages, said, strict=True)
    )
    return dataclasses.replace(best, messages=messages)


def _nothing(model: Model, x: Tensor, params: tuple[Any, ...]) -> Found:
    """The answer to no samples."""
    g, _, h, _ = model.program.constraints(x, params)
    point = Point(x, g, h, x if model.bounded else x[:, :0])
    return Found(point, torch.zeros(0, dtype=torch.int64, device=x.device), ())


def _settled(engine: Engine, model: Model, found: Found, params: tuple[Any, ...]) -> Settled:
    x = torch.where(torch.isfinite(found.point.x), found.point.x, 0)
    sparse = engine.limits.sparse
    if sparse == "auto":
        sparse = x.shape[-1] >= _LARGE
    pattern = None
    if sparse and len(x):
        first = sample_of(model, params, x, 0)
        pattern = pattern_of(model, first, x[0].cpu(), engine.patterns)
    return settle(model, found, params, model.limits(x, params), pattern)


def _device(params: tuple[Any, ...]) -> torch.device:
    leaves = flatten(params)[0]
    return next((leaf.device for leaf in leaves if isinstance(leaf, Tensor)), torch.device("cpu"))
