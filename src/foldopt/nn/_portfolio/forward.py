"""The forward pass: the critical line, one Newton step on the active set it ends with, the proof.

Samples that the walk does not serve (equal greatest returns, directions without risk) go to
interior points, or to the engines of :class:`foldopt.solvers.QP`; those have the active set read
off their answer, and end with the same Newton step.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import torch
from torch import Tensor

from foldopt import solvers
from foldopt.nn._messages import WEAK
from foldopt.nn._portfolio import interior_points
from foldopt.nn._portfolio.kkt import Active, Factor, factored, polished
from foldopt.nn._portfolio.path import critical_line
from foldopt.nn._portfolio.step import Point
from foldopt.operators._inverse import matvec
from foldopt.status import Status

__all__ = ["Answer", "solve"]

# How far the optimality conditions may be from holding, in the units of the scaled program; and
# what is smaller than this is zero.
_TOLERANCE = 1e-9
_ROUNDING = 1e-12
_DEFINITE = 1e-10
# For an engine's share of one sample, if there is an engine that looks at the clock: far more than
# it takes, lest bad data take for ever.
_SECONDS = 60.0

FLAT = "the portfolio is not unique: other weights are as good, and it has no derivative"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came out.

    Attributes
    ----------
    point
        x and the multipliers, float64, NaN where there is no solution.
    status
        Of each sample, ``(B,)``.
    messages
        What there is to say of each, "" mostly; empty if there is nothing to say of any.
    factor
        The inverses of the KKT matrices.
    """

    point: Point
    status: Tensor
    messages: tuple[str, ...]
    factor: Factor


@dataclasses.dataclass(frozen=True)
class _Found:
    factor: Factor
    point: Point
    good: Tensor


@dataclasses.dataclass(frozen=True)
class _Program:
    c: Tensor
    V: Tensor
    gamma: Tensor | None
    delta: Tensor | None

    def at(self, where: Tensor) -> _Program:
        parts = (self.c, self.V, self.gamma, self.delta)
        return _Program(*(None if part is None else part[where] for part in parts))  # pyright: ignore[reportArgumentType]


def solve(
    c: Tensor, V: Tensor, risk: Tensor, bounded: bool, said: list[str], eps: float = 0.0
) -> Answer:
    """Solve the scaled programs.

    Parameters
    ----------
    c
        Returns, at most 0 and in a range of 1 or so, ``(B, n)``.
    V
        Symmetric, of the size of the risk, ``(B, n, n)``.
    risk
        γ if ``bounded``, δ if not; ``(B,)``.
    said
        A message for each sample whose data are no program, "" for the others.
    eps
        How far rounding has moved the entries of V: a singular V may then look indefinite.
    """
    program = _Program(c, V, risk if bounded else None, None if bounded else risk)
    usable = torch.tensor([not text for text in said], dtype=torch.bool, device=c.device)
    status = torch.where(usable, int(Status.CONVERGED), int(Status.NONFINITE))
    program = _refused(program, usable, status, said, eps)
    t_end = None if program.delta is None else 1 / program.delta
    stop = critical_line(c, program.V, program.gamma, t_end)
    lam = torch.where(stop.vertex.unsqueeze(-1), 0.0, 0.5 / stop.t)
    found = _on(program, stop.free, stop.x, lam)
    ask = ~found.good & (status == Status.CONVERGED)
    if bool(ask.any()):
        where = torch.nonzero(ask).squeeze(-1)
        _least_risk(program, where, stop.x[where], status, said)
        where = where[status[where] == Status.CONVERGED]
        if len(where):
            found = _ask(program, found, where, status, said)
    found = _settled(program, found, status, said)
    solved = (status == Status.CONVERGED).unsqueeze(-1)
    point = found.point
    if not bool(solved.all()):
        point = Point(*(torch.where(solved, part, torch.nan) for part in point))
    return Answer(point, status, tuple(said) if any(said) else (), found.factor)


