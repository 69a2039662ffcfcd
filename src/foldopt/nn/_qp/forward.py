"""The forward pass: the active rows of every sample, the solution on them, and what it is worth.

A working set comes from :mod:`~foldopt.nn._qp.working_set`, where Q is positive definite. The KKT
system of its rows then gives x and the multipliers to rounding error, and the conditions that the
working set left open are looked at: all other rows hold, and no multiplier has the wrong sign.
Samples that this does not serve go to the engines of :class:`foldopt.solvers.QP`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from foldopt import solvers
from foldopt.nn._messages import NOT_CONVEX, WEAK
from foldopt.nn._qp.answer import Answer
from foldopt.nn._qp.clear import clear
from foldopt.nn._qp.conditions import TOLERANCE, Held, conditions, stationarity
from foldopt.nn._qp.factor import Factor, active_rows, factored
from foldopt.nn._qp.program import Program
from foldopt.nn._qp.scaled import Scaled, product, times
from foldopt.nn._qp.step import Point
from foldopt.nn._qp.ties import settle
from foldopt.nn._qp.working_set import working_sets
from foldopt.status import Status

__all__ = ["solve"]

# What rounding leaves in the residual of a linear system, and how often it is solved for less.
_ROUNDING = 32 * torch.finfo(torch.float64).eps
_ROUNDS = 2


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the active rows give, which samples it solves, and which of those have no derivative."""

    factor: Factor
    x: Tensor
    multipliers: Tensor  # of all rows
    sides: Tensor
    good: Tensor
    weak: Tensor | None
    held: Held


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
    if not program.samples:
        nothing = (program.p.new_zeros(0, size) for size in program.sizes)
        return Answer(Point(*nothing), torch.zeros(0, dtype=torch.int64), (), _none)
    scaled = Scaled.of(program)
    sides, served, point = _working_sets(scaled, usable)
    if point is not None:
        status = torch.full((len(sides),), int(Status.CONVERGED))
        return Answer(point, status, (), lambda: factored(scaled, active_rows(sides != 0)))
    found = _on(scaled, sides, None)
    status = torch.where(usable, int(Status.CONVERGED), int(Status.NONFINITE))
    said = [""] * len(status)
    done = served & found.good
    if not bool(done.all()) and bool((ask := usable & ~done).any()):
        where = torch.nonzero(ask).squeeze(-1)
        # Where the factors have not served, they shall not serve again.
        scaled = dataclasses.replace(scaled, definite=scaled.definite & ~ask)
        sides, start, status = _ask(scaled, engines, where, found.sides, status, said)
        found = _on(scaled, sides, start)
    solved = status == Status.CONVERGED
    if found.weak is not None:
        for sample in torch.nonzero(found.weak & solved).flatten().tolist():
            said[sample] = f"{said[sample]}; {WEAK}" if said[sample] else WEAK
    x, multipliers = found.x, found.multipliers
    if not bool(solved.all()):
        keep = solved.unsqueeze(-1)
        x, multipliers = (torch.where(keep, part, torch.nan) for part in (x, multipliers))
    point = scaled.blocks(x, multipliers)
    factor = found.factor
    return Answer(point, status, tuple(said) if any(said) else (), lambda: factor)


def _none() -> Factor:
    raise AssertionError("an empty batch has nothing to factor")


def _working_sets(scaled: Scaled, usable: Tensor) -> tuple[Tensor, Tensor, Point | None]:
    """The side of each row, ``(B, M)``, and which samples it was found for.

    And the solution, if that came with it, exact and beyond doubt in all samples.
    """
    sides = scaled.rows.equal.to(torch.int8)
    served = scaled.definite & usable
    samples = torch.nonzero(served).flatten().tolist()
    if not sides.shape[-1] or not samples:
        return sides, served, None
    t = torch.linalg.solve_triangular(scaled.L, scaled.p.unsqueeze(-1), upper=False)
    there = times(scaled.N, t.squeeze(-1))
    low, high = (limit / scaled.shrunk + there for limit in (scaled.rows.low, scaled.rows.high))
    found = working_sets(scaled, low, high, there, samples)
    if found.solution is not None:
        u, multipliers = (torch.from_numpy(part) for part in found.solution)
        x = torch.linalg.solve_triangular(scaled.L.mT, u.unsqueeze(-1) - t, upper=True).squeeze(-1)
        multipliers = multipliers / scaled.shrunk
        if clear(scaled, found.sides, x.numpy(), multipliers.numpy()):
            return torch.from_numpy(found.sides), served, scaled.blocks(x, multipliers)
    if len(samples) == len(served):
        return torch.from_numpy(found.sides), served & torch.from_numpy(found.found), None
    sides[samples], served[samples] = (torch.from_numpy(part) for part in found[:2])
    return sides, served, None


