"""The forward pass: the active rows of every sample, the solution on them, and what it is worth.

A working set comes from :mod:`~foldopt.nn._qp.working_set`, where Q is positive definite. The KKT
system of its rows then gives x and the multipliers to rounding error, and the conditions that the
working set left open are looked at: all other rows hold, and no multiplier has the wrong sign.
Samples that this does not serve go to the engines of :class:`foldopt.solvers.QP`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt import solvers
from foldopt.nn._qp.factor import Factor, active_rows, factored
from foldopt.nn._qp.program import Program
from foldopt.nn._qp.scaled import Scaled
from foldopt.nn._qp.step import Point
from foldopt.nn._qp.ties import settle
from foldopt.nn._qp.working_set import Rows, working_sets
from foldopt.operators._inverse import matvec
from foldopt.status import Status

__all__ = ["Answer", "solve"]

# How far the optimality conditions may be from holding, relative to the size of their terms; and
# what is smaller than this beside them is zero.
_TOLERANCE = 1e-9

WEAK = "a constraint is only just active: the derivative is one element of the generalized Jacobian"


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
    factor, scaled
        The KKT matrices, factored, and the units in which they are.
    """

    point: Point
    status: Tensor
    messages: tuple[str, ...]
    factor: Factor
    scaled: Scaled


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the active rows give: x, the multipliers of all rows, and which samples are solved."""

    factor: Factor
    x: Tensor
    multipliers: Tensor
    good: Tensor
    weak: Tensor
    sides: Tensor


def solve(program: Program, engines: solvers.QP, usable: Tensor) -> Answer:
    """Solve a float64 program on the CPU.

    Parameters
    ----------
    program
        The data.
    engines
        For samples that need them.
    usable
        The samples whose data are numbers; the others are NONFINITE.
    """
    scaled = Scaled.of(program)
    sides, served = _working_sets(scaled, usable)
    found = _on(scaled, sides, torch.zeros_like(scaled.p))
    status = torch.where(usable, int(Status.CONVERGED), int(Status.NONFINITE))
    said = [""] * len(status)
    ask = usable & ~(served & found.good)
    if bool(ask.any()):
        where = torch.nonzero(ask).squeeze(-1)
        sides, start, status = _ask(program, scaled, engines, where, found.sides, status, said)
        found = _on(scaled, sides, start)
    solved = status == Status.CONVERGED
    for sample in torch.nonzero(found.weak & solved).flatten().tolist():
        said[sample] = said[sample] or WEAK
    keep = solved.unsqueeze(-1)
    point = scaled.point(
        torch.where(keep, found.x, torch.nan), torch.where(keep, found.multipliers, torch.nan)
    )
    return Answer(point, status, tuple(said) if any(said) else (), found.factor, scaled)


def _working_sets(scaled: Scaled, usable: Tensor) -> tuple[Tensor, Tensor]:
    """The side of each row, ``(B, M)``, and which samples it was found for."""
    sides = scaled.equal.to(torch.int8)
    served = scaled.definite & usable
    where = torch.nonzero(served).flatten().tolist()
    if not sides.shape[-1] or not where:
        return sides, served
    M = scaled.M
    t = torch.linalg.solve_triangular(scaled.L, scaled.p.unsqueeze(-1), upper=False)
    there = -(M.mT @ t).squeeze(-1)  # C x₀ at the unconstrained minimum x₀
    length = torch.linalg.vector_norm(M, dim=-2)
    length = torch.where(length > 0, length, 1)
    gradients = (M / length.unsqueeze(-2)).mT.contiguous().numpy()
    low, high = (((limit - there) / length).numpy() for limit in (scaled.low, scaled.high))
    equal = scaled.equal.numpy()
    rows: list[Rows] = [(gradients[i], low[i], high[i], equal[i]) for i in where]
    for sample, found in zip(where, working_sets(rows), strict=True):
        if found is None:
            served[sample] = False
        else:
            sides[sample] = torch.from_numpy(found)
    return sides, served


def _on(scaled: Scaled, sides: Tensor, start: Tensor) -> _Found:
    """The solution on the active rows, near ``start`` where it is not the only one."""
    found = _solved(scaled, sides, start)
    settled = settle(scaled, sides, found.x, found.multipliers, found.good, _TOLERANCE)
    if settled is None:
        return found
    wider, weak = settled
    if bool((wider != sides).any()):
        found = _solved(scaled, wider, start)
    return dataclasses.replace(found, weak=weak)


def _solved(scaled: Scaled, sides: Tensor, start: Tensor) -> _Found:
    Q, C = scaled.Q, scaled.C
    n = C.shape[-1]
    active = active_rows(sides != 0)
    index, valid = active.index.unsqueeze(-1), active.valid.unsqueeze(-1)
    W = torch.where(valid, torch.gather(C, 1, index.expand(-1, -1, n)), 0)
    Y = torch.where(valid.mT, torch.gather(scaled.M, 2, index.mT.expand(-1, n, -1)), 0)
    factor = factored(Q, scaled.L, scaled.definite, W, Y, active, active.gather(scaled.length))
    limit = torch.where(sides > 0, scaled.high, torch.where(sides < 0, scaled.low, 0))
    target = active.gather(limit)
    x, multipliers = start, torch.zeros_like(target)
    for _ in range(2):  # the second takes out the rounding errors of the first
        dx, change = factor.solve(
            -scaled.p - matvec(Q, x) - matvec(W.mT, multipliers), target - matvec(W, x)
        )
        x, multipliers = x + dx, multipliers + change
    multipliers = active.scatter(multipliers, torch.zeros_like(limit))
    good = _holds(scaled, sides, x, multipliers)
    return _Found(factor, x, multipliers, good, torch.zeros_like(good), sides)


def _holds(scaled: Scaled, sides: Tensor, x: Tensor, multipliers: Tensor) -> Tensor:
    """Whether the optimality conditions hold, sample by sample."""
    Qx, pull = matvec(scaled.Q, x), matvec(scaled.C.mT, multipliers)
    force = 1e-300 + Qx.abs().amax(-1) + scaled.p.abs().amax(-1) + pull.abs().amax(-1)
    good = (Qx + scaled.p + pull).abs().amax(-1) <= _TOLERANCE * force
    if not sides.shape[-1]:
        return good
    values = matvec(scaled.C, x)
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    for over, limit in ((values - scaled.high, scaled.high), (scaled.low - values, scaled.low)):
        finite = torch.where(torch.isfinite(limit), limit.abs(), 0)
        good = good & (over <= _TOLERANCE * (size + finite)).all(-1)
    right = (multipliers * sides >= -_TOLERANCE * force.unsqueeze(-1)) | scaled.equal
    return good & right.all(-1)


def _ask(
    program: Program,
    scaled: Scaled,
    engines: solvers.QP,
    where: Tensor,
    sides: Tensor,
    status: Tensor,
    said: list[str],
) -> tuple[Tensor, Tensor, Tensor]:
    """Have the samples ``where`` solved by engines: sides, x and status; ``said`` is filled in."""
    sides, start, status = sides.clone(), torch.zeros_like(scaled.p), status.clone()
    convex = _convex(scaled, where)
    for sample in where[~convex].tolist():
        status[sample] = int(Status.FAILED)
        said[sample] = "Q is not positive semidefinite: the program is not convex"
    where = where[convex]
    if not len(where):
        return sides, start, status
    solution = engines(*program.some(where))
    for row, sample in enumerate(where.tolist()):
        status[sample] = int(solution.status[row])
        said[sample] = solution.messages[row] if solution.messages else ""
    good = solution.status == Status.CONVERGED
    where = where[good]
    x = start[where] = solution.x[good]
    multipliers = scaled.rows(where, tuple(part[good] for part in solution.multipliers))
    force = multipliers.abs().sum(-1, keepdim=True) + scaled.p[where].abs().amax(-1, keepdim=True)
    values = matvec(scaled.C[where], x)
    slack = torch.where(multipliers > 0, scaled.high[where] - values, values - scaled.low[where])
    active = (multipliers.abs() > _TOLERANCE * force) & (multipliers.abs() > slack)
    found = torch.where(active, multipliers.sign(), 0).to(torch.int8)
    sides[where] = torch.where(scaled.equal[where], 1, found)
    return sides, start, status


def _convex(scaled: Scaled, where: Tensor) -> Tensor:
    Q = scaled.Q.expand(len(scaled.p), -1, -1)[where]
    shift = _TOLERANCE * torch.eye(Q.shape[-1], dtype=Q.dtype)
    return torch.linalg.cholesky_ex(Q + shift)[1] == 0
