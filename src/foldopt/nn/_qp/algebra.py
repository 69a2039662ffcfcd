"""Products and factors of many small matrices, by whoever is fast at them."""

from __future__ import annotations

import numpy as np
import torch

from foldopt._threads import one_thread

__all__ = ["cholesky", "lengths", "product", "squares", "times", "triangular"]

# With fewer multiplications than these a matrix is not worth a second thread. Torch takes it all
# the same, and waits for it where another core is busy.
_WORTH_THREADS = 3e4


def product(vector: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """vᵀM for v ``(*lead, B, m)`` and M ``(B or 1, m, n)``; what overflows may warn."""
    # NumPy takes a third of the time that torch takes for small matrices.
    if len(matrix) == 1:
        return vector @ matrix[0]
    return np.matmul(vector[..., None, :], matrix)[..., 0, :]


def times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """M v for v ``(*lead, B, n)`` and M ``(B or 1, m, n)``; what overflows may warn."""
    if len(matrix) == 1:
        return vector @ matrix[0].T
    return np.matmul(matrix, vector[..., None])[..., 0]


def lengths(rows: np.ndarray) -> np.ndarray:
    """The length of each row, and 1 for a row of zeros; what overflows may warn."""
    found = np.sqrt(np.einsum("...i,...i->...", rows, rows))
    found[found == 0] = 1
    return found


def squares(rows: np.ndarray) -> np.ndarray:
    """YYᵀ for Y ``(B, r, n)``."""
    if rows.shape[-2] ** 2 * rows.shape[-1] < _WORTH_THREADS:
        return np.matmul(rows, rows.swapaxes(-1, -2))
    Y = torch.from_numpy(rows)
    return torch.bmm(Y, Y.mT).numpy()


def cholesky(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factor of each, and whether it has one; NumPy takes two thirds of torch's time."""
    try:
        return np.linalg.cholesky(matrices), np.ones(len(matrices), dtype=bool)
    except np.linalg.LinAlgError:
        factors, info = torch.linalg.cholesky_ex(torch.from_numpy(matrices))
        return factors.numpy(), info.numpy() == 0


def triangular(L: np.ndarray, columns: np.ndarray, transpose: bool = False) -> np.ndarray:
    """L⁻¹ C, or L⁻ᵀ C; NumPy has no such solver, SciPy none for batches."""
    factor = torch.from_numpy(L)
    factor = factor.mT if transpose else factor
    right, count = torch.from_numpy(columns), columns.shape[-1]
    # A single column is not shared in any case.
    if 1 < count < _WORTH_THREADS / L.shape[-1] ** 2:
        with one_thread():
            return torch.linalg.solve_triangular(factor, right, upper=transpose).numpy()
    return torch.linalg.solve_triangular(factor, right, upper=transpose).numpy()
