r"""The absolute value |S| = V |Λ| Vᵀ of a symmetric matrix, with its derivatives of every order.

|S| is a smooth function of S wherever S is regular, however its eigenvalues repeat; the derivative
of an eigenvector is not. So no eigenvector is differentiated. From |S|² = S², with D = d|S| in the
direction H,

    |S| D + D |S| = S H + H S,   in the eigenbasis   Dᵢⱼ = (λᵢ + λⱼ)/(|λᵢ| + |λⱼ|) Hᵢⱼ,     (slope)

and differentiating this once more, in the direction K, with 𝓛(R) the Z of |S| Z + Z |S| = R,

    dD = 𝓛(H K + K H − d|S| D − D d|S|),   d𝓛(R) = 𝓛(dR − d|S| Z − Z d|S|).                  (𝓛)

Both products, (slope) and 𝓛, are linear, self-adjoint, and entrywise in the eigenbasis. They are
one ``autograd.Function``, whose derivative consists of the same two: that closes the calculus.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt.status import FoldError

Gradients = tuple[Tensor | None, ...]


class Basis(NamedTuple):
    """What is constant of S: its eigenvectors V, and the factors of the two products there."""

    vectors: Tensor
    slopes: Tensor
    inverses: Tensor


def symmetric(A: Tensor) -> Tensor:
    return 0.5 * (A + A.mT)


def eigen(S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix, constant, and whether it is finite.

    Those of zero, where it is not: an eigenvalue solver may raise at a NaN, which would take the
    whole batch with it.
    """
    held = S.detach()
    finite = torch.isfinite(held).all(-1, keepdim=True).all(-2, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.where(finite, held, 0))
    return values, vectors, finite


def rounding(values: Tensor) -> Tensor:
    """What an eigenvalue that is zero may come out as, with a last dimension of 1."""
    n, eps = values.shape[-1], torch.finfo(values.dtype).eps
    return n * eps * values.abs().amax(-1, keepdim=True)


def basis(values: Tensor, vectors: Tensor, at_zero: Tensor | float) -> Basis:
    """The factors of the two products.

    Between two eigenvalues that are zero the slope is ``at_zero`` (a number, or a tensor with two
    last dimensions of 1): |S| has a kink there, and no second derivative.
    """
    size = values.abs()
    total = size.unsqueeze(-1) + size.unsqueeze(-2)
    signed = values.unsqueeze(-1) + values.unsqueeze(-2)
    slopes = torch.where(total == 0, at_zero, signed / torch.where(total == 0, 1, total))
    small = total <= rounding(values).unsqueeze(-1)
    return Basis(vectors, slopes, torch.where(small, 0, 1 / torch.where(small, 1, total)))


def absolute(S: Tensor, values: Tensor, at: Basis) -> Tensor:
    """|S|, for a symmetric S with the eigenvalues ``values``."""
    _check_transforms(S)
    return _Absolute.apply(S, values, *at)


def _check_transforms(S: Tensor) -> None:
    if calculus.nested_forward_mode():
        raise FoldError(
            "a spectral operator (positive_semidefinite, nuclear): forward mode inside forward "
            "mode (jvp of jvp, jacfwd of jacfwd) loses the outer derivative in PyTorch's custom "
            "functions. Use jacfwd(jacrev(f)), which is torch.func.hessian, or jacrev(jacfwd(f))."
        )


class _Absolute(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(S: Tensor, values: Tensor, *at: Tensor) -> Tensor:
        return (at[0] * values.abs().unsqueeze(-2)) @ at[0].mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        S, _, *at = inputs
        ctx.save_for_backward(S, *at)
        ctx.save_for_forward(S, *at)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Gradients:
        S, *at = ctx.saved_tensors
        return (_product(True, symmetric(G), S, Basis(*at)), None, None, None, None)

    @staticmethod
    def jvp(ctx: Any, S_dot: Tensor, *_: None) -> Tensor:
        S, *at = ctx.saved_tensors
        return _product(True, S_dot, S, Basis(*at))


def _product(slope: bool, R: Tensor, S: Tensor, at: Basis) -> Tensor:
    """(slope) or 𝓛, of a symmetric R."""
    if calculus.plain():  # nobody differentiates this
        return _Product.forward(slope, R, S, *at)
    return _Product.apply(slope, R, S, *at)


class _Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(slope: bool, R: Tensor, S: Tensor, *at: Tensor) -> Tensor:
        vectors, slopes, inverses = at
        factors = slopes if slope else inverses
        return vectors @ (factors * (vectors.mT @ R @ vectors)) @ vectors.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.slope = inputs[0]
        # The result is saved as the output that it is: higher orders flow through it.
        ctx.save_for_backward(output, *inputs[1:])
        ctx.save_for_forward(output, *inputs[1:])

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Gradients:
        Z, R, S, *rest = ctx.saved_tensors
        at = Basis(*rest)
        G = symmetric(G)
        to_R = _product(ctx.slope, G, S, at)
        # The transposes of (𝓛): every matrix here is symmetric, and so is every product but H K.
        W = _product(False, G, S, at) if ctx.slope else to_R
        to_S = -_product(True, 2 * symmetric(W @ Z), S, at)
        to_S = to_S + 2 * symmetric(W @ R) if ctx.slope else to_S
        return (None, to_R, to_S, None, None, None)

    @staticmethod
    def jvp(ctx: Any, _slope: None, R_dot: Tensor | None, S_dot: Tensor | None, *_: None) -> Tensor:
        Z, R, S, *rest = ctx.saved_tensors
        at = Basis(*rest)
        dot = torch.zeros_like(Z)
        if R_dot is not None:
            dot = dot + _product(ctx.slope, R_dot, S, at)
        if S_dot is not None:
            change = -2 * symmetric(_product(True, S_dot, S, at) @ Z)
            change = change + 2 * symmetric(R @ S_dot) if ctx.slope else change
            dot = dot + _product(False, change, S, at)
        return dot
