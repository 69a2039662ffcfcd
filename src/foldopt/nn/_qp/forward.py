"""The forward pass: the active rows of every sample, the solution on them, and what it is worth.

A working set comes from :mod:`~foldopt.nn._qp.working_set`, where Q is positive definite. The KKT
system of its rows then gives x and the multipliers to rounding error, and the conditions that the
working set left open are looked at: all other rows hold, and no multiplier has the wrong sign.
Samples that this does not serve go to the engines of :class:`foldopt.solvers.QP`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt import solvers
from foldopt.nn._messages import NOT_CONVEX, WEAK
from foldopt.nn._qp.algebra import product, times, triangular
from foldopt.nn._qp.answer import Answer
from foldopt.nn._qp.clear import clear
from foldopt.nn._qp.conditions import TOLERANCE, Held, conditions, stationarity
from foldopt.nn._qp.factor import Factor, factored
from foldopt.nn._qp.program import Program, benign, unusable
from foldopt.nn._qp.scaled import Scaled
from foldopt.nn._qp.step import State
from foldopt.nn._qp.ties import settle
from foldopt.nn._qp.working_set import Sets, working_sets
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


@np.errstate(all="ignore")  # what overflows is looked at
def solve(program: Program, engines: solvers.QP, raises: bool) -> Answer:
    """Solve a float64 program on the CPU.

    Parameters
    ----------
    program
        The data.
    engines
        For samples that need them.
    raises
        Whether data that are no numbers are an error. If not, their samples are NONFINITE.

    Raises
    ------
    ValueError
        As said, or if all samples have such data.
    """
    if not program.samples:
        n, *rows = program.sizes
        nothing = State(program.p.new_zeros(0, n), program.p.new_zeros(0, sum(rows)))
        return Answer(nothing, torch.zeros(0, dtype=torch.int64), (), _none)
    scaled, sets, answer = _tried(program)
    if answer is not None:
        return answer
    bad, holds = unusable(program)
    if not holds:
        return _decided(scaled, sets, engines, ~bad)
    if raises or bool(bad.all()):
        raise ValueError(
            f"nn.QP: {holds}. Look at where it comes from: a network that has diverged, or "
            "missing data"
        )
    scaled, sets, _ = _tried(benign(program, bad))
    answer = _decided(scaled, sets, engines, ~bad)
    said = answer.messages or [""] * len(bad)
    messages = tuple(holds if one else text for one, text in zip(bad.tolist(), said, strict=True))
    return dataclasses.replace(answer, messages=messages)


def _tried(program: Program) -> tuple[Scaled, Sets, Answer | None]:
    """The program, its working sets, and the answer if these leave nothing to decide."""
    # xᵀQx sees the symmetric part of Q.
    program = program._replace(Q=(program.Q + program.Q.mT).mul_(0.5))
    scaled = Scaled.of(program)
    sets = working_sets(scaled)
    if sets.solution is None:
        return scaled, sets, None
    u, multipliers = sets.solution
    x = triangular(scaled.L.numpy(), (u - scaled.t.numpy())[..., None], transpose=True)[..., 0]
    residual = clear(scaled, sets.sides, x, multipliers)
    if residual is None:
        return scaled, sets, None
    point = State(torch.from_numpy(x), torch.from_numpy(multipliers))
    make, moved = lambda: factored(scaled, sets.sides != 0), torch.from_numpy(residual)
    return scaled, sets, Answer(point, None, (), make, moved)


def _decided(scaled: Scaled, sets: Sets, engines: solvers.QP, usable: Tensor) -> Answer:
    """The answer where working sets are missing, or doubtful, or the accuracy is not all there."""
    found = _on(scaled, torch.from_numpy(sets.sides), None)
    status = torch.where(usable, int(Status.CONVERGED), int(Status.NONFINITE))
    said = [""] * len(status)
    done = torch.from_numpy(sets.found) & usable & found.good
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
    point = State(x, multipliers)
    factor = found.factor
    return Answer(point, status, tuple(said) if any(said) else (), lambda: factor)


def _none() -> Factor:
    raise AssertionError("an empty batch has nothing to factor")


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
    p, rows = scaled.p, scaled.rows
    Q, C = scaled.Q.numpy(), rows.C.numpy()
    active = sides != 0
    factor = factored(scaled, active.numpy())
    target = torch.where(active, torch.where(sides > 0, rows.high, rows.low), 0)
    multipliers, rounds = torch.zeros_like(rows.low), 0
    if start is None:
        x, a, c = torch.zeros_like(p), -p, target
    else:
        Qx, values = _tensors(product(start.numpy(), Q), times(C, start.numpy()))
        x, a, c = start, -p - Qx, target - active * values
    while True:  # the rounds after the first take out its rounding errors
        dx, change = _tensors(*factor.solve(a.numpy(), c.numpy()))
        x, multipliers = x + dx, multipliers + change
        Qx, values = _tensors(product(x.numpy(), Q), times(C, x.numpy()))
        (pull,) = _tensors(product(multipliers.numpy(), C))
        at = stationarity(p, Qx, pull)
        c = target - active * values
        rounds += 1
        if float(at.off.max()) <= _ROUNDING:
            size = rows.length * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            if bool((c.abs() <= _ROUNDING * size).all()):
                break
        if rounds == _ROUNDS:
            break
        a = -at.left
    good, held = conditions(rows, sides, x, multipliers, values, at)
    return _Found(factor, x, multipliers, sides, good, None, held)


def _tensors(*arrays: np.ndarray) -> Any:
    return tuple(torch.from_numpy(array) for array in arrays)


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
    C = scaled.rows.C if len(scaled.rows.C) == 1 else scaled.rows.C[where]
    values = torch.from_numpy(times(C.numpy(), x.numpy()))
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
