"""The inverse of a symmetric KKT matrix: computed once, used in both passes, differentiable.

An inverse and not a factorization: every step of an iteration is then one matrix product, which a
CPU batches and a GPU likes, where triangular solves are neither. Where the matrix is singular to
working precision (dependent constraints), the pseudo-inverse serves: it gives the solution x all
the same, and the multipliers of least norm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt._lu import one_by_one

__all__ = ["matvec", "symmetric_inverse"]

# Up to this many entries a CPU multiplies and adds up a batch of small matrices two to five times
# faster than its batched matrix product does, and forms their gradient ten times faster.
_SMALL = 1 << 21


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """M v, sample by sample; one matrix ``(m, n)`` serves all samples in one product."""
    if matrix.dim() == 2:
        return vector @ matrix.mT
    if _numpy_can(matrix):
        # Two to five times faster than torch, and without a temporary of the size of the matrices.
        with np.errstate(all="ignore"):  # as torch does
            product = np.matmul(matrix.numpy(), vector.numpy()[..., None])[..., 0]
        return torch.from_numpy(product)
    if matrix.device.type == "cpu" and len(matrix) > 1 and matrix.numel() <= _SMALL:
        return (matrix * vector.unsqueeze(-2)).sum(-1)
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _numpy_can(matrix: Tensor) -> bool:
    """Whether there is no graph, no transform and no device in the way."""
    return (
        matrix.device.type == "cpu"
        and matrix.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and calculus.plain()
    )


def symmetric_inverse(matrix: Tensor) -> Tensor:
    """K⁻¹, or the pseudo-inverse K⁺ where K is singular; ``(*batch, n, n)``."""
    return _Inverse.apply(matrix)  # pyright: ignore[reportReturnType]


def _invert(K: Tensor) -> Tensor:
    if K.numel() == 0:
        return torch.zeros_like(K)
    eps = torch.finfo(K.dtype).eps
    finite = torch.isfinite(K).flatten(-2).all(-1)[..., None, None]
    # What is not finite goes through as NaN: LAPACK may refuse it, or never return.
    safe = torch.where(finite, K, torch.eye(K.shape[-1], dtype=K.dtype, device=K.device))
    M, info = one_by_one(torch.linalg.inv_ex, safe)
    # A bound on the condition number. Not K M − I: that is small for an inverse of rounding too.
    regular = (info == 0)[..., None, None] & (_condition(safe, M) <= eps**-0.5)
    if not bool(regular.all()):
        M = torch.where(regular, M, _invert_scaled(safe))
    return torch.where(finite, M, torch.nan)


def _condition(K: Tensor, M: Tensor) -> Tensor:
    """n max|K| max|M|, ``(*batch, 1, 1)``."""
    reach = K.abs().amax((-2, -1), keepdim=True) * M.abs().amax((-2, -1), keepdim=True)
    return K.shape[-1] * reach


def _invert_scaled(K: Tensor) -> Tensor:
    """The inverse or the pseudo-inverse, once all rows have been brought to one scale.

    K = S K' S with S diagonal, so that rows of very different length (a Hessian of 1e6 beside
    constraints of 1) lose no digits, and no short row is taken for a dependent one. Eigenvalues of
    K' below ε^0.6 of the largest count as zero.
    """
    eps = torch.finfo(K.dtype).eps
    scale = torch.ones_like(K[..., 0])
    for _ in range(8):  # each halves the logarithms of the rows' lengths
        row = K.abs().amax(-1).sqrt()
        row = torch.where(row > 0, row, 1)
        K = K / row.unsqueeze(-1) / row.unsqueeze(-2)
        scale = scale * row
    M, info = one_by_one(torch.linalg.inv_ex, K)
    regular = (info == 0)[..., None, None] & (_condition(K, M) <= eps**-0.6)
    M = M / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    return M if bool(regular.all()) else torch.where(regular, M, _pseudo_inverse(K, scale))


def _pseudo_inverse(K: Tensor, scale: Tensor) -> Tensor:
    """That of S K S, with S = diag(scale): P S⁻¹K⁺S⁻¹ P, with P the projection on its range."""
    eps = torch.finfo(K.dtype).eps
    values, vectors = torch.linalg.eigh(K)
    small = values.abs() <= eps**0.6 * values.abs().amax(-1, keepdim=True)
    inverse = torch.where(small, 0, 1 / torch.where(small, 1, values))
    vectors = vectors / scale.unsqueeze(-1)
    M = (vectors * inverse.unsqueeze(-2)) @ vectors.mT
    length = torch.linalg.vector_norm(vectors, dim=-2, keepdim=True)
    null = torch.where(small.unsqueeze(-2), vectors / length, 0)
    P = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device) - null @ torch.linalg.pinv(null)
    return P @ M @ P.mT


class _Inverse(torch.autograd.Function):
    """M = K⁻¹ with dM = −M dK M, to every order, in reverse and forward mode and under vmap.

    Where M is a pseudo-inverse, the term for a changing null space is left out: which constraints
    depend on each other is taken as a property of the problem.
    """

    @staticmethod
    def forward(K: Tensor) -> Tensor:
        return _invert(K)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (M,) = ctx.saved_tensors
        return -(M.mT @ g @ M.mT)

    @staticmethod
    def jvp(ctx: Any, K_dot: Tensor) -> Tensor:
        (M,) = ctx.saved_tensors
        return -(M @ K_dot @ M)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, K: Tensor) -> tuple[Tensor, int]:
        return _Inverse.apply(K.movedim(in_dims[0], 0)), 0  # pyright: ignore[reportReturnType]
