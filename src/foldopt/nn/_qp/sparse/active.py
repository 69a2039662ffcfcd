"""Which rows of a sparse program are active, and the exact solution that they give.

An interior point method tells the active rows from the others long before it has the digits of x:
there the multiplier is larger than the slack. Their KKT system then gives x and the multipliers to
rounding error. A row that this shows to be on the wrong side is moved to the other, which is a step
of the primal–dual active set method (M. Hintermüller, K. Ito, K. Kunisch, SIAM J. Optimization 13
(2002)).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from foldopt.nn._qp.sparse.kkt import System
from foldopt.nn._qp.sparse.scaled import Scaled
from foldopt.solvers._qp.program import Point

__all__ = ["Found", "exact", "guessed"]

# How far the optimality conditions may be from holding, relative to the size of their terms; and
# what is smaller than this beside them is zero.
_TOLERANCE = 1e-9
_MOVES = 3


@dataclasses.dataclass(frozen=True)
class Found:
    """What some active rows give.

    Attributes
    ----------
    system
        Their KKT matrix.
    sides
        1 where a row is active at its upper limit, −1 at its lower one, 0 elsewhere, ``(M,)``.
    x, y
        The solution, and the multipliers of all rows.
    good
        Whether the optimality conditions hold.
    weak
        Whether x has one-sided derivatives only.
    """

    system: System
    sides: np.ndarray
    x: np.ndarray
    y: np.ndarray
    good: bool
    weak: bool = False


def guessed(scaled: Scaled, point: Point) -> np.ndarray:
    """The sides of the rows at an approximate solution."""
    y, values = scaled.multipliers(point), scaled.C @ point.x
    slack = np.where(y > 0, scaled.high - values, values - scaled.low)
    active = (np.abs(y) > slack) & (np.abs(y) > _TOLERANCE * _force(scaled, y))
    sides = np.where(active, np.sign(y), 0).astype(np.int8)
    return np.where(scaled.equal, 1, sides).astype(np.int8)


def exact(scaled: Scaled, sides: np.ndarray, start: Point) -> Found:
    """The solution on the active rows, once rows on the wrong side have been moved.

    Where x is not unique, it is the one nearest to that of ``start``.
    """
    found = _on(scaled, sides, start)
    for _ in range(_MOVES):
        if found.good:
            return _settled(scaled, found, start)
        moved = _moved(scaled, found)
        if moved is None:
            return found
        found = _on(scaled, moved, start)
    return _settled(scaled, found, start) if found.good else found


def _on(scaled: Scaled, sides: np.ndarray, start: Point) -> Found:
    system, n = scaled.system(sides), len(scaled.p)
    right = np.concatenate([-scaled.p, scaled.limits(sides)[system.active]])
    begin = np.concatenate([start.x, scaled.multipliers(start)[system.active]])
    both = system.solve(right, begin).value
    y = np.zeros(len(sides))
    y[system.active] = both[n:]
    return Found(system, sides, both[:n], y, _holds(scaled, sides, both[:n], y))


def _holds(scaled: Scaled, sides: np.ndarray, x: np.ndarray, y: np.ndarray) -> bool:
    Qx, pull = scaled.Q @ x, scaled.C.T @ y
    force = 1e-300 + sum(float(np.abs(part).max(initial=0)) for part in (Qx, scaled.p, pull))
    over, under, reach = _excess(scaled, x)
    right = (y * sides >= -_TOLERANCE * force) | scaled.equal
    balanced = np.abs(Qx + scaled.p + pull).max() <= _TOLERANCE * force
    return bool(balanced and (over <= reach).all() and (under <= reach).all() and right.all())


def _excess(scaled: Scaled, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By how much the rows are above and below their limits, and how much of that is rounding."""
    values = scaled.C @ x
    size = np.abs(scaled.C) @ np.abs(x) + float(np.abs(x).max(initial=0))
    finite = [np.where(np.isfinite(limit), np.abs(limit), 0) for limit in (scaled.low, scaled.high)]
    return values - scaled.high, scaled.low - values, _TOLERANCE * (size + np.maximum(*finite))


def _moved(scaled: Scaled, found: Found) -> np.ndarray | None:
    """The sides with every row that is on the wrong one on the other; None if there is none."""
    over, under, reach = _excess(scaled, found.x)
    wrong = (found.y * found.sides < 0) & ~scaled.equal
    sides = np.where(wrong, 0, found.sides)
    sides = np.where((sides == 0) & (over > reach), 1, sides)
    sides = np.where((sides == 0) & (under > reach), -1, sides).astype(np.int8)
    return sides if (sides != found.sides).any() else None


def _settled(scaled: Scaled, found: Found, start: Point) -> Found:
    """Decide which of the rows that hold with equality count as active.

    Those whose multiplier is zero do not, which is one of two one-sided derivatives. A row outside
    that holds with equality is taken in: where it depends on the others, the multipliers of least
    norm are shared with it, and that is what they are to be; where it does not, its multiplier is
    zero, and it is weakly active.
    """
    over, under, reach = _excess(scaled, found.x)
    at_high, at_low = over >= -reach, under >= -reach
    tied = (found.sides == 0) & (at_high | at_low)
    weak = False
    if tied.any():
        wider = np.where(tied, np.where(at_high, 1, -1), found.sides).astype(np.int8)
        shared = _on(scaled, wider, start)
        weak = not shared.good
        found = shared if shared.good else found
    zero = (found.sides != 0) & ~scaled.equal
    zero &= found.y * found.sides <= _TOLERANCE * _force(scaled, found.y)
    if not zero.any():
        return dataclasses.replace(found, weak=weak)
    kept = _on(scaled, np.where(zero, 0, found.sides).astype(np.int8), start)
    return dataclasses.replace(kept, weak=True)


def _force(scaled: Scaled, y: np.ndarray) -> float:
    return float(np.abs(y).max(initial=0)) + float(np.abs(scaled.p).max())
