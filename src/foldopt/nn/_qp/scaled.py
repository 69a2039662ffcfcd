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

from foldopt.nn._qp.program import Program
from foldopt.nn._qp.step import Point
from foldopt.operators._inverse import matvec

__all__ = ["Scaled", "product", "times"]

# A Q whose inverse is longer than one over this, times n, counts as singular, for its size of 1.
_SINGULAR = 1e3 * torch.finfo(torch.float64).eps
_GENERIC = 0.7548776662466927
# A matrix product starts threads for fewer entries than this, for which they do not pay.
_FEW = 1 << 16


def product(vector: Tensor, matrix: Tensor) -> Tensor:
    """vᵀM for v ``(*lead, B, m)`` and M ``(B or 1, m, n)``: on a CPU far faster than M v."""
    if len(matrix) == 1:
        return vector @ matrix[0]
    if matrix.numel() <= _FEW:
        return (vector.unsqueeze(-1) * matrix).sum(-2)
    return (vector.unsqueeze(-2) @ matrix).squeeze(-2)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """M v for the same shapes."""
    return matvec(matrix[0] if len(matrix) == 1 else matrix, vector)


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
    C, low, high
        The rows of G, of A and of the bounds, ``(B or 1, M, n)``, and their limits ``(B, M)``.
    equal
        Which rows are equalities, ``(B, M)``; a variable whose bounds are equal is one.
    length
        Of each row, ``(B or 1, M)``; 1 for a row of zeros.
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
    C: Tensor
    low: Tensor
    high: Tensor
    equal: Tensor
    length: Tensor
    N: Tensor
    shrunk: Tensor
    sizes: tuple[int, int, int, int]

    @staticmethod
    def of(program: Program) -> Scaled:
        """Take a float64 program apart; its Q is symmetric."""
        Q, p, _, h, _, b, lower, upper = program
        count, (n, m, k, bounds) = program.samples, program.sizes
        Q = Q if Q.dim() == 3 else Q.unsqueeze(0)
        size = Q.diagonal(dim1=-2, dim2=-1).abs().amax(-1, keepdim=True)
        size = torch.where(size > 0, size, 1)
        L, info = torch.linalg.cholesky_ex(Q)
        definite = (info == 0) & _regular(L, size)
        if not bool(definite.all()):
            eye = torch.eye(n, dtype=L.dtype, device=L.device)
            L = torch.where(definite[:, None, None], L, eye)
        C = _rows(program)
        low = torch.cat(
            [p.new_full((count, m), -torch.inf), b.expand(count, k), lower.expand(count, bounds)],
            -1,
        )
        high = torch.cat([h.expand(count, m), b.expand(count, k), upper.expand(count, bounds)], -1)
        # CL⁻ᵀ = (L⁻¹Cᵀ)ᵀ, which LAPACK leaves row by row.
        N = torch.linalg.solve_triangular(L, C.mT, upper=False).mT
        shrunk = _length(N)
        return Scaled(
            Q=Q,
            L=L,
            definite=definite.expand(count),
            size=size,
            p=p,
            C=C,
            low=low,
            high=high,
            equal=low == high,  # fixed variables too
            length=_length(C),
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
    generic = torch.frac(torch.arange(1, n + 1, dtype=L.dtype, device=L.device) * _GENERIC) - 0.5
    half = torch.linalg.solve_triangular(L, generic.expand(len(L), n).unsqueeze(-1), upper=False)
    found = torch.linalg.solve_triangular(L.mT, half, upper=True).squeeze(-1)
    reach = size.squeeze(-1) * torch.linalg.vector_norm(found, dim=-1)
    return n * _SINGULAR * reach < torch.linalg.vector_norm(generic)


def _rows(program: Program) -> Tensor:
    """G, A and the identity, one above the other."""
    _, p, G, _, A, _, _, _ = program
    n, m, k, bounds = program.sizes
    parts = [block for block, rows in ((G, m), (A, k)) if rows]
    if bounds:
        parts.append(torch.eye(n, dtype=p.dtype, device=p.device))
    if not parts:
        return p.new_zeros(1, 0, n)
    parts = [part if part.dim() == 3 else part.unsqueeze(0) for part in parts]
    count = max(len(part) for part in parts)
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.expand(count, -1, -1) for part in parts], -2)


def _length(rows: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(rows, dim=-1)
    return torch.where(length > 0, length, 1)
