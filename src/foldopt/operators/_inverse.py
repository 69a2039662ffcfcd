"""The inverse of a symmetric KKT matrix: computed once, used in both passes, differentiable.

An inverse and not a factorization: every step of an iteration is then one matrix product, which a
CPU batches and a GPU likes, where triangular solves are neither. Where the matrix is singular to
working precision (dependent constraints), the pseudo-inverse serves: it gives the solution x all
the same, and the multipliers of least norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["matvec", "symmetric_inverse"]


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """M v, sample by sample; one matrix ``(m, n)`` serves all samples in one product."""
    if matrix.dim() == 2:
        return vector @ matrix.mT
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def symmetric_inverse(matrix: Tensor) -> Tensor:
    """K⁻¹, or the pseudo-inverse K⁺ where K is singular; ``(*batch, n, n)``."""
    return _Inverse.apply(matrix)  # pyright: ignore[reportReturnType]


def _invert(K: Tensor) -> Tensor:
    n = K.shape[-1]
    if K.numel() == 0:
        return torch.zeros_like(K)
    finite = torch.isfinite(K).flatten(-2).all(-1)
    # What is not finite goes through as NaN: LAPACK may refuse it, or never return.
    eye = torch.eye(n, dtype=K.dtype, device=K.device)
    safe = torch.where(finite[..., None, None], K, eye)
    M, info = torch.linalg.inv_ex(safe)
    gap = (safe @ M - eye).abs().flatten(-2).amax(-1)
    singular = (info != 0) | ~(gap <= torch.finfo(K.dtype).eps ** 0.4)
    if bool(singular.any()):
        M = torch.where(singular[..., None, None], _pseudo_inverse(safe), M)
    return torch.where(finite[..., None, None], M, torch.nan)


def _pseudo_inverse(K: Tensor) -> Tensor:
    """From the eigenvalues; those below ε^0.6 of the largest count as zero.

    Rows of very different length (a Hessian of 1e6 beside constraints of 1) are first brought to
    one scale, K = S K' S with S diagonal, so that no short row is taken for a dependent one.
    """
    scale = K.abs().amax(-1).clamp_min(torch.finfo(K.dtype).tiny).sqrt()
    scaled = K / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    values, vectors = torch.linalg.eigh(scaled)
    small = values.abs() <= torch.finfo(K.dtype).eps ** 0.6 * values.abs().amax(-1, keepdim=True)
    inverse = torch.where(small, 0, 1 / torch.where(small, 1, values))
    M = (vectors * inverse.unsqueeze(-2)) @ vectors.mT
    return M / scale.unsqueeze(-1) / scale.unsqueeze(-2)


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
