"""From an x that branch and bound found to one that meets the optimality conditions.

Branch and bound proves where the best x lies, but is content with constraints that hold to 1e-9
and with an objective that is right to a gap: of x itself that promises little, and multipliers it
has none. The place is known, though, and there the rest is local: which constraints hold x, their
multipliers by nonnegative least squares, and one Newton step of the optimality conditions on them,
which are linear. A polished x replaces the old one only if it is not worse.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._global.found import NonconvexQP
from foldopt.solvers._multipliers import Multipliers

__all__ = ["polished"]

# Constraints with less slack than this, relative to the size of the row, may be active.
_NEAR = 1e-6


class _Rows(NamedTuple):
    """E x = f and C x ≤ d, all rows of length one, and the lengths that they had."""

    E: np.ndarray
    f: np.ndarray
    C: np.ndarray
    d: np.ndarray
    lengths: np.ndarray  # of G and A, in this order


def polished(qp: NonconvexQP, x: np.ndarray) -> tuple[np.ndarray, Multipliers]:
    """A better x near this one, and its multipliers."""
    x = np.clip(x, qp.lower, qp.upper)
    fixed = qp.lower == qp.upper
    rows = _rows(qp, fixed)
    y, nu = _multipliers(qp, rows, x)
    for held in _guesses(rows, x, y):
        candidate = _newton(qp, rows, x, held)
        if _no_worse(qp, rows, candidate, x, y, nu):
            x = candidate
            y, nu = _multipliers(qp, rows, x)
            break
    return x, _named(qp, rows, fixed, y, nu)


def _rows(qp: NonconvexQP, fixed: np.ndarray) -> _Rows:
    eye = np.eye(len(qp.p))
    lengths = np.linalg.norm(np.concatenate([qp.G, qp.A]), axis=1)
    lengths = np.where(lengths > 0, lengths, 1.0)
    of_G, of_A = lengths[: len(qp.h)], lengths[len(qp.h) :]
    above, below = _bounds_of(qp)
    return _Rows(
        E=np.concatenate([qp.A / of_A[:, None], eye[fixed]]),
        f=np.concatenate([qp.b / of_A, qp.lower[fixed]]),
        C=np.concatenate([qp.G / of_G[:, None], eye[above], -eye[below]]),
        d=np.concatenate([qp.h / of_G, qp.upper[above], -qp.lower[below]]),
        lengths=lengths,
    )


def _bounds_of(qp: NonconvexQP) -> tuple[np.ndarray, np.ndarray]:
    """The variables with an upper, and with a lower bound, but for the fixed ones."""
    free = qp.lower < qp.upper
    return np.flatnonzero(np.isfinite(qp.upper) & free), np.flatnonzero(
        np.isfinite(qp.lower) & free
    )


def _multipliers(qp: NonconvexQP, rows: _Rows, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y ≥ 0 of C and ν of E that bring ‖Qx + p + Cᵀy + Eᵀν‖ to its least, y = 0 away from x.

    ν is free: on a basis Z of the kernel of E it is gone, Zᵀ(Qx + p + Cᵀy) = 0, y ≥ 0, which is
    nonnegative least squares.
    """
    gradient = qp.Q @ x + qp.p
    near = rows.d - rows.C @ x <= _NEAR * (1 + np.abs(rows.d))
    y = np.zeros(len(rows.d))
    Z = _kernel(rows.E)
    if near.any() and Z.shape[1]:
        y[near] = _scipy.optimize.nnls(Z.T @ rows.C[near].T, -Z.T @ gradient)[0]
    nu = np.linalg.lstsq(rows.E.T, -(gradient + rows.C.T @ y), rcond=None)[0]
    return y, nu


def _kernel(E: np.ndarray) -> np.ndarray:
    if not len(E):
        return np.eye(E.shape[1])
    _, values, vectors = np.linalg.svd(E)
    rank = int((values > 1e-12 * values.max(initial=1.0)).sum())
    return vectors[rank:].T


def _guesses(rows: _Rows, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Which rows of C to hold: those that push, or all that are near."""
    pushing = y > 1e-9 * (1 + y.max(initial=0.0))
    near = rows.d - rows.C @ x <= _NEAR * (1 + np.abs(rows.d))
    return [pushing, near]


def _newton(qp: NonconvexQP, rows: _Rows, x: np.ndarray, held: np.ndarray) -> np.ndarray:
    """x after one Newton step on Qx + p + Jᵀw = 0, Jx = r, that moves it no more than needed."""
    J = np.concatenate([rows.E, rows.C[held]])
    r = np.concatenate([rows.f, rows.d[held]])
    size = max(float(np.abs(qp.Q).max()), 1e-300)
    K = np.block([[qp.Q / size, J.T], [J, np.zeros((len(J), len(J)))]])
    right = -np.concatenate([(qp.Q @ x + qp.p) / size, J @ x - r])
    # Least norm: where rows are dependent, or Q is flat along a face, the system is singular.
    step = np.linalg.lstsq(K, right, rcond=1e-12)[0][: len(x)]
    moved = np.clip(x + step, qp.lower, qp.upper)
    # A bound that is held is met exactly, not to rounding.
    above, below = _bounds_of(qp)
    m, fixed = len(qp.h), qp.lower == qp.upper
    at_upper = above[held[m : m + len(above)]]
    at_lower = below[held[m + len(above) :]]
    moved[at_upper], moved[at_lower] = qp.upper[at_upper], qp.lower[at_lower]
    moved[fixed] = qp.lower[fixed]
    return moved


def _no_worse(
    qp: NonconvexQP,
    rows: _Rows,
    new: np.ndarray,
    old: np.ndarray,
    y: np.ndarray,
    nu: np.ndarray,
) -> bool:
    """As feasible, to rounding, and as low.

    An x outside by v may be lower than any inside, by (Σy + Σ|ν|) v: so much may be given back.
    """
    size = 1 + np.abs(new).max()
    outside = qp.violation(old)
    if not np.isfinite(new).all() or qp.violation(new) > max(outside, 1e-13 * size):
        return False
    scale = 0.5 * np.abs(new) @ np.abs(qp.Q) @ np.abs(new) + np.abs(qp.p) @ np.abs(new)
    given_back = 2 * outside * (y.sum() + np.abs(nu).sum()) + 1e-14 * float(scale)
    return qp.value(new) <= qp.value(old) + given_back


def _named(
    qp: NonconvexQP, rows: _Rows, fixed: np.ndarray, y: np.ndarray, nu: np.ndarray
) -> Multipliers:
    m, k = len(qp.h), len(qp.b)
    above, below = _bounds_of(qp)
    bounds = np.zeros(len(qp.p))
    bounds[above] += y[m : m + len(above)]
    bounds[below] -= y[m + len(above) :]
    bounds[fixed] += nu[k:]
    return Multipliers(y[:m] / rows.lengths[:m], nu[:k] / rows.lengths[m:], bounds)
