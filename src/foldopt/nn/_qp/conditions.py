"""The optimality conditions of a program at a point: how far off, and what only just holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

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

    C: Tensor
    low: Tensor
    high: Tensor
    equal: Tensor
    length: Tensor


class Held(NamedTuple):
    """Which rows hold with equality, at high and at low, and which multipliers are zero or less."""

    at_high: Tensor
    at_low: Tensor
    slack: Tensor

    def doubtful(self, sides: Tensor, equal: Tensor) -> Tensor:
        """The active rows whose multiplier is zero, and the others that hold with equality."""
        return torch.where(sides != 0, self.slack & ~equal, self.at_high | self.at_low)


class Stationarity(NamedTuple):
    """Qx + p + Cᵀλ ``(B, n)``, the largest of its terms, and its size beside that, ``(B, 1)``."""

    left: Tensor
    force: Tensor
    off: Tensor


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
    C, low, high, equal = map(torch.from_numpy, (C, low, high, low == high))
    return Rows(C, low, high, equal, length_of(C))


def length_of(rows: Tensor) -> Tensor:
    """The length of each row, and 1 for a row of zeros."""
    length = torch.linalg.vector_norm(rows, dim=-1)
    entries = length.numpy()
    entries[entries == 0] = 1
    return length


def stationarity(p: Tensor, Qx: Tensor, pull: Tensor) -> Stationarity:
    """From the terms of the gradient of the Lagrangian, each ``(B, n)``."""
    left = Qx + p + pull
    force = torch.cat([Qx, p, pull], -1).abs().amax(-1, keepdim=True) + 1e-300
    return Stationarity(left, force, left.abs().amax(-1, keepdim=True) / force)


def conditions(
    rows: Rows, sides: Tensor, x: Tensor, multipliers: Tensor, values: Tensor, at: Stationarity
) -> tuple[Tensor, Held]:
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
    good = at.off.squeeze(-1) <= TOLERANCE
    size = rows.length * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    over, under = values - rows.high, rows.low - values
    over_limit = TOLERANCE * (size + rows.high.abs())
    under_limit = TOLERANCE * (size + rows.low.abs())
    signed = multipliers * rows.length * sides  # those of rows of length 1
    force = at.force
    if sides.shape[-1]:
        force = TOLERANCE * (force + signed.abs().amax(-1, keepdim=True))
        holds = (over <= over_limit) & (under <= under_limit)
        good = good & (holds & ((signed >= -force) | rows.equal)).all(-1)
    # Where a limit is infinite this is NaN, and false.
    return good, Held(over + over_limit >= 0, under + under_limit >= 0, signed <= force)
