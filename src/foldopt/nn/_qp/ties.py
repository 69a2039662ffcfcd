"""Constraints that are only just active, and active rows that depend on one another."""

from __future__ import annotations

import numpy as np

from foldopt.nn._qp.conditions import Held
from foldopt.nn._qp.scaled import Scaled

__all__ = ["settle"]

_DEPENDENT = 1e-7


def settle(
    scaled: Scaled, sides: np.ndarray, x: np.ndarray, held: Held, good: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Decide which of the rows that hold with equality count as active.

    - A multiplier that is zero: the row counts as not active, which is one of the two one-sided
      derivatives, and so an element of the generalized Jacobian.
    - A row outside the working set that holds with equality: if it is a combination of active ones
      (the same constraint twice, say), it shares the multipliers, which are to be those of least
      norm; if not, it is weakly active.

    Parameters
    ----------
    scaled
        The program.
    sides, x, held, good
        The working set, the solution on it, what holds there, and which samples are solved.

    Returns
    -------
    sides, weak
        The rows that count, and the samples where the solution has no derivative in the usual
        sense. None: nothing to decide, in any sample.
    """
    if not sides.shape[-1]:
        return None
    rows = scaled.rows
    doubtful = held.doubtful(sides, rows.equal)
    if not (doubtful & good[:, None]).any():
        return None
    zero, tied = doubtful & (sides != 0), doubtful & (sides == 0)
    sides = np.where(zero, 0, sides).astype(sides.dtype)
    weak = (zero & good[:, None]).any(-1)
    for sample in np.flatnonzero(tied.any(-1) & good).tolist():
        more, independent = _dependent(
            scaled.sample(scaled.rows.C, sample)
            / scaled.sample(scaled.rows.length, sample)[:, None],
            sides[sample],
            np.flatnonzero(tied[sample]),
        )
        weak[sample] |= independent
        if len(more):
            side = np.where(held.at_high[sample], 1, -1).astype(sides.dtype)
            wider = sides[sample].copy()
            wider[more] = side[more]
            if _least_norm_has_signs(scaled, sample, wider, x[sample]):
                sides[sample] = wider
            else:
                weak[sample] = True
    return sides, weak


def _dependent(C: np.ndarray, sides: np.ndarray, tied: np.ndarray) -> tuple[np.ndarray, bool]:
    """The tied rows that are combinations of active ones, and whether there are others."""
    W, rows = C[sides != 0], C[tied]
    rest = rows
    if len(W):
        _, values, basis = np.linalg.svd(W, full_matrices=False)
        span = basis[values / values[0] > _DEPENDENT]
        rest = rows - (rows @ span.T) @ span
    same = np.linalg.norm(rest, axis=-1) <= _DEPENDENT
    return tied[same], not bool(same.all())


def _least_norm_has_signs(scaled: Scaled, sample: int, sides: np.ndarray, x: np.ndarray) -> bool:
    """Whether the multipliers of least norm on these rows have the signs that they need."""
    where = np.flatnonzero(sides)
    force = -(scaled.sample(scaled.Q, sample) @ x + scaled.p[sample])
    rows = scaled.sample(scaled.rows.C, sample)[where]
    least = np.linalg.lstsq(rows.T, force, rcond=None)[0]
    free = scaled.rows.equal[sample, where]
    return bool(((least * sides[where] > 0) | free).all())
