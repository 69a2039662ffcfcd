"""Whether what DAQP returns leaves nothing to decide and nothing to improve.

As a rule it meets the optimality conditions to rounding error, each active row has a multiplier
well above zero, and each other row room. Then nothing is to be solved: the point is the solution,
and the KKT matrix is factored when a derivative is asked for. In NumPy, whose calls cost a third of
torch's on matrices as small as these.
"""

from __future__ import annotations

import numpy as np

from foldopt.nn._qp.conditions import TOLERANCE
from foldopt.nn._qp.scaled import Scaled

__all__ = ["clear"]

# What rounding leaves in the optimality conditions.
_EXACT = 128 * np.finfo(float).eps


@np.errstate(all="ignore")  # what overflows is not clear
def clear(scaled: Scaled, sides: np.ndarray, x: np.ndarray, multipliers: np.ndarray) -> bool:
    """Look at all samples.

    Parameters
    ----------
    scaled
        The programs.
    sides
        Of each row, ``(B, M)``: −1 (active at low), 0, or +1 (at high, or an equality).
    x, multipliers
        ``(B, n)`` and ``(B, M)``.
    """
    Q, p, rows = scaled.Q.numpy(), scaled.p.numpy(), scaled.rows
    C, low, high, equal, length = (part.numpy() for part in rows)
    column, pull = x[..., None], np.matmul(multipliers[:, None], C)[:, 0]
    Qx, values = np.matmul(Q, column)[..., 0], np.matmul(C, column)[..., 0]
    force = np.abs(np.concatenate([Qx, p, pull], -1)).max(-1, keepdims=True)
    if not (np.abs(Qx + p + pull) <= _EXACT * force).all():
        return False
    size = length * np.sqrt((x * x).sum(-1, keepdims=True))
    # How far each row is from the nearer of its limits: from the outside, less than zero.
    room = np.minimum(high - values, values - low)
    pressed = np.abs(multipliers) * length  # the multipliers of rows of length 1
    least = TOLERANCE * (force + pressed.max(-1, keepdims=True, initial=0))
    # The multiplier of an equality may have any size; but if it is zero, the equality may depend
    # on others, which then share it.
    strong = (pressed > least) | (equal & (multipliers != 0))
    exact = strong & (np.abs(room) <= _EXACT * size)
    return bool(np.where(sides != 0, exact, room > 2 * TOLERANCE * size).all())
