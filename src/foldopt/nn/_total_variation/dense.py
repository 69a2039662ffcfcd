"""Total variation with a dense operator: the solution on its free rows, and the adjoint's factors.

With the free rows F, the system of the adjoint (:mod:`foldopt.nn._total_variation.step`) is

    u + D_Fᵀ μ = a,   D_F u = c,      so that      D_F D_Fᵀ μ = D_F a − c,   u = a − D_Fᵀ μ.

D_F D_Fᵀ is factored once, and serves both the last step of the forward pass and every cotangent.
Where free rows depend on one another its pseudo-inverse gives the μ of least norm; u is the same.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from foldopt._tree import Leaves
from foldopt.nn._total_variation.dual import solve as solve_dual
from foldopt.nn._total_variation.newton import block, packed
from foldopt.nn._total_variation.step import Point, Products, dense, inside, weak_rows
from foldopt.operators._inverse import matvec

__all__ = ["FreeRows", "solve"]

# Pivots below this, relative to the length of their rows: rows depend on one another.
_DEPENDENT = 1e-6
# Eigenvalues below this, relative to the largest, count as zero.
_SINGULAR = 1e-12
# Multipliers this near to their bound are on it.
_NEAR = 1e-9


@dataclasses.dataclass(frozen=True)
class FreeRows:
    """D with the free rows marked, and the factors of D_F D_Fᵀ.

    Attributes
    ----------
    D
        ``(m, n)`` or ``(B, m, n)``.
    free
        ``(B, m)``.
    index, valid
        The free rows, packed, ``(B, k)``.
    factor
        The Cholesky factors, ``(B, k, k)``, the identity where not valid.
    other
        The samples whose rows are dependent, and the pseudo-inverses of their D_F D_Fᵀ.
    least
        Which samples these are, ``(B,)``.
    """

    D: Tensor
    free: Tensor
    index: Tensor
    valid: Tensor
    factor: Tensor
    other: tuple[Tensor, Tensor] | None
    least: Tensor

    @property
    def products(self) -> Products:
        """With D."""
        return dense(self.D)

    def solve(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """u and μ for a ``(*lead, B, n)`` and c ``(*lead, B, m)``, of which the free rows count."""
        right = torch.where(self.free, matvec(self.D, a) - c, 0)
        lead = right.shape[:-2]
        index = self.index.expand(*lead, *self.index.shape)
        entries = torch.where(self.valid, right.gather(-1, index), 0)
        # (*lead, B, k) to (B, k, lead), one system for all right-hand sides of a sample.
        width = math.prod(lead)
        columns = entries.movedim(-2, 0).reshape(len(self.free), width, entries.shape[-1]).mT
        found = torch.cholesky_solve(columns, self.factor)
        if self.other is not None:
            where, inverse = self.other
            found = found.index_copy(0, where, inverse @ columns[where])
        found = found.mT.reshape(len(self.free), *lead, entries.shape[-1]).movedim(0, -2)
        mu = torch.zeros_like(right).scatter_add(-1, index, torch.where(self.valid, found, 0))
        return a - matvec(self.D.mT, mu), mu


def free_rows_of(D: Tensor, free: Tensor) -> FreeRows:
    """Factor D_F D_Fᵀ for each sample."""
    index, valid = packed(free)
    width = index.shape[-1]
    gram = (D @ D.mT) if D.dim() == 3 else (D @ D.mT).unsqueeze(0)
    padded = block(gram, index, valid)
    factor, info = torch.linalg.cholesky_ex(padded)
    length = padded.diagonal(dim1=-2, dim2=-1).sqrt()
    sound = info == 0
    if width:
        pivots = factor.diagonal(dim1=-2, dim2=-1)
        sound = sound & (pivots > _DEPENDENT * length).all(-1)
    if bool(sound.all()):
        return FreeRows(D, free, index, valid, factor, None, ~sound)
    where = (~sound).nonzero().squeeze(-1)
    eye = torch.eye(width, dtype=factor.dtype)
    factor = torch.where(sound[:, None, None], factor, eye)
    # Of padding nothing must be left, and zeros do not harm the pseudo-inverse.
    real = valid[where].to(padded.dtype)
    values, vectors = torch.linalg.eigh(padded[where] * real.unsqueeze(1) * real.unsqueeze(2))
    zero = values <= _SINGULAR * values.amax(-1, keepdim=True)
    inverse = (vectors * torch.where(zero, 0, 1 / values).unsqueeze(-2)) @ vectors.mT
    return FreeRows(D, free, index, valid, factor, (where, inverse), ~sound)


def solve(tensors: Leaves, dtype: torch.dtype) -> tuple[Point, Tensor, Tensor, FreeRows]:
    """Solve for d, λ and D in float64 on the CPU, with an answer to be rounded to ``dtype``.

    Returns
    -------
    point, done, weak, rows
        x and u; which samples are solved, ``(B,)``; where the solution has no derivative in the
        usual sense, ``(B,)``; and the factors for the adjoint.
    """
    d, weight, D = tensors
    bound = weight.expand(len(d), D.shape[-2])
    w, done = solve_dual(d, D, bound)
    # Newton's method ends on the bounds, a descent in their neighbourhood.
    held = w.abs() >= (1 - _NEAR) * bound
    u = torch.where(held, -bound * w.sign(), inside(-w, bound, dtype))
    rows = free_rows_of(D, ~held)
    # The linear conditions, once more: x and the free multipliers to rounding error.
    x, change = rows.solve(d - matvec(D.mT, u), torch.zeros_like(u))
    u = torch.where(held, u, inside(u + change, bound, dtype))
    weak = weak_rows(u, bound, matvec(D, x), matvec(D, d)).any(-1)
    return Point(x, u), done, weak, rows