def _on(scaled: Scaled, sides: Tensor, start: Tensor | None) -> _Found:
    """The solution on the active rows, near ``start`` where it is not the only one."""
    found = _solved(scaled, sides, start)
    settled = settle(scaled, sides, found.x, found.held, found.good)
    if settled is None:
        return found
    wider, weak = settled
    if bool((wider != sides).any()):
        found = _solved(scaled, wider, start)
    return dataclasses.replace(found, weak=weak)


def _solved(scaled: Scaled, sides: Tensor, start: Tensor | None) -> _Found:
    Q, p, rows = scaled.Q, scaled.p, scaled.rows
    C = rows.C
    active = active_rows(sides != 0)
    factor = factored(scaled, active)
    target = active.gather(torch.where(sides > 0, rows.high, rows.low))
    if start is None:
        x, a, c = torch.zeros_like(p), -p, target
    else:
        x, a, c = start, -p - product(start, Q), target - active.gather(times(C, start))
    none, packed, rounds = torch.zeros_like(rows.low), 0.0, 0
    while True:  # the rounds after the first take out its rounding errors
        dx, change = factor.solve(a, c)
        x, packed = x + dx, packed + change
        multipliers = active.scatter(packed, none)
        Qx, pull, values = product(x, Q), product(multipliers, C), times(C, x)
        at = stationarity(p, Qx, pull)
        c = target - active.gather(values)
        rounds += 1
        if float(at.off.max()) <= _ROUNDING:
            size = rows.length * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            if bool((c.abs() <= _ROUNDING * active.gather(size)).all()):
                break
        if rounds == _ROUNDS:
            break
        a = -at.left
    good, held = conditions(rows, sides, x, multipliers, values, at)
    return _Found(factor, x, multipliers, sides, good, None, held)


def _ask(
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
        said[sample] = NOT_CONVEX
    where = where[convex]
    if not len(where):
        return sides, start, status
    posed = _in_units(scaled, where)
    solution = engines(*posed)
    for row, sample in enumerate(where.tolist()):
        status[sample] = int(solution.status[row])
        said[sample] = solution.messages[row] if solution.messages else ""
    good = solution.status == Status.CONVERGED
    if not bool(good.any()):
        return sides, start, status
    p, length = posed[1][good], scaled.rows.length.expand(len(start), -1)[where[good]]
    where = where[good]
    x = start[where] = solution.x[good]
    multipliers = torch.cat([part[good] for part in solution.multipliers], -1)
    multipliers = multipliers[:, : sides.shape[-1]]  # if there are no bounds, theirs are zeros
    force = p.abs().amax(-1, keepdim=True) + multipliers.abs().sum(-1, keepdim=True)
    values = times(scaled.rows.C if len(scaled.rows.C) == 1 else scaled.rows.C[where], x)
    slack = torch.where(
        multipliers > 0, scaled.rows.high[where] - values, values - scaled.rows.low[where]
    )
    active = (multipliers.abs() > TOLERANCE * force) & (multipliers.abs() > slack / length)
    found = torch.where(active, multipliers.sign(), 0).to(torch.int8)
    sides[where] = torch.where(scaled.rows.equal[where], 1, found)
    return sides, start, status


def _in_units(scaled: Scaled, where: Tensor) -> list[Any]:
    """Some programs as engines take them, objective and rows of size 1: thresholds have units."""
    _, m, k, bounds = scaled.sizes
    every, p = len(scaled.p), scaled.p[where]
    Q = scaled.Q.expand(every, -1, -1)[where]
    unit = torch.maximum(Q.flatten(1).abs().amax(-1), p.abs().amax(-1))
    unit = torch.where(unit > 0, unit, 1).unsqueeze(-1)
    length = scaled.rows.length.expand(every, -1)[where]
    C = (scaled.rows.C if len(scaled.rows.C) == 1 else scaled.rows.C[where]) / length.unsqueeze(-1)
    low, high = scaled.rows.low[where] / length, scaled.rows.high[where] / length
    posed: list[Any] = [Q / unit.unsqueeze(-1), p / unit]
    posed += [C[:, :m], high[:, :m]] if m else [None, None]
    posed += [C[:, m : m + k], high[:, m : m + k]] if k else [None, None]
    return posed + ([low[:, m + k :], high[:, m + k :]] if bounds else [None, None])


def _convex(scaled: Scaled, where: Tensor) -> Tensor:
    Q = scaled.Q.expand(len(scaled.p), -1, -1)[where]
    size = scaled.size.expand(len(scaled.p), 1)[where].unsqueeze(-1)
    shift = TOLERANCE * torch.eye(Q.shape[-1], dtype=Q.dtype)
    return torch.linalg.cholesky_ex(Q / size + shift)[1] == 0
