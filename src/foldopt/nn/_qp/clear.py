"""Whether what DAQP returns leaves nothing to decide and nothing to improve.

As a rule it meets the optimality conditions to rounding error, each active row has a multiplier
well above zero, and each other row room. Then nothing is to be solved: the point is the solution,
and the KKT matrix is factored when a derivative is asked for. In NumPy, whose calls cost a third of
torch's on matrices as small as these.
"""

from __future__ import annotations

import numpy as np

from foldopt.nn._qp.algebra import product, times
from foldopt.nn._qp.conditions import TOLERANCE
from foldopt.nn._qp.scaled import Scaled

__all__ = ["clear"]

# What rounding leaves in the optimality conditions.
_EXACT = 128 * np.finfo(float).eps


def clear(
    scaled: Scaled, sides: np.ndarray, x: np.ndarray, multipliers: np.ndarray
) -> np.ndarray | None:
    """Look at all samples: by how much the step moves each of them, ``(B,)``, or None.

    That is ‖U(z) − z‖ / (1 + ‖z‖), for the U of :mod:`~foldopt.nn._qp.step`: what is left of the
    optimality conditions, and nothing for the rows that are not active.

    Parameters
    ----------
    scaled
        The programs.
    sides
        Of each row, ``(B, M)``: −1 (active at low), 0, or +1 (at high, or an equality).
    x, multipliers
        ``(B, n)`` and ``(B, M)``.
    """
    p, (C, low, high, equal, length) = scaled.p, scaled.rows
    Qx, values, pull = times(scaled.Q, x), times(C, x), product(multipliers, C)
    force = np.abs(np.concatenate([Qx, p, pull], -1)).max(-1, keepdims=True)
    left = Qx + p + pull
    if not (np.abs(left) <= _EXACT * force).all():
        return None
    square = _square(x)
    size = length * np.sqrt(square)[:, None]
    # How far each row is from the limit that holds it, or from the nearer one if none does.
    above, below, active = high - values, values - low, sides != 0
    held = np.where(sides > 0, above, below)
    room = np.where(active, held, np.minimum(above, below))
    pressed = np.abs(multipliers) * length  # the multipliers of rows of length 1
    least = TOLERANCE * (force + pressed.max(-1, keepdims=True, initial=0))
    # The multiplier of an equality may have any size; but if it is zero, the equality may depend
    # on others, which then share it.
    strong = (pressed > least) | (equal & (multipliers != 0))
    exact = strong & (np.abs(room) <= _EXACT * size)
    if not np.where(active, exact, room > 2 * TOLERANCE * size).all():
        return None
    moved = np.sqrt(_square(left) + _square(np.where(active, room, 0)))
    return moved / (1 + np.sqrt(square + _square(multipliers)))


def _square(rows: np.ndarray) -> np.ndarray:
    """The squared length of each row."""
    return np.einsum("bi,bi->b", rows, rows)
