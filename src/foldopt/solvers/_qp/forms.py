"""A program in the forms that engines want, and multipliers back from there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._qp.program import Point, Program

__all__ = [
    "Conic",
    "Ranged",
    "as_conic",
    "as_ranged",
    "from_conic",
    "from_ranged",
    "to_conic",
    "to_ranged",
]


class Ranged(NamedTuple):
    """low ≤ Cx ≤ high, with the rows of G first, then those of A, then bounds if asked for."""

    C: Any
    low: np.ndarray
    high: np.ndarray


def as_ranged(program: Program, bounds: bool) -> Ranged:
    """Rows with two sides; ``bounds`` as rows of their own, where any is finite."""
    blocks = [program.G, program.A]
    low = [np.full(len(program.h), -np.inf), program.b]
    high = [program.h, program.b]
    if bounds and program.bounded:
        n = len(program.p)
        blocks.append(_scipy.sparse.eye(n, format="csc") if program.sparse else np.eye(n))
        low.append(program.lower)
        high.append(program.upper)
    C = _scipy.sparse.vstack(blocks, format="csc") if program.sparse else np.concatenate(blocks)
    return Ranged(C, np.concatenate(low), np.concatenate(high))


def from_ranged(program: Program, x: np.ndarray, y: np.ndarray) -> Point:
    """x and the multipliers of :func:`as_ranged`'s rows, above 0 at an active upper side."""
    m, k = len(program.h), len(program.b)
    mu = y[m + k :] if len(y) > m + k else np.zeros(len(x))
    return Point(x, np.maximum(y[:m], 0), y[m : m + k], mu)


def to_ranged(program: Program, point: Point) -> np.ndarray:
    """The multipliers of :func:`as_ranged`'s rows, bounds included, at a point."""
    parts = [point.inequality, point.equality]
    return np.concatenate([*parts, point.bounds] if program.bounded else parts)


class Conic(NamedTuple):
    """Cx + s = d, s = 0 in the first ``zeros`` rows and s ≥ 0 in the others.

    The rows are those of A, of G, then the finite upper bounds, then the finite lower ones.
    """

    C: Any
    d: np.ndarray
    zeros: int
    above: np.ndarray
    below: np.ndarray


def as_conic(program: Program) -> Conic:
    """The rows of the standard conic form, with the same matrix format as the program."""
    n = len(program.p)
    above, below = np.isfinite(program.upper), np.isfinite(program.lower)
    eye: Any = _scipy.sparse.eye(n, format="csr") if program.sparse else np.eye(n)
    blocks = [program.A, program.G, eye[above], -eye[below]]
    C = _scipy.sparse.vstack(blocks, format="csc") if program.sparse else np.concatenate(blocks)
    d = np.concatenate([program.b, program.h, program.upper[above], -program.lower[below]])
    return Conic(C, d, len(program.b), above, below)


def from_conic(program: Program, form: Conic, x: np.ndarray, z: np.ndarray) -> Point:
    """x and the multipliers z of :func:`as_conic`'s rows: Qx + p + Cᵀz = 0."""
    m, k, mu = len(program.h), form.zeros, np.zeros(len(x))
    lam = np.maximum(z[k : k + m], 0)
    count = int(form.above.sum())
    mu[form.above] = z[k + m : k + m + count]
    mu[form.below] -= z[k + m + count :]
    return Point(x, lam, z[:k], mu)


def to_conic(form: Conic, point: Point) -> np.ndarray:
    """The multipliers of :func:`as_conic`'s rows at a point."""
    up, down = np.maximum(point.bounds, 0), np.maximum(-point.bounds, 0)
    return np.concatenate([point.equality, point.inequality, up[form.above], down[form.below]])
