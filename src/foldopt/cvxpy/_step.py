"""The step of a cone program: its optimality conditions as one equation."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.cvxpy._cones import Cones
from foldopt.nn._qp.sparse.matrix import Pattern, product

__all__ = ["Point", "Update", "units"]


class Point(NamedTuple):
    """x ``(B, n)``, v = y − s ``(B, m)``, y and s as one vector, and the gauge ``(B, m)``.

    y ∈ K* and s ∈ K are orthogonal, and so they are v's projections: y = Π(v), s = Π(v) − v, with
    Π that on K* (Moreau). The smaller of the two loses digits to the larger. So each cone has units
    of its own in which they have the same size; the gauge is the logarithm of those, beside E. The
    solver chooses it, and to the step it is a constant.
    """

    x: Tensor
    v: Tensor
    gauge: Tensor


@dataclasses.dataclass(frozen=True)
class Update:
    r"""U(z, c) = z − F(z, c) for min ½xᵀPx + qᵀx s.t. Ax + s = b, s ∈ K.

    F = 0 are the optimality conditions,

        c (Px + q) + Aᵀ E y = 0,   E (Ax − b) + s = 0,   y = Π(v), s = Π(v) − v.

    That is Newton's side of Douglas–Rachford splitting: the same points, and I − Φ = F' is the KKT
    matrix with the derivative of the projection in the place of the active set (S. M. Robinson's
    normal map; E. Busseti, W. Moursi, S. Boyd, Comput. Optim. Appl. 74 (2019)). E and c bring rows
    and objective to size one; in F they are constants, for the solution does not depend on them.

    Attributes
    ----------
    P, A
        Where the entries stand whose values are params.
    cones
        K.
    """

    P: Pattern
    A: Pattern
    cones: Cones

    def __call__(
        self, z: Point, P: Tensor, q: Tensor, A: Tensor, b: Tensor, E: Tensor, c: Tensor
    ) -> Point:
        """The next z."""
        x, v, gauge = z[0], z[1], z[2].detach()
        E = E * gauge.exp()
        y = self.cones.project(v)
        gradient = c * (product(self.P, P, x) + q) + product(self.A.mT, A, E * y)
        slack = E * (product(self.A, A, x) - b) + (y - v)
        return Point(x - gradient, v - slack, gauge)


def units(update: Update, P: Tensor, q: Tensor, A: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """E ``(B, m)`` and c ``(B, 1)``: one over the longest row of each cone, and over the objective.

    All rows of a cone get the same number, since the cone may not be bent.
    """
    P, q, A = P.detach(), q.detach(), A.detach()
    count, m = len(q), update.A.shape[0]
    squares = q.new_zeros(count, m).scatter_add(
        -1, update.A.rows.expand(count, -1), (A * A).expand(count, -1)
    )
    if m:
        first = update.cones.largest.to(q.device).expand(count, m)
        squares = torch.zeros_like(squares).scatter_reduce(-1, first, squares, "amax")
        squares = squares.gather(-1, first)
    E = torch.where(squares > 0, squares, 1).rsqrt()
    size = q.abs().amax(-1, keepdim=True)
    if P.shape[-1]:
        size = torch.maximum(size, P.abs().amax(-1, keepdim=True))
    return E, 1 / torch.where(size > 0, size, 1)
