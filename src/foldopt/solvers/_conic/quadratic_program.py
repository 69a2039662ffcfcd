"""One program with quadratic constraints, and Newton steps on its optimality conditions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from foldopt.solvers._multipliers import Multipliers

__all__ = ["QuadraticProgram", "newton"]

_STEPS = 5


class QuadraticProgram(NamedTuple):
    """min ½xᵀQx + pᵀx, ½xᵀQᵢx + pᵢᵀx ≤ rᵢ, Gx ≤ h, Ax = b, bounds: one sample, all blocks there."""

    Q: np.ndarray
    p: np.ndarray
    Qs: np.ndarray
    ps: np.ndarray
    rs: np.ndarray
    G: np.ndarray
    h: np.ndarray
    A: np.ndarray
    b: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class _Point(NamedTuple):
    """x, y ≥ 0 of all inequalities (quadratic, G, upper, lower), ν."""

    x: np.ndarray
    y: np.ndarray
    nu: np.ndarray


def newton(
    qcqp: QuadraticProgram, x: np.ndarray, multipliers: Multipliers
) -> tuple[np.ndarray, Multipliers, float]:
    """The point after Newton steps on the constraints that push, and its error.

    The error is that of the optimality conditions, relative to the sizes of their terms. The old
    point stays if that does not fall.
    """
    above, below = np.isfinite(qcqp.upper), np.isfinite(qcqp.lower)
    up, down = np.maximum(multipliers.bounds, 0), np.maximum(-multipliers.bounds, 0)
    y = np.concatenate([multipliers.inequality, up[above], down[below]])
    best = point = _Point(x, y, multipliers.equality)
    error = _error(qcqp, point)
    slack, slopes = _inequalities(qcqp, x)
    # Force against distance: one of the two is nearly zero.
    lengths = np.linalg.norm(slopes, axis=1)
    lengths = np.where(lengths > 0, lengths, 1.0)
    force = y * lengths / max(_size(qcqp.Q @ x + qcqp.p), 1e-300)
    held = force > slack / lengths / max(_size(x), 1e-300)
    for _ in range(_STEPS):
        point = _step(qcqp, point, held)
        found = _error(qcqp, point)
        if found < error:
            best, error = point, found
    m = len(qcqp.rs) + len(qcqp.h)
    mu = np.zeros(len(x))
    mu[above] += best.y[m : m + above.sum()]
    mu[below] -= best.y[m + above.sum() :]
    return best.x, Multipliers(best.y[:m], best.nu, mu), error


def _step(qcqp: QuadraticProgram, point: _Point, held: np.ndarray) -> _Point:
    x, y, nu = point
    slack, slopes = _inequalities(qcqp, x)
    J = np.concatenate([slopes[held], qcqp.A])
    lengths = np.linalg.norm(J, axis=1)
    lengths = np.where(lengths > 0, lengths, 1.0)
    held_y = np.where(held, y, 0.0)
    H = qcqp.Q + np.tensordot(held_y[: len(qcqp.rs)], qcqp.Qs, 1)
    gradient = qcqp.Q @ x + qcqp.p + slopes.T @ held_y + qcqp.A.T @ nu
    # Rows of length one, and the objective as large as they.
    J = J / lengths[:, None]
    size = max(_size(H), _size(qcqp.p), 1e-300)
    K = np.block([[H / size, J.T], [J, np.zeros((len(J), len(J)))]])
    off = np.concatenate([-slack[held], qcqp.A @ x - qcqp.b]) / lengths
    change = np.linalg.lstsq(K, -np.concatenate([gradient / size, off]), rcond=1e-13)[0]
    more = change[len(x) :] * size / lengths
    new_y = held_y.copy()
    new_y[held] += more[: held.sum()]
    moved = np.clip(x + change[: len(x)], qcqp.lower, qcqp.upper)
    # A bound that is held is met exactly, not to rounding.
    m = len(qcqp.rs) + len(qcqp.h)
    above, below = (np.flatnonzero(np.isfinite(side)) for side in (qcqp.upper, qcqp.lower))
    at_upper, at_lower = above[held[m : m + len(above)]], below[held[m + len(above) :]]
    moved[at_upper], moved[at_lower] = qcqp.upper[at_upper], qcqp.lower[at_lower]
    return _Point(moved, np.maximum(new_y, 0.0), nu + more[held.sum() :])


def _inequalities(qcqp: QuadraticProgram, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slack of every inequality, below 0 where it is violated, and its gradient."""
    above, below = np.isfinite(qcqp.upper), np.isfinite(qcqp.lower)
    eye, curved = np.eye(len(x)), qcqp.Qs @ x
    slack = [
        qcqp.rs - 0.5 * curved @ x - qcqp.ps @ x,
        qcqp.h - qcqp.G @ x,
        (qcqp.upper - x)[above],
        (x - qcqp.lower)[below],
    ]
    slopes = [curved + qcqp.ps, qcqp.G, eye[above], -eye[below]]
    return np.concatenate(slack), np.concatenate(slopes)


def _error(qcqp: QuadraticProgram, point: _Point) -> float:
    x, y, nu = point
    slack, slopes = _inequalities(qcqp, x)
    terms = (qcqp.Q @ x, qcqp.p, slopes.T @ y, qcqp.A.T @ nu)
    force = max(map(_size, terms)) or 1.0
    # Distances: a slack divided by the length of its gradient.
    lengths = np.linalg.norm(slopes, axis=1)
    lengths = np.where(lengths > 0, lengths, 1.0)
    far = max(_size(x), _size(slack / lengths)) or 1.0
    rows = np.linalg.norm(qcqp.A, axis=1)
    rows = np.where(rows > 0, rows, 1.0)
    parts = (
        _size(sum(terms)) / force,
        _size(np.maximum(-slack / lengths, 0)) / far,
        _size((qcqp.A @ x - qcqp.b) / rows) / far,
        _size(y * slack) / (force * far),
    )
    return float(np.max(parts)) if np.isfinite(parts).all() else np.inf


def _size(v: np.ndarray | float) -> float:
    return float(np.abs(v).max(initial=0))
