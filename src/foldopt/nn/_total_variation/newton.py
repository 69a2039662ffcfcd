"""Newton's method on a box program with a positive definite matrix: a choice of bounds at a time.

See :mod:`foldopt.nn._total_variation.dual`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.operators._inverse import matvec

__all__ = ["Dual", "block", "newton", "packed", "times"]

_STEPS = 40


class Dual(NamedTuple):
    """min ½wᵀA w + cᵀw over |w| ≤ bound, for B samples that share A, or have one each."""

    A: Tensor  # D Dᵀ, or D Dᵀ + εI where it is singular, (1, m, m) or (B, m, m)
    inverse: Tensor  # of A
    free: Tensor  # −A⁻¹ c, the solution without bounds, (B, m)
    c: Tensor  # D d, (B, m)
    bound: Tensor  # λ, (B, m)
    shift: Tensor  # ε, (1, 1) or (B, 1)
    doubtful: bool  # whether there is one

    def take(self, index: Tensor) -> Dual:
        A, inverse, shift = (
            one if len(one) == 1 else one[index] for one in (self.A, self.inverse, self.shift)
        )
        own = (self.free[index], self.c[index], self.bound[index])
        return Dual(A, inverse, *own, shift, self.doubtful)


def newton(dual: Dual, signs: Tensor) -> tuple[Tensor, Tensor]:
    """w after Newton's steps from a choice of bounds, and for which samples it came to rest.

    A sample stops where its choice repeats.
    """
    w = torch.zeros_like(signs)
    rests = torch.zeros(len(w), dtype=torch.bool, device=w.device)
    running = torch.arange(len(signs), device=signs.device)
    for _ in range(_STEPS):
        held = signs != 0
        # Whichever linear system is the smaller one: of the free coordinates, or of the others.
        few = int(held.sum(-1).max()) <= held.shape[-1] // 2
        y, slope = (_by_held if few else _by_free)(dual, signs, held)
        leaves = slope * signs >= 0
        joins = torch.where(y.abs() > dual.bound, y.sign(), 0)
        new = torch.where(held, torch.where(leaves, 0, signs), joins)
        w[running] = y
        moving = (new != signs).any(-1)
        rests[running[~moving]] = True
        changed = moving.nonzero().squeeze(-1)
        if not len(changed):
            break
        running, signs, dual = running[changed], new[changed], dual.take(changed)
    return w, rests & torch.isfinite(w).all(-1)


def _by_held(dual: Dual, signs: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """w and D x from the system of the held coordinates H.

    With μ = −D x, which is zero elsewhere, A w + c + μ = 0 gives w = free − A⁻¹ μ, and μ is such
    that w takes its bounds on H: (A⁻¹)_HH μ_H = (free − λ s)_H.
    """
    off = torch.where(held, dual.free - dual.bound * signs, 0)
    mu = _solve_block(dual.inverse, held, off)
    w = dual.free - times(dual.inverse, mu)
    return torch.where(held, dual.bound * signs, w), -mu


def _by_free(dual: Dual, signs: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """w and D x from the system of the free coordinates F: A_FF w_F = −(c + A λ s)_F."""
    at_bound = dual.bound * signs
    slope = dual.c + times(dual.A, at_bound)
    y = _solve_block(dual.A, ~held, torch.where(held, 0, -slope))
    return torch.where(held, at_bound, y), slope + times(dual.A, y)


def times(matrix: Tensor, v: Tensor) -> Tensor:
    return matvec(matrix[0] if len(matrix) == 1 else matrix, v)


def _solve_block(matrix: Tensor, mask: Tensor, b: Tensor) -> Tensor:
    """M_SS y_S = b_S with y = 0 elsewhere, S the mask of each sample."""
    index, valid = packed(mask)
    if not index.shape[-1]:
        return torch.zeros_like(b)
    # A block of a positive definite matrix is one too.
    factor, _ = torch.linalg.cholesky_ex(block(matrix, index, valid))
    y = torch.cholesky_solve(b.gather(-1, index).unsqueeze(-1), factor).squeeze(-1)
    return torch.zeros_like(b).scatter(-1, index, torch.where(valid, y, 0))


def packed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where a mask ``(B, m)`` holds: places ``(B, k)``, and which of them are no padding."""
    width = int(mask.sum(-1).max()) if mask.numel() else 0
    index = mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, :width]
    return index, mask.gather(-1, index)


def block(matrix: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """M_SS ``(B, k, k)`` of M ``(1, m, m)`` or ``(B, m, m)``, the identity where not valid."""
    count, width = index.shape
    # Whole rows first, then entries of them: several times faster than both at once.
    if len(matrix) == 1:
        rows = matrix[0].index_select(0, index.flatten()).view(count, width, matrix.shape[-1])
    else:
        rows = matrix.gather(1, index.unsqueeze(-1).expand(-1, -1, matrix.shape[-1]))
    found = rows.gather(2, index.unsqueeze(1).expand(-1, width, -1))
    if not bool(valid.all()):
        real = valid.to(found.dtype)
        found *= real.unsqueeze(1) * real.unsqueeze(2)
        found.diagonal(dim1=-2, dim2=-1).add_(1 - real)
    return found
