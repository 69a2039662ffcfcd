"""The optimality conditions of a program at a point: how far off, and what only just holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from foldopt.nn._qp.algebra import lengths
from foldopt.nn._qp.program import Program

__all__ = ["TOLERANCE", "Held", "Rows", "Stationarity", "conditions", "rows_of", "stationarity"]

# How far the optimality conditions may be from holding, relative to the size of their terms; and
# what is smaller than this beside them is zero.
TOLERANCE = 1e-9


class Rows(NamedTuple):
    """All constraints as low ≤ Cx ≤ high; what all samples share has a first dimension of 1.

    Attributes
    ----------
    C, low, high
        The rows of G, of A and of the bounds, ``(B or 1, M, n)``, and their limits ``(B, M)``.
    equal
        Which rows are equalities, ``(B, M)``; a variable whose bounds are equal is one.
    length
        Of each row, ``(B or 1, M)``; 1 for a row of zeros.
    """

    C: np.ndarray
    low: np.ndarray
    high: np.ndarray
    equal: np.ndarray
    length: np.ndarray


class Held(NamedTuple):
    """Which rows hold with equality, at high and at low, and which multipliers are zero or less."""

    at_high: np.ndarray
    at_low: np.ndarray
    slack: np.ndarray

    def doubtful(self, sides: np.ndarray, equal: np.ndarray) -> np.ndarray:
        """The active rows whose multiplier is zero, and the others that hold with equality."""
        return np.where(sides != 0, self.slack & ~equal, self.at_high | self.at_low)


class Stationarity(NamedTuple):
    """Qx + p + Cᵀλ ``(B, n)``, the largest of its terms, and its size beside that, ``(B, 1)``."""

    left: np.ndarray
    force: np.ndarray
    off: np.ndarray


def rows_of(program: Program) -> Rows:
    """The constraints of a float64 program on the CPU."""
    _, p, G, h, A, b, lower, upper = (block.numpy() for block in program)
    count, (n, m, k, bounds) = len(p), program.sizes
    total = m + k + bounds
    C = np.empty((1 if G.ndim == A.ndim == 2 else count, total, n))
    low, high = np.full((count, total), -np.inf), np.empty((count, total))
    C[:, :m], C[:, m : m + k] = G, A
    if bounds:
        C[:, m + k :] = np.eye(n)
    high[:, :m], high[:, m : m + k], high[:, m + k :] = h, b, upper
    low[:, m : m + k], low[:, m + k :] = b, lower
    return Rows(C, low, high, low == high, lengths(C))


def stationarity(p: np.ndarray, Qx: np.ndarray, pull: np.ndarray) -> Stationarity:
    """From the terms of the gradient of the Lagrangian, each ``(B, n)``."""
    left = Qx + p + pull
    force = np.abs(np.concatenate([Qx, p, pull], -1)).max(-1, keepdims=True) + 1e-300
    return Stationarity(left, force, np.abs(left).max(-1, keepdims=True) / force)


def conditions(
    rows: Rows,
    sides: np.ndarray,
    x: np.ndarray,
    multipliers: np.ndarray,
    values: np.ndarray,
    at: Stationarity,
) -> tuple[np.ndarray, Held]:
    """Which samples are solved ``(B,)``, and what only just holds.

    Parameters
    ----------
    rows
        The constraints.
    sides
        Of each row, ``(B, M)``: −1 (active at low), 0, or +1 (at high, or an equality).
    x, multipliers, values
        The point, and Cx.
    at
        What is left of the gradient there.
    """
    good = at.off[:, 0] <= TOLERANCE
    size = rows.length * np.linalg.norm(x, axis=-1, keepdims=True)
    over, under = values - rows.high, rows.low - values
    over_limit = TOLERANCE * (size + np.abs(rows.high))
    under_limit = TOLERANCE * (size + np.abs(rows.low))
    signed = multipliers * rows.length * sides  # those of rows of length 1
    force = at.force
    if sides.shape[-1]:
        force = TOLERANCE * (force + np.abs(signed).max(-1, keepdims=True))
        holds = (over <= over_limit) & (under <= under_limit)
        good = good & (holds & ((signed >= -force) | rows.equal)).all(-1)
    # Where a limit is infinite this is NaN, and false.
    return good, Held(over + over_limit >= 0, under + under_limit >= 0, signed <= force)
