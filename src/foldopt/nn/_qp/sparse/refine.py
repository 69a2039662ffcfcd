"""Iterative refinement: an exact solution from the factors of a matrix that is nearly the one.

    v ← v + (K + δJ)⁻¹ (b − K v),

the proximal point method. It contracts by δ/(δ + σ) for singular values σ, and leaves alone what a
singular K cannot give.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np

from foldopt.solvers import _scipy

__all__ = ["Refined", "Shifted", "pivoted"]

# δ² is well above rounding: a pivot can come down to 2δ by a difference of numbers of size 1/δ.
_SHIFT = 1e-7
_SMALLER = 1e-12
_PASSES = 30
# A pass that does not shrink the residual to this share of itself is the last one.
_PROGRESS = 0.5
_SMALL = 1e-9
# Up to this many entries a column QDLDL takes half of SuperLU's time, if it is installed; with more
# of them SuperLU, which works on blocks, is the faster.
_THIN = 8
# SuperLU's panels. Wide ones pay on large supernodes, which KKT matrices seldom have: that of a
# sequence's total variation (470 000 rows) takes 0.16 s, and 0.25 s with its own 20; that of a grid
# of 220 × 220 takes 0.12 s, and 0.17 s.
_PANEL = 4
_EPS = float(np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True)
class Refined:
    """A solution, and what is left of the right-hand side; ``(N,)`` or ``(N, right-hand sides)``.

    ``solved``: whether rounding alone explains what is left, for each right-hand side.
    """

    value: np.ndarray
    residual: np.ndarray
    solved: np.ndarray


@dataclasses.dataclass(frozen=True)
class Shifted:
    """A symmetric matrix K, and factors of K + δJ, where J is 1 in the first ``n`` places, then −1.

    Attributes
    ----------
    matrix
        K, CSC.
    n
        See above.
    factors
        Anything with a method ``solve``.
    """

    matrix: Any
    n: int
    factors: Any

    @staticmethod
    def of(matrix: Any, n: int) -> Shifted:
        """Factor a quasi-definite matrix, without pivoting."""
        shifted = _shifted(matrix, n, _SHIFT)
        factors = _LDL.of(shifted) if matrix.nnz <= _THIN * matrix.shape[0] else None
        if factors is None:
            factors = _scipy.sparse_linalg.splu(
                shifted,
                permc_spec="MMD_AT_PLUS_A",
                panel_size=_PANEL,
                relax=1,
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
        return Shifted(matrix, n, factors)

    def once(self, right: np.ndarray) -> np.ndarray:
        """(K + δJ)⁻¹ b."""
        return self.factors.solve(right)

    def solve(self, right: np.ndarray, start: np.ndarray | None = None) -> Refined:
        """K v = b, from ``start`` on."""
        value = np.zeros_like(right) if start is None else start
        residual = right if start is None else right - self.matrix @ start
        size, length = np.linalg.norm(right, axis=0), np.linalg.norm(residual, axis=0)
        for _ in range(_PASSES):
            if (length <= 64 * _EPS * (size + np.linalg.norm(value, axis=0))).all():
                break
            trial = value + self.once(residual)
            left = right - self.matrix @ trial
            now = np.linalg.norm(left, axis=0)
            better = now < length  # never where it is NaN
            value, residual = np.where(better, trial, value), np.where(better, left, residual)
            progress = now < _PROGRESS * length
            length = np.where(better, now, length)
            if not progress.any():
                break
        reach = 64 * _EPS * np.sqrt(len(right)) * (size + np.linalg.norm(value, axis=0))
        # A v that is much longer than b is no excuse for a residual that is not small beside b.
        return Refined(value, residual, np.asarray(length <= np.minimum(reach, _SMALL * size)))


@dataclasses.dataclass(frozen=True)
class _LDL:
    """QDLDL's factors, for one right-hand side or several."""

    factors: Any

    @staticmethod
    def of(matrix: Any) -> _LDL | None:
        """None if QDLDL is not installed, or meets a pivot of zero."""
        try:
            qdldl = importlib.import_module("qdldl")
        except ImportError:
            return None
        try:
            return _LDL(qdldl.Solver(_scipy.sparse.triu(matrix, format="csc"), upper=True))
        except (RuntimeError, ValueError):
            return None

    def solve(self, right: np.ndarray) -> np.ndarray:
        if right.ndim == 1:
            return self.factors.solve(right)
        columns = [self.factors.solve(column) for column in np.ascontiguousarray(right.T)]
        return np.stack(columns, 1) if columns else right


def pivoted(system: Shifted) -> Shifted | None:
    """The same with a smaller δ, which needs pivoting; None if it is singular in spite of that."""
    try:
        factors = _scipy.sparse_linalg.splu(
            _shifted(system.matrix, system.n, _SMALLER), permc_spec="COLAMD"
        )
    except RuntimeError:  # exactly singular
        return None
    return Shifted(system.matrix, system.n, factors)


def _shifted(matrix: Any, n: int, shift: float) -> Any:
    J = np.ones(matrix.shape[0])
    J[n:] = -1.0
    return (matrix + _scipy.sparse.diags(shift * J, format="csc")).tocsc()
