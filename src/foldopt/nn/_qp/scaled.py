"""A quadratic program in its own units, with all its rows in one matrix."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from foldopt.nn._qp.program import Program
from foldopt.nn._qp.step import Point

__all__ = ["Scaled"]

# A positive definite matrix of size 1 has pivots above this.
_DEFINITE = 1e-7


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A program whose Q has size 1 and whose rows have length 1: no threshold then has a unit.

    Attributes
    ----------
    Q, L
        ``(B or 1, n, n)``: Q divided by ``size``, and its Cholesky factor (the identity if none).
    definite
        Which samples have one, ``(B,)``.
    size
        ``(B, 1)``.
    p
        p divided by it.
    C, low, high
        The rows of G, of A and of the bounds, ``(B, M, n)``, and their limits ``(B, M)``.
    equal
        Which rows are equalities, ``(B, M)``; a variable whose bounds are equal is one.
    length
        By what the rows were divided, ``(B, M)``.
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
    sizes: tuple[int, int, int, int]

    @staticmethod
    def of(program: Program) -> Scaled:
        """Bring a float64 program to its own units."""
        Q, p, G, h, A, b, lower, upper = program
        count, (n, m, k, bounds) = program.samples, program.sizes
        Q = Q if Q.dim() == 3 else Q.unsqueeze(0)
        Q = (Q + Q.mT) / 2
        diagonal = Q.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
        size = torch.where(diagonal > 0, diagonal, 1)
        Q = Q / size[:, None, None]
        L, info = torch.linalg.cholesky_ex(Q)
        definite = (info == 0) & (L.diagonal(dim1=-2, dim2=-1).amin(-1) > _DEFINITE)
        if not bool(definite.all()):
            eye = torch.eye(n, dtype=L.dtype, device=L.device)
            L = torch.where(definite[:, None, None], L, eye)

        def rows(block: Tensor, *event: int) -> Tensor:
            return block.expand(count, *event)

        parts = [rows(G, m, n), rows(A, k, n)]
        if bounds:
            parts.append(rows(torch.eye(n, dtype=p.dtype, device=p.device), n, n))
        C = torch.cat(parts, -2)
        low = torch.cat([p.new_full((count, m), -torch.inf), rows(b, k), rows(lower, bounds)], -1)
        high = torch.cat([rows(h, m), rows(b, k), rows(upper, bounds)], -1)
        equal = low == high  # fixed variables too
        length = torch.linalg.vector_norm(C, dim=-1)
        length = torch.where(length > 0, length, 1)
        return Scaled(
            Q=Q,
            L=L,
            definite=definite.expand(count),
            size=size.unsqueeze(-1).expand(count, 1),
            p=p / size.unsqueeze(-1),
            C=C / length.unsqueeze(-1),
            low=low / length,
            high=high / length,
            equal=equal,
            length=length,
            sizes=program.sizes,
        )

    @functools.cached_property
    def M(self) -> Tensor:  # noqa: N802
        """L⁻¹Cᵀ, ``(B, n, M)``: the rows where Q is the identity."""
        return torch.linalg.solve_triangular(self.L, self.C.mT, upper=False)

    def point(self, x: Tensor, multipliers: Tensor) -> Point:
        """x and the multipliers of all rows, in the program's own units and blocks."""
        _, m, k, _ = self.sizes
        multipliers = multipliers * self.size / self.length
        return Point(x, multipliers[:, :m], multipliers[:, m : m + k], multipliers[:, m + k :])

    def rows(self, where: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        """The reverse for the multipliers of some samples: those of all rows, in the units here."""
        inequality, equality, bounds = parts
        kept = bounds if self.sizes[3] else bounds[:, :0]
        return torch.cat([inequality, equality, kept], -1) * self.length[where] / self.size[where]