def _refused(
    program: _Program, usable: Tensor, status: Tensor, said: list[str], eps: float
) -> _Program:
    """Sort out samples that have no solution whatever the returns; others stand in their places."""
    V = program.V
    eye = torch.eye(V.shape[-1], dtype=V.dtype, device=V.device)
    size = V.diagonal(dim1=-2, dim2=-1).amax(-1)[:, None, None]
    shifted = V + max(_DEFINITE, 4 * len(eye) * eps) * torch.where(size > 0, size, 1) * eye
    convex = torch.linalg.cholesky_ex(shifted)[1] == 0
    risk = program.delta if program.gamma is None else program.gamma
    assert risk is not None
    fine = risk >= 0 if program.gamma is None else risk > 0
    if bool((convex & fine).all()):
        return program
    for i in torch.nonzero(usable & ~(convex & fine)).flatten().tolist():
        status[i] = int(Status.FAILED)
        if not convex[i]:
            said[i] = "covariance is not positive semidefinite: the program is not convex"
        elif program.gamma is None:
            said[i] = "risk, here the aversion to it, is below 0: the program is not convex"
        else:
            status[i] = int(Status.INFEASIBLE)
            said[i] = "risk, the most that is allowed, is not above 0"
    risk = torch.where(fine & convex, risk, 1)
    V = torch.where((fine & convex)[:, None, None], V, eye)
    return dataclasses.replace(
        program,
        V=V,
        gamma=None if program.gamma is None else risk,
        delta=None if program.delta is None else risk,
    )


def _least_risk(
    program: _Program, where: Tensor, x: Tensor, status: Tensor, said: list[str]
) -> None:
    """Say of the samples ``where`` whether no portfolio has the risk asked for, as x proves.

    For all portfolios y, yᵀVy · xᵀVx ≥ (yᵀVx)² ≥ (min_i (Vx)_i)² if that is above 0, which it is
    at the least risk, with equality.
    """
    if program.gamma is None:
        return
    Vx = matvec(program.V[where], x)
    least = Vx.amin(-1).clamp_min(0).square() / (x * Vx).sum(-1) / program.gamma[where]
    for i, ratio in zip(where.tolist(), least.tolist(), strict=True):
        if ratio > 1 + _TOLERANCE:
            status[i] = int(Status.INFEASIBLE)
            said[i] = (
                f"the least risk that a portfolio can have is {ratio:.6g} times the risk given"
            )
        elif ratio > 1 - _TOLERANCE:
            status[i] = int(Status.FAILED)
            said[i] = (
                "risk is the least that a portfolio can have: one portfolio alone has it, and "
                "neither a multiplier nor a derivative exists; raise risk a little"
            )


def _ask(
    program: _Program, found: _Found, where: Tensor, status: Tensor, said: list[str]
) -> _Found:
    """Have the samples ``where`` solved otherwise, and start from the active sets found there."""
    some = program.at(where)
    free = found.factor.active.free > 0
    x, lam = found.point.x.clone(), torch.zeros_like(found.point.budget)
    if found.point.risk.shape[-1]:
        lam = torch.where(found.good.unsqueeze(-1), found.point.risk, 0)
    if some.gamma is not None:
        answer = interior_points.solve(some.c, some.V, some.gamma)
        point = answer.x
        x[where], free[where] = point.x, point.x > point.inequality[:, 1:]
        slack = 1 - (point.x * matvec(some.V, point.x)).sum(-1) / some.gamma
        held = torch.where(point.inequality[:, 0] > slack, point.inequality[:, 0] / some.gamma, 0)
        lam[where] = held.unsqueeze(-1)
        failed = where[answer.status != Status.CONVERGED]
        if len(failed):
            least = _by_engine(program.V[failed], torch.zeros_like(program.c[failed]))
            _least_risk(program, failed, least.x.to(x), status, said)
    else:
        assert some.delta is not None
        answer = _by_engine(some.delta[:, None, None] * some.V, -some.c)
        x[where] = answer.x.to(x)
        free[where] = x[where] > -answer.multipliers.bounds.to(x)
    new = _on(program, free, x, lam)
    for i in where[~new.good[where] & (status[where] == Status.CONVERGED)].tolist():
        status[i] = int(Status.INACCURATE)
        said[i] = "the optimality conditions were not met to working precision"
    return new


