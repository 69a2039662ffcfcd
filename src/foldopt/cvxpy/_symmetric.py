"""A dense symmetric system, by LU, or by the pseudo-inverse where it is as good as singular."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldopt.solvers import _scipy

__all__ = ["Symmetric"]

# A reciprocal condition number below this, and eigenvalues that count as zero beside the largest.
_SINGULAR = 1e-14
_CUT = 1e-12


class Symmetric:
    """Solves M x = right for many right-hand sides, with the rows of M brought to one size.

    Parameters
    ----------
    M
        ``(n, n)``, and scaled in place.
    """

    def __init__(self, M: np.ndarray) -> None:
        largest = np.abs(M).max(axis=1, initial=0.0)
        self.scale = 1 / np.sqrt(np.where(largest > 0, largest, 1))
        M *= self.scale[:, None] * self.scale
        lapack: Any = _scipy.linalg.lapack
        self.M = M
        self.lu, self.pivots, info = lapack.dgetrf(M)
        norm = np.abs(M).sum(axis=0).max(initial=0.0)
        known = lapack.dgecon(self.lu, norm)[0] if info == 0 and len(M) else 0.0
        self.eigen = None if known > _SINGULAR or not len(M) else np.linalg.eigh(M)

    def solve(self, right: np.ndarray, *, refine: bool = False) -> np.ndarray:
        """x for ``(n, columns)``; ``refine``: once more for what is left."""
        right = right * self.scale[:, None]
        found = self._once(right)
        if refine:
            found = found + self._once(right - self.M @ found)
        return found * self.scale[:, None]

    def _once(self, right: np.ndarray) -> np.ndarray:
        if not len(right):
            return right
        if self.eigen is None:
            lapack: Any = _scipy.linalg.lapack
            return lapack.dgetrs(self.lu, self.pivots, right)[0]
        values, vectors = self.eigen
        large = np.abs(values) > _CUT * np.abs(values).max()
        inverse = np.where(large, 1 / np.where(large, values, 1), 0)
        return vectors @ (inverse[:, None] * (vectors.T @ right))
