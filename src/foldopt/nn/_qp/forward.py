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

from foldopt import solvers
from foldopt.nn._messages import NOT_CONVEX, WEAK
from foldopt.nn._qp.algebra import cholesky, product, times, triangular
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
_ROUNDING = 32 * np.finfo(float).eps
_ROUNDS = 2


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the active rows give, which samples it solves, and which of those have no derivative."""

    factor: Factor
    x: np.ndarray
    multipliers: np.ndarray  # of all rows
    sides: np.ndarray
    good: np.ndarray
    weak: np.ndarray | None
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
        return _decided(scaled, sets, engines, ~bad.numpy())
    if raises or bool(bad.all()):
        raise ValueError(
            f"nn.QP: {holds}. Look at where it comes from: a network that has diverged, or "
            "missing data"
        )
    scaled, sets, _ = _tried(benign(program, bad))
    answer = _decided(scaled, sets, engines, ~bad.numpy())
    said = answer.messages or [""] * len(bad)
    messages = tuple(holds if one else text for one, text in zip(bad.tolist(), said, strict=True))
    return dataclasses.replace(answer, messages=messages)


def _tried(program: Program) -> tuple[Scaled, Sets, Answer | None]:
    """The program, its working sets, and the answer if these leave nothing to decide."""
    scaled = Scaled.of(program)
    sets = working_sets(scaled)
    if sets.solution is None:
        return scaled, sets, None
    u, multipliers = sets.solution
    x = triangular(scaled.L, (u - scaled.t)[..., None], transpose=True)[..., 0]
    residual = clear(scaled, sets.sides, x, multipliers)
    if residual is None:
        return scaled, sets, None
    make, moved = lambda: factored(scaled, sets.sides != 0), torch.from_numpy(residual)
    return scaled, sets, Answer(_state(x, multipliers), None, (), make, moved)


def _state(x: np.ndarray, multipliers: np.ndarray) -> State:
    return State(torch.from_numpy(x), torch.from_numpy(multipliers))


def _decided(scaled: Scaled, sets: Sets, engines: solvers.QP, usable: np.ndarray) -> Answer:
    """The answer where working sets are missing, or doubtful, or the accuracy is not all there."""
    found = _on(scaled, sets.sides, None)
    status = np.where(usable, np.int64(Status.CONVERGED), np.int64(Status.NONFINITE))
    said = [""] * len(status)
    ask = usable & ~(sets.found & found.good)
    if ask.any():
        # Where the factors have not served, they shall not serve again.
        scaled = dataclasses.replace(scaled, definite=scaled.definite & ~ask)
        sides, start = _ask(scaled, engines, np.flatnonzero(ask), found.sides, status, said)
        found = _on(scaled, sides, start)
    solved = status == int(Status.CONVERGED)
    if found.weak is not None:
        for sample in np.flatnonzero(found.weak & solved):
            said[sample] = f"{said[sample]}; {WEAK}" if said[sample] else WEAK
    x, multipliers = found.x, found.multipliers
    if not solved.all():
        x, multipliers = (np.where(solved[:, None], part, np.nan) for part in (x, multipliers))
    messages = tuple(said) if any(said) else ()
    return Answer(_state(x, multipliers), torch.from_numpy(status), messages, lambda: found.factor)


def _none() -> Factor:
    raise AssertionError("an empty batch has nothing to factor")


def _on(scaled: Scaled, sides: np.ndarray, start: np.ndarray | None) -> _Found:
    """The solution on the active rows, near ``start`` where it is not the only one."""
    found = _solved(scaled, sides, start)
    settled = settle(scaled, sides, found.x, found.held, found.good)
    if settled is None:
        return found
    wider, weak = settled
    if (wider != sides).any():
        found = _solved(scaled, wider, start)
    return dataclasses.replace(found, weak=weak)


def _solved(scaled: Scaled, sides: np.ndarray, start: np.ndarray | None) -> _Found:
    Q, p, rows = scaled.Q, scaled.p, scaled.rows
    active = sides != 0
    factor = factored(scaled, active)
    target = np.where(active, np.where(sides > 0, rows.high, rows.low), 0)
    multipliers, rounds = np.zeros_like(rows.low), 0
    if start is None:
        x, a, c = np.zeros_like(p), -p, target
    else:
        x, a, c = start, -p - product(start, Q), target - active * times(rows.C, start)
    while True:  # the rounds after the first take out its rounding errors
        dx, change = factor.solve(a, c)
        x, multipliers = x + dx, multipliers + change
        values = times(rows.C, x)
        at = stationarity(p, product(x, Q), product(multipliers, rows.C))
        c = target - active * values
        rounds += 1
        if at.off.max() <= _ROUNDING:
            size = rows.length * np.linalg.norm(x, axis=-1, keepdims=True)
            if (np.abs(c) <= _ROUNDING * size).all():
                break
        if rounds == _ROUNDS:
            break
        a = -at.left
    good, held = conditions(rows, sides, x, multipliers, values, at)
    return _Found(factor, x, multipliers, sides, good, None, held)


def _ask(
    scaled: Scaled,
    engines: solvers.QP,
    where: np.ndarray,
    sides: np.ndarray,
    status: np.ndarray,
    said: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Have the samples ``where`` solved: their sides and x; ``status`` and ``said`` are set."""
    sides, start, rows = sides.copy(), np.zeros_like(scaled.p), scaled.rows
    convex = _convex(scaled, where)
    for sample in where[~convex]:
        status[sample] = int(Status.FAILED)
        said[sample] = NOT_CONVEX
    where = where[convex]
    if not len(where):
        return sides, start
    posed = _in_units(scaled, where)
    solution = engines(*(None if part is None else torch.from_numpy(part) for part in posed))
    status[where] = solution.status
    for row, sample in enumerate(where):
        said[sample] = solution.messages[row] if solution.messages else ""
    good = status[where] == int(Status.CONVERGED)
    if not good.any():
        return sides, start
    p, where = posed[1][good], where[good]
    length = scaled.samples(rows.length, where)
    x = start[where] = solution.x.numpy()[good]
    multipliers = np.concatenate([part.numpy()[good] for part in solution.multipliers], -1)
    multipliers = multipliers[:, : sides.shape[-1]]  # if there are no bounds, theirs are zeros
    size = np.abs(multipliers)
    force = np.abs(p).max(-1, keepdims=True) + size.sum(-1, keepdims=True)
    values = times(scaled.samples(rows.C, where), x)
    slack = np.where(multipliers > 0, rows.high[where] - values, values - rows.low[where])
    active = (size > TOLERANCE * force) & (size > slack / length)
    sides[where] = np.where(rows.equal[where], 1, np.where(active, np.sign(multipliers), 0))
    return sides, start


