"""One sparse program in its own units, with all its rows in one matrix."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from foldopt.nn._qp.sparse.kkt import System
from foldopt.solvers import _scipy
from foldopt.solvers._qp.program import Point, Program

__all__ = ["Scaled"]


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A program whose Q has size 1 and whose rows have length 1: no threshold then has a unit.

    Attributes
    ----------
    Q, p
        Divided by ``size``.
    C, low, high
        The rows of G, of A and of the bounds, CSR ``(M, n)``, and their limits ``(M,)``.
    equal
        Which rows are equalities; a variable whose bounds are equal is one.
    length
        By what the rows were divided, ``(M,)``.
    size
        A number.
    """

    Q: Any
    p: np.ndarray
    C: Any
    low: np.ndarray
    high: np.ndarray
    equal: np.ndarray
    length: np.ndarray
    size: float

    @staticmethod
    def of(program: Program, bounds: bool) -> Scaled:
        """Bring a sparse program to its own units; ``bounds``: whether those are rows."""
        n, Q = len(program.p), program.hessian()
        blocks = [program.G, program.A, *([_scipy.sparse.eye(n, format="csr")] if bounds else [])]
        # Of CSR blocks SciPy stacks the arrays; of others it sorts the entries.
        rows = [block.tocsr() for block in blocks if block.shape[0]] or [program.G.tocsr()]
        C: Any = _scipy.sparse.vstack(rows, format="csr")
        low = [np.full(len(program.h), -np.inf), program.b, *([program.lower] if bounds else [])]
        high = [program.h, program.b, *([program.upper] if bounds else [])]
        squares = C.copy()
        squares.data = squares.data**2
        length = np.sqrt(np.asarray(squares.sum(axis=1)).reshape(-1))
        length[length == 0] = 1.0
        C.data = C.data / np.repeat(length, np.diff(C.indptr))
        lows, highs = np.concatenate(low) / length, np.concatenate(high) / length
        size = float(np.abs(Q.diagonal()).max(initial=0.0)) or 1.0
        return Scaled(Q / size, program.p / size, C, lows, highs, lows == highs, length, size)

    def system(self, sides: np.ndarray) -> System:
        """The KKT matrix of the rows where ``sides`` is not 0."""
        active = np.nonzero(sides)[0]
        return System(self.Q, self.C[active], active, self.length[active])

    def limits(self, sides: np.ndarray) -> np.ndarray:
        """The limits that rows are held at: the upper one where sides > 0, else the lower one."""
        return np.where(sides > 0, self.high, self.low)

    def multipliers(self, point: Point) -> np.ndarray:
        """Those of all rows, in the units here."""
        parts = [point.inequality, point.equality, point.bounds]
        return np.concatenate(parts)[: len(self.length)] * self.length / self.size

    def point(self, x: np.ndarray, y: np.ndarray, m: int, k: int) -> Point:
        """The reverse."""
        y = y * self.size / self.length
        return Point(x, y[:m], y[m : m + k], y[m + k :])
