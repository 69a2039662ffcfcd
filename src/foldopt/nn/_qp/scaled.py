"""A quadratic program with all its rows in one matrix, and as a least distance problem.

With Q = LLᵀ, t = L⁻¹p and u = Lᵀx + t, the program min ½xᵀQx + pᵀx over low ≤ Cx ≤ high is

    min ½‖u‖²  s.t.  low + Nt ≤ Nu ≤ high + Nt,      N = CL⁻ᵀ,

the rows of N divided by their lengths: no threshold then has a unit.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor

from foldopt.nn._qp.algebra import cholesky, triangular
from foldopt.nn._qp.conditions import Rows, length_of, rows_of
from foldopt.nn._qp.program import Program

__all__ = ["Scaled"]

# A Q of size 1 whose least eigenvalue is about this, times √n, counts as singular.
_SINGULAR = 1e3 * torch.finfo(torch.float64).eps
# Squares of pivots above this part of the size leave no doubt.
_PIVOT = 1e-3
_GENERIC = (0.7548776662466927, 0.5698402909980532, 0.8191725133961645, 0.6710436067037893)


@functools.cache
def _generic(n: int) -> Tensor:
    """A few vectors ``(4, n)`` of length 1 that no structure is orthogonal to all of.

    Not affine in the index over any stretch: second differences, say, would not see them.
    """
    index = torch.arange(1, n + 1, dtype=torch.float64).unsqueeze(-1)
    found = torch.cos(8 * index.square() * torch.tensor(_GENERIC, dtype=torch.float64))
    return (found / torch.linalg.vector_norm(found, dim=0)).mT.contiguous()


@dataclasses.dataclass(frozen=True)
class Scaled:
    """See the head of this file. What all samples share has a first dimension of 1.

    Attributes
    ----------
    Q, L
        ``(B or 1, n, n)``: Q, and its Cholesky factor (the identity if there is none).
    definite
        Which samples have one, ``(B,)``.
    size
        The largest diagonal entry of Q, or 1, ``(B or 1, 1)``.
    p, t
        p and L⁻¹p, ``(B, n)``.
    rows
        The constraints.
    N, inverse
        The rows of the least distance problem, of length 1, and one over what that was before,
        ``(B or 1, M, n)`` and ``(B or 1, M)``.
    sizes
        n, m, k, and the number of bounds.
    """

    Q: Tensor
    L: Tensor
    definite: Tensor
    size: Tensor
    p: Tensor
    t: Tensor
    rows: Rows
    N: Tensor
    inverse: Tensor
    sizes: tuple[int, int, int, int]

    @staticmethod
    def of(program: Program) -> Scaled:
        """Take a float64 program apart; its Q is symmetric."""
        Q, p = program.Q, program.p
        count = len(p)
        Q = Q if Q.dim() == 3 else Q.unsqueeze(0)
        factors, sound = cholesky(Q.numpy())
        diagonal = Q.numpy().diagonal(axis1=-2, axis2=-1)
        greatest = diagonal.max(-1)
        definite = sound & (factors.diagonal(axis1=-2, axis2=-1).min(-1) ** 2 > _PIVOT * greatest)
        L = torch.from_numpy(factors)
        if not definite.all():
            greatest = np.abs(diagonal).max(-1)
            greatest[greatest == 0] = 1
            definite = sound & _regular(L, greatest)
            eye = torch.eye(L.shape[-1], dtype=L.dtype)
            L = torch.where(torch.from_numpy(definite)[:, None, None], L, eye)
        rows = rows_of(program)
        N = _inverse_times(L, rows.C)
        inverse = length_of(N).reciprocal_()
        return Scaled(
            Q=Q,
            L=L,
            definite=torch.from_numpy(definite).expand(count),
            size=torch.from_numpy(greatest[:, None]),
            p=p,
            t=_inverse_times(L[0], p) if len(L) == 1 else _inverse_times(L, p[:, None])[:, 0],
            rows=rows,
            N=N.mul_(inverse.unsqueeze(-1)),
            inverse=inverse,
            sizes=program.sizes,
        )

    @functools.cached_property
    def gram(self) -> Tensor:
        """NNᵀ, ``(B or 1, M, M)``."""
        return self.N @ self.N.mT

    def sample(self, block: Tensor, index: int) -> Tensor:
        """A block of one sample."""
        return block[index if len(block) > 1 else 0]


def _inverse_times(L: Tensor, rows: Tensor) -> Tensor:
    """The rows r as L⁻¹r. Row by row is how LAPACK leaves the columns that it solves for."""
    return torch.from_numpy(triangular(L.numpy(), rows.mT.numpy())).mT


def _regular(L: Tensor, size: np.ndarray) -> np.ndarray:
    """Whether Q = LLᵀ is far from singular, ``(B or 1,)``; ``size`` is that of Q.

    The pivots leave it open, where they are not all large: the last one of a singular matrix may be
    far above rounding. Its inverse tells: with generic g of length 1, ‖L⁻¹g‖² = gᵀQ⁻¹g is about 1/n
    of its largest eigenvalue, and of four such g hardly all are far below that.
    """
    n = L.shape[-1]
    probes = _inverse_times(L, _generic(n).expand(len(L), -1, -1))
    reach = torch.linalg.vector_norm(probes, dim=(-2, -1)).square().numpy() * size
    return reach < 4 / (n**1.5 * _SINGULAR)
