"""A quadratic program with all its rows in one matrix, and as a least distance problem.

With Q = LLᵀ, t = L⁻¹p and u = Lᵀx + t, the program min ½xᵀQx + pᵀx over low ≤ Cx ≤ high is

    min ½‖u‖²  s.t.  low + Nt ≤ Nu ≤ high + Nt,      N = CL⁻ᵀ,

the rows of N divided by their lengths: no threshold then has a unit.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from foldopt.nn._qp.conditions import Rows, rows_of
from foldopt.nn._qp.program import Program
from foldopt.nn._qp.step import Point
from foldopt.operators._inverse import matvec

__all__ = ["Scaled", "product", "times"]

# A Q of size 1 whose least eigenvalue is about this, times √n, counts as singular.
_SINGULAR = 1e3 * torch.finfo(torch.float64).eps
_GENERIC = (0.7548776662466927, 0.5698402909980532, 0.8191725133961645, 0.6710436067037893)


def product(vector: Tensor, matrix: Tensor) -> Tensor:
    """vᵀM for v ``(*lead, B, m)`` and M ``(B or 1, m, n)``."""
    return matvec(matrix[0].mT if len(matrix) == 1 else matrix.mT, vector)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """M v for the same shapes."""
    return matvec(matrix[0] if len(matrix) == 1 else matrix, vector)


@functools.cache
def _generic(n: int) -> Tensor:
    """A few vectors ``(4, n)`` of length 1 that no structure is orthogonal to all of.

    Not affine in the index over any stretch: second differences, say, would not see them.
    """
    with torch.inference_mode(False):
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
        size = Q.diagonal(dim1=-2, dim2=-1).abs().amax(-1, keepdim=True)
        size = size.masked_fill_(size == 0, 1)
        L, info = torch.linalg.cholesky_ex(Q)
        L, definite = _where_definite(L, info == 0)
        t, regular = _halves(L, p, size)
        if not bool(regular.all()):
            L, definite = _where_definite(L, definite & regular)
            t, _ = _halves(L, p, size)
        rows = rows_of(program)
        # CL⁻ᵀ = (L⁻¹Cᵀ)ᵀ, which LAPACK leaves row by row.
        N = torch.linalg.solve_triangular(L, rows.C.mT, upper=False).mT
        length = torch.linalg.vector_norm(N, dim=-1)
        inverse = length.masked_fill_(length == 0, 1).reciprocal_()
        return Scaled(
            Q=Q,
            L=L,
            definite=definite.expand(count),
            size=size,
            p=p,
            t=t,
            rows=rows,
            N=N.mul_(inverse.unsqueeze(-1)),
            inverse=inverse,
            sizes=program.sizes,
        )

    @functools.cached_property
    def gram(self) -> Tensor:
        """NNᵀ, ``(B or 1, M, M)``."""
        return self.N @ self.N.mT

    def blocks(self, x: Tensor, multipliers: Tensor) -> Point:
        """x and the multipliers of all rows, ``(B, M)``, block by block."""
        _, m, k, _ = self.sizes
        return Point(x, multipliers[:, :m], multipliers[:, m : m + k], multipliers[:, m + k :])

    def sample(self, block: Tensor, index: int) -> Tensor:
        """A block of one sample."""
        return block[index if len(block) > 1 else 0]


def _where_definite(L: Tensor, definite: Tensor) -> tuple[Tensor, Tensor]:
    """L, with the identity in the place of factors that are none; and which are."""
    if not bool(definite.all()):
        eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
        L = torch.where(definite[:, None, None], L, eye)
    return L, definite


def _halves(L: Tensor, p: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """L⁻¹p ``(B, n)``, and whether Q = LLᵀ is far from singular, ``(B or 1,)``.

    The pivots do not tell: the last one of a singular matrix may be far above rounding. Its inverse
    does: with generic g of length 1, ‖L⁻¹g‖² = gᵀQ⁻¹g is about 1/n of its largest eigenvalue, and
    of four such g hardly all are far below that.
    """
    n = L.shape[-1]
    several = _generic(n)
    if len(L) == 1:
        found = torch.linalg.solve_triangular(L[0], torch.cat([several, p]).mT, upper=False)
        found, t = found[:, : len(several)].unsqueeze(0), found[:, len(several) :].mT
    else:
        both = torch.cat([several.expand(len(p), -1, -1), p.unsqueeze(-2)], -2)
        found = torch.linalg.solve_triangular(L, both.mT, upper=False)
        found, t = found[..., :-1], found[..., -1]
    reach = torch.linalg.vector_norm(found, dim=(-2, -1)).square() * size.squeeze(-1)
    return t, reach < 4 / (n**1.5 * _SINGULAR)
