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

# A Q whose inverse is longer than one over this, times n, counts as singular, for its size of 1.
_SINGULAR = 1e3 * torch.finfo(torch.float64).eps
_GENERIC = 0.7548776662466927


def product(vector: Tensor, matrix: Tensor) -> Tensor:
    """vᵀM for v ``(*lead, B, m)`` and M ``(B or 1, m, n)``."""
    return matvec(matrix[0].mT if len(matrix) == 1 else matrix.mT, vector)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """M v for the same shapes."""
    return matvec(matrix[0] if len(matrix) == 1 else matrix, vector)


def _size(Q: Tensor) -> Tensor:
    """The largest diagonal entry of Q, or 1, ``(B or 1, 1)``."""
    size = Q.diagonal(dim1=-2, dim2=-1).abs().amax(-1, keepdim=True)
    return torch.where(size > 0, size, 1)


@functools.cache
def _generic(n: int) -> Tensor:
    """One vector that no structure is orthogonal to."""
    with torch.inference_mode(False):
        return torch.frac(torch.arange(1, n + 1, dtype=torch.float64) * _GENERIC) - 0.5


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
        The largest diagonal entry of Q, ``(B or 1, 1)``.
    p
        ``(B, n)``.
    rows
        The constraints.
    N, shrunk
        The rows of the least distance problem, of length 1, and by what they were divided,
        ``(B or 1, M, n)`` and ``(B or 1, M)``.
    sizes
        n, m, k, and the number of bounds.
    """

    Q: Tensor
    L: Tensor
    definite: Tensor
    size: Tensor
    p: Tensor
    rows: Rows
    N: Tensor
    shrunk: Tensor
    sizes: tuple[int, int, int, int]

    @staticmethod
    def of(program: Program) -> Scaled:
        """Take a float64 program apart; its Q is symmetric."""
        Q, p = program.Q, program.p
        count, n = p.shape
        Q = Q if Q.dim() == 3 else Q.unsqueeze(0)
        size = _size(Q)
        L, info = torch.linalg.cholesky_ex(Q)
        definite = (info == 0) & _regular(L, size)
        if not bool(definite.all()):
            eye = torch.eye(n, dtype=L.dtype, device=L.device)
            L = torch.where(definite[:, None, None], L, eye)
        rows = rows_of(program)
        # CL⁻ᵀ = (L⁻¹Cᵀ)ᵀ, which LAPACK leaves row by row.
        N = torch.linalg.solve_triangular(L, rows.C.mT, upper=False).mT
        shrunk = _length(N)
        return Scaled(
            Q=Q,
            L=L,
            definite=definite.expand(count),
            size=size,
            p=p,
            rows=rows,
            N=N.div_(shrunk.unsqueeze(-1)),
            shrunk=shrunk,
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


def _regular(L: Tensor, size: Tensor) -> Tensor:
    """Whether LLᵀ is far from singular, ``(B or 1,)``.

    The pivots do not tell: the last one of a singular matrix may be far above rounding. Its inverse
    does, by what it makes of one vector that no structure is orthogonal to.
    """
    n = L.shape[-1]
    one = _generic(n)
    half = torch.linalg.solve_triangular(L, one.expand(len(L), n).unsqueeze(-1), upper=False)
    found = torch.linalg.solve_triangular(L.mT, half, upper=True).squeeze(-1)
    reach = size.squeeze(-1) * torch.linalg.vector_norm(found, dim=-1)
    return n * _SINGULAR * reach < torch.linalg.vector_norm(one)


def _length(rows: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(rows, dim=-1)
    return torch.where(length > 0, length, 1)
