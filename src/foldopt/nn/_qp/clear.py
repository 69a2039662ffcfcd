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
_FAR = 1e30  # beyond this a limit is none


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
    low, high = np.maximum(low, -_FAR), np.minimum(high, _FAR)
    column, pull = x[..., None], np.matmul(C.swapaxes(-1, -2), multipliers[..., None])[..., 0]
    Qx, values = np.matmul(Q, column)[..., 0], np.matmul(C, column)[..., 0]
    force = np.abs(np.stack([Qx, p, pull])).max((0, -1))[:, None]
    if not (np.abs(Qx + p + pull) <= _EXACT * force).all():
        return False
    size = length * np.sqrt((x * x).sum(-1, keepdims=True))
    active = sides != 0
    hit = np.abs(np.where(sides > 0, high, low) - values) <= _EXACT * size
    signed = multipliers * length * sides  # those of rows of length 1
    least = TOLERANCE * (force + np.abs(signed).max(-1, keepdims=True))
    # The multiplier of an equality may have any sign; but if it is zero, the equality may depend
    # on others, which then share it.
    strong = np.where(equal, multipliers != 0, signed > least)
    room = (high - values > TOLERANCE * (size + np.abs(high))) & (
        values - low > TOLERANCE * (size + np.abs(low))
    )
    return bool(np.where(active, hit & strong, room).all())
