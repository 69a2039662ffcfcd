"""A direct solve of systems so small that a torch call costs more than its arithmetic."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foldopt.linear._common import LinearOperator, LinearSolution, default_rtol

# Numbers in Φ over the batch up to which numpy's lower cost per call (about a third) decides.
_LIMIT = 4096


@np.errstate(all="ignore")  # what overflows is trouble, of which the general way tells
def solve_tiny(
    operator: LinearOperator, b: Tensor, rtol: float | None, atol: float
) -> LinearSolution | None:
    """Solve A v = b by an explicit inverse in numpy, or return None.

    None where the problem is not tiny or not on the CPU, and at the first sign of trouble: a
    condition number above 1 / (n ε), a residual above the tolerance, anything not finite.
    The general way then looks closer, sample by sample.
    """
    jacobian = operator.jacobian
    samples, n = jacobian.layout.samples, jacobian.layout.n
    if samples * n * n > _LIMIT or b.device.type != "cpu" or b.dtype.itemsize < 4:
        return None
    if "tiny" not in jacobian.cache:
        jacobian.cache["tiny"] = _invert(jacobian.dense().numpy())
    if jacobian.cache["tiny"] is None:
        return None
    matrix, inverse = jacobian.cache["tiny"]
    if operator.transpose:
        matrix, inverse = matrix.swapaxes(-1, -2), inverse.swapaxes(-1, -2)
    right = b.detach().numpy()[..., None]
    v = inverse @ right
    residual = right - matrix @ v
    length, size, scale = _norm(residual), _norm(right), _norm(v)
    rtol = default_rtol(b.dtype) if rtol is None else rtol
    limit = np.maximum(atol + rtol * size, 32 * np.finfo(right.dtype).eps * scale)
    if not (length <= limit).all():
        return None
    relative = length / np.maximum(size, np.finfo(right.dtype).tiny)
    status = torch.zeros(b.shape[:-1], dtype=torch.int64)
    return LinearSolution(
        torch.from_numpy(v[..., 0]),
        status,
        status + n,
        torch.from_numpy(relative),
        "Dense",
        True,
    )


def _invert(phi: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """I − Φ and its inverse, or None where a sample is singular to working precision."""
    n = phi.shape[-1]
    matrix = np.eye(n, dtype=phi.dtype) - phi
    try:
        inverse = np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        return None
    condition = _row_sum(matrix) * _row_sum(inverse)
    return (matrix, inverse) if (condition * n * np.finfo(phi.dtype).eps < 1).all() else None


def _row_sum(matrix: np.ndarray) -> np.ndarray:
    """‖M‖_∞ of each block."""
    return np.abs(matrix).sum(-1).max(-1)


def _norm(column: np.ndarray) -> np.ndarray:
    """‖v‖₂ of columns ``(..., n, 1)``."""
    v = column[..., 0]
    return np.sqrt(np.einsum("...i,...i->...", v, v))