def _in_units(scaled: Scaled, where: np.ndarray) -> list[Any]:
    """Some programs as engines take them, objective and rows of size 1: thresholds have units."""
    _, m, k, bounds = scaled.sizes
    Q, p, rows = scaled.samples(scaled.Q, where), scaled.p[where], scaled.rows
    unit = np.maximum(np.abs(Q).max((-2, -1)), np.abs(p).max(-1))[:, None]
    unit[~(unit > 0)] = 1
    length = scaled.samples(rows.length, where)
    C = scaled.samples(rows.C, where) / length[..., None]
    C = C if len(C) > 1 else C[0]
    low, high = rows.low[where] / length, rows.high[where] / length
    posed: list[Any] = [Q / unit[..., None], p / unit]
    posed += [C[..., :m, :], high[:, :m]] if m else [None, None]
    posed += [C[..., m : m + k, :], high[:, m : m + k]] if k else [None, None]
    return posed + ([low[:, m + k :], high[:, m + k :]] if bounds else [None, None])


def _convex(scaled: Scaled, where: np.ndarray) -> np.ndarray:
    Q, size = (scaled.samples(part, where) for part in (scaled.Q, scaled.size))
    _, sound = cholesky(Q / size[..., None] + TOLERANCE * np.eye(Q.shape[-1]))
    return np.broadcast_to(sound, len(where))