def _by_engine(Q: Tensor, p: Tensor) -> Any:
    """x and the multipliers of min ½xᵀQx + pᵀx s.t. 1ᵀx = 1, x ≥ 0, in the scale of size one."""
    # In any other an engine may run for ever: its tolerances have none.
    size = torch.maximum(Q.abs().amax((-2, -1)), p.abs().amax(-1)).unsqueeze(-1)
    size = torch.where(size > 0, size, 1)
    one = torch.ones(1, dtype=torch.float64)
    timed = any(importlib.util.find_spec(name) for name in ("daqp", "clarabel"))
    return solvers.QP(time_limit=_SECONDS if timed else None)(
        (Q / size.unsqueeze(-1)).cpu(), (p / size).cpu(), None, None,
        one.expand(1, p.shape[-1]), one, 0.0, None,
    )  # fmt: skip


def _settled(program: _Program, found: _Found, status: Tensor, said: list[str]) -> _Found:
    """Look for constraints that are only just active: they count as not active."""
    solved = status == Status.CONVERGED
    point, tight = found.point, found.factor.active.tight > 0
    force = 1 + point.budget.abs()
    weak = (point.x <= _TOLERANCE) & (point.bounds <= _TOLERANCE * force)
    any_weak = weak.any(-1)
    lam = found.factor.weight / 2
    if program.gamma is not None:
        gap = program.gamma - (point.x * found.factor.g).sum(-1) / 2
        loose = torch.where(tight, lam <= _TOLERANCE, gap.unsqueeze(-1) <= _TOLERANCE)
        any_weak = any_weak | loose.squeeze(-1)
        lam = torch.where(loose, 0, point.risk)
    any_weak = any_weak & solved
    if bool(any_weak.any()):
        held = found.factor.active.free > 0
        new = _on(program, held | weak, point.x, lam)
        if not bool((new.good | ~solved).all()):
            keep = new.good.unsqueeze(-1)
            new = _on(
                program,
                torch.where(keep, held | weak, held),
                point.x,
                lam if program.gamma is None else torch.where(keep, lam, point.risk),
            )
        found = new
    for which, text in ((found.factor.flat & solved, FLAT), (any_weak, WEAK)):
        for i in torch.nonzero(which).flatten().tolist() if bool(which.any()) else ():
            said[i] = said[i] or text
    return found


def _on(program: _Program, free: Tensor, x: Tensor, lam: Tensor) -> _Found:
    """The solution with these assets held, near x; the risk binds where λ > 0."""
    tight = (lam > 0).to(x.dtype) if program.gamma is not None else torch.zeros_like(x[:, :1])
    active = Active(free.to(x.dtype), tight)
    x, lam = torch.where(free & torch.isfinite(x), x, 0), torch.nan_to_num(lam, 1.0, 1.0)
    held = lam if program.gamma is not None else torch.zeros_like(tight)
    # After the critical line rounding errors are all that is left: once. The matrix is that of the
    # point before the step, and the adjoint is to have that of the solution.
    for last in (False, False, True):
        factor, old = _factor(program, active, x, held), torch.cat([x, held], -1)
        x, held, nu = polished(factor, program.c, x, held, program.gamma)
        point, worst = _point(program, factor, x, held, nu)
        moved = ((torch.cat([x, held], -1) - old).abs() / (1 + old.abs())).amax(-1)
        if last or bool((torch.maximum(worst, moved) <= _ROUNDING).all()):
            return _Found(factor, point, worst <= _TOLERANCE)
    raise AssertionError("unreachable")


def _factor(program: _Program, active: Active, x: Tensor, lam: Tensor) -> Factor:
    weight = 2 * lam.clamp_min(0) if program.delta is None else program.delta.unsqueeze(-1)
    return factored(program.V, weight, x, active)


def _point(
    program: _Program, factor: Factor, x: Tensor, lam: Tensor, nu: Tensor
) -> tuple[Point, Tensor]:
    """All multipliers, and the largest violation of an optimality condition."""
    Vx = matvec(program.V, x)
    weight = 2 * lam if program.delta is None else program.delta.unsqueeze(-1)
    force = weight * Vx + nu - program.c
    zeta = (1 - factor.active.free) * force
    parts = [(force - zeta).abs(), -x, -zeta, (x.sum(-1, keepdim=True) - 1).abs()]
    if program.gamma is not None:
        over = ((x * Vx).sum(-1) - program.gamma).unsqueeze(-1)
        parts += [torch.where(factor.active.tight > 0, over.abs(), over), -lam]
    worst = torch.cat(parts, -1).amax(-1)
    return Point(x, lam if program.delta is None else lam[:, :0], nu, zeta), worst
