"""Whoever solves the program: Ipopt, the batched SQP, or a function of the user's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foldopt import solvers
from foldopt._arguments import to_tensor
from foldopt._tree import flatten
from foldopt.nn._nlp.model import Model, Point
from foldopt.operators._kkt import least_squares_multipliers
from foldopt.solvers._run.executors import ExecutorLike
from foldopt.status import Solution, Status

__all__ = ["Found", "Limits", "by_callable", "by_ipopt", "by_sqp"]

# Stands for a bound that is not there, where infinity may not.
_NONE = 1e30


@dataclasses.dataclass(frozen=True, eq=False)
class Limits:
    """What the engines are told beside the program."""

    rtol: float | None = None
    max_iterations: int | None = None
    time_limit: float | None = None
    executor: ExecutorLike = "auto"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sparse: bool | Literal["auto"] = "auto"

    def settings(self) -> dict[str, Any]:
        return {
            "rtol": self.rtol,
            "max_iterations": self.max_iterations,
            "time_limit": self.time_limit,
            "executor": self.executor,
        }


@dataclasses.dataclass(frozen=True)
class Found:
    """An answer: a point (NaN where there is none), float64, statuses, and what was said."""

    point: Point
    status: Tensor
    messages: tuple[str, ...]


def by_ipopt(
    model: Model,
    limits: Limits,
    params: tuple[Any, ...],
    start: Tensor,
    bounds: tuple[Tensor, Tensor] | None,
    warm: Point | None,
    patterns: dict[Any, Any],
) -> Found:
    """One sample after the other, or in several processes."""
    program = model.program
    lower, upper = (None, None) if bounds is None else (part.cpu() for part in bounds)
    store = None if warm is None else _stored(warm)
    engine = solvers.Ipopt(
        program.objective, program.inequality, program.equality, lower, upper,
        shared=program.shared, start=start.cpu(), options=limits.options, warm_start=store,
        sparse=limits.sparse, **limits.settings(),
    )  # fmt: skip
    # Zeros of the derivatives are looked for once in the life of a layer.
    engine._patterns.update(patterns)
    if store is None:
        found = engine(*params)
    else:
        with store.at(range(len(start))):
            found = engine(*params)
    patterns.update(engine._patterns)
    return _found(found, start, bounds is not None)


def _stored(point: Point) -> solvers.WarmStart:
    """Each sample of a point under its number."""
    store = solvers.WarmStart(max(1, len(point.x)))
    x, lam, nu, mu = (part.cpu().numpy() for part in point)
    mu = mu if mu.shape[-1] else np.zeros_like(x)
    for i in range(len(x)):
        store.put(i, Solution(x[i], multipliers=solvers.Multipliers(lam[i], nu[i], mu[i])))
    return store


def by_sqp(
    model: Model,
    limits: Limits,
    params: tuple[Any, ...],
    start: Tensor,
    bounds: tuple[Tensor, Tensor] | None,
) -> Found:
    """All samples at once, on the device of the params; bounds are inequalities there."""
    program, n = model.program, start.shape[-1]
    settings = {key: value for key, value in limits.settings().items() if key != "executor"}
    if bounds is None:
        engine = solvers.SQP(
            program.objective, program.inequality, program.equality,
            shared=program.shared, start=start, **settings,
        )  # fmt: skip
        return _found(engine(*params), start, False)

    def inequality(x: Tensor, lower: Tensor, upper: Tensor, *c: Any) -> Tensor:
        rows = [
            torch.where(limit.abs() < _NONE, sign * (x - limit), -1)
            for limit, sign in ((upper, 1), (lower, -1))
        ]
        return torch.cat([program.inequalities(x, c), *rows])

    def equality(x: Tensor, _lower: Tensor, _upper: Tensor, *c: Any) -> Tensor:
        return program.equalities(x, c)

    # A bound that is not there must be a row all the same, for the other samples' sake.
    finite = [torch.where(limit.isinf(), limit.sign() * _NONE, limit) for limit in bounds]
    engine = solvers.SQP(
        lambda x, _lower, _upper, *c: program.objective(x, *c),
        inequality,
        None if program.equality is None else equality,
        shared=tuple(position + 2 for position in program.shared),
        start=start.clamp(*bounds),
        **settings,
    )
    found = engine(*finite, *params)
    lam, nu, _ = found.multipliers
    lam, high, low = lam.split([lam.shape[-1] - 2 * n, n, n], -1)
    return _found(found._replace(multipliers=solvers.Multipliers(lam, nu, high - low)), start, True)


def _found(solution: Solution, like: Tensor, bounded: bool) -> Found:
    """In float64, on the device of the start."""
    samples = len(like)
    parts = [part.to(like).reshape(samples, -1) for part in (solution.x, *solution.multipliers)]
    if not bounded:
        parts[3] = like.new_zeros(samples, 0)
    status = torch.as_tensor(solution.status).reshape(samples).to(like.device, torch.int64)
    said = solution.messages
    said = (said,) if isinstance(said, str) else tuple(said or [""] * samples)
    return Found(Point(*parts), status, said)


def by_callable(
    solver: Callable[..., Any],
    model: Model,
    asked: tuple[Any, ...],
    params: tuple[Any, ...],
    samples: int,
) -> Found:
    """Ask ``solver(*asked)`` for x, and find the multipliers by least squares.

    Parameters
    ----------
    asked
        The params as the user gave them.
    params
        The same in float64, with one batch dimension.
    """
    answer = solver(*asked)
    status, said, x = None, None, answer
    if isinstance(answer, Solution):
        status, said, x = answer.status, answer.messages, answer.x
    like = next((leaf for leaf in flatten(params)[0] if isinstance(leaf, Tensor)), None)
    x = to_tensor(x, None, None).detach().double()
    x = x.reshape(samples, -1) if samples and x.numel() else x
    x = x if like is None else x.to(like.device)
    with torch.no_grad():
        g, G, h, A = model.program.constraints(x, params)
        gradient = model.program.gradient(x, params)
        m, k, n = g.shape[-1], h.shape[-1], x.shape[-1]
        if model.bounded:
            lower, upper = model.limits(x, params)
            slack = torch.maximum(lower - x, x - upper).clamp_min(-1e20)
            eye = torch.eye(n, dtype=x.dtype, device=x.device).expand(samples, -1, -1)
            rows = torch.cat([G, eye], -2)
            both = least_squares_multipliers(gradient, torch.cat([g, slack], -1), rows, A)
            lam, mu, nu = both.split([m, n, k], -1)
        else:
            lam, nu = least_squares_multipliers(gradient, g, G, A).split([m, k], -1)
            mu = x.new_zeros(samples, 0)
    codes = torch.zeros(samples, dtype=torch.int64, device=x.device)
    if status is not None:
        codes = torch.as_tensor(status).reshape(samples).to(x.device, torch.int64)
    lost = ~torch.isfinite(x).all(-1)
    codes = torch.where(lost & (codes == Status.CONVERGED), int(Status.NONFINITE), codes)
    said = (said,) if isinstance(said, str) else tuple(said or [""] * samples)
    return Found(Point(x, lam.clamp_min(0), nu, mu), codes, said)
