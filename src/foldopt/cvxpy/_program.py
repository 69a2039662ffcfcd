"""One cone program of a batch in numpy, in units in which its rows and objective have size 1."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import torch

from foldopt.cvxpy._cones import Cones
from foldopt.cvxpy._layout import Layout
from foldopt.cvxpy._parts import Parts, parts
from foldopt.cvxpy._smoothing import SMOOTH, Eigen

__all__ = ["SMALL", "Answer", "Program", "Residual", "balanced", "residuals"]

# Up to this size (variables and rows) matrices are dense.
SMALL = 250


@dataclasses.dataclass(frozen=True)
class Program:
    """min ½xᵀPx + qᵀx s.t. Ax + s = b, s ∈ K.

    Attributes
    ----------
    P, A
        Sparse, CSC; P symmetric.
    q, b
        ``(n,)`` and ``(m,)``.
    cones
        K.
    layout
        Which of its variables are semidefinite matrices; None: it is not of that form.
    """

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    cones: Cones
    layout: Layout | None = None

    @functools.cached_property
    def operators(self) -> tuple[Any, Any, Any]:
        """P, A and Aᵀ for products: dense where they are small, sparse elsewhere."""
        P, A = self.P, self.A
        if self.small:
            P, A = P.toarray(), A.toarray()
        return P, A, A.T

    @property
    def small(self) -> bool:
        """Whether dense matrices are the faster ones whatever the pattern."""
        return sum(self.A.shape) <= SMALL

    @functools.cached_property
    def parts(self) -> Parts | None:
        """The program taken apart, if its matrices are variables."""
        return parts(self.P, self.A, self.layout, self.cones.semidefinite)

    def project(self, v: np.ndarray) -> np.ndarray:
        """The point of K* next to v."""
        if self.parts is not None and not self.cones.kinds - SMOOTH:
            points = [Eigen.of(self.cones, one).smoothed(0.0)[0] for one in np.atleast_2d(v)]
            return np.stack(points).reshape(v.shape)
        with torch.no_grad():
            return self.cones.project(torch.from_numpy(v)).numpy()


class Answer(NamedTuple):
    """What an engine returns: a status, x and v = y − s if it has them, and its words."""

    status: int
    x: np.ndarray | None
    v: np.ndarray | None
    said: str


class Residual(NamedTuple):
    """F, see :mod:`foldopt.cvxpy._step`, and its size beside that of its terms."""

    F: np.ndarray
    error: float


def residuals(programs: list[Program], x: list[np.ndarray], v: list[np.ndarray]) -> list[Residual]:
    """F of some programs of one kind, each at its x and v."""
    if not programs:
        return []
    y = programs[0].project(np.stack(v))
    return list(map(_residual, programs, x, v, y))


def _residual(program: Program, x: np.ndarray, v: np.ndarray, y: np.ndarray) -> Residual:
    P, A, transposed = program.operators
    Px, pull, Ax = P @ x, transposed @ y, A @ x
    first, second = Px + program.q + pull, Ax + (y - v) - program.b
    sizes = (
        1 + max(_size(Px), _size(program.q), _size(pull)),
        1 + max(_size(Ax), _size(y - v), _size(program.b)),
    )
    worst = max(_size(first) / sizes[0], _size(second) / sizes[1])
    return Residual(np.concatenate([first, second]), float(worst))


def balanced(
    program: Program, v: np.ndarray, y: np.ndarray
) -> tuple[Program, np.ndarray, np.ndarray]:
    """The program and v with each curved cone in units in which y = Π(v) and s have the same size.

    The logarithms of those units are returned too, ``(m,)``: zero for linear rows, of whose y and s
    one is zero.
    """
    s = y - v
    gauge = np.zeros(len(v))
    for group in program.cones.groups:
        if group.rows.shape[1] > 1:
            sizes = (np.linalg.norm(part[group.rows], axis=1) for part in (y, s))
            both = np.stack(list(sizes))
            fine = (both > 1e-9 * (1 + both.max(axis=0))).all(axis=0)
            ratio = np.where(fine, both[0], 1) / np.where(fine, both[1], 1)
            gauge[group.rows] = 0.5 * np.log(ratio)[:, None]
    unit = np.exp(gauge)
    A = program.A.copy()
    A.data = A.data * unit[A.indices]
    return (
        dataclasses.replace(program, A=A, b=program.b * unit),
        y / unit - s * unit,
        gauge,
    )


def _size(part: np.ndarray) -> float:
    found = np.abs(part).max(initial=0.0)
    return float(found) if np.isfinite(found) else np.inf
