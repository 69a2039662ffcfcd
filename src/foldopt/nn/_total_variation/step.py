"""The step of total variation with an operator: its optimality conditions, with the signs held.

With multipliers u of Dx, the conditions are x − d + Dᵀu = 0, and for each row either u = λ sign(Dx)
(the row is held) or |u| < λ and Dx = 0 (it is free). F(z, c) = 0 states them for z = (x, u), with
u put to its bound on the held rows, and U(z, c) = z − F(z, c) leaves the solution fixed. I − Φ is

    [I    D_Fᵀ]
    [D_F  0   ]      on x and the free rows F, and the identity on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.operators._inverse import matvec

__all__ = ["Point", "Products", "conditions", "dense", "free_rows", "inside", "update", "weak_rows"]


# Relative distances below this count as zero where it is asked what is only just so.
_WEAK = 1e-9


class Point(NamedTuple):
    """x ``(B, n)`` and u ``(B, m)``."""

    x: Tensor
    u: Tensor


class Products(NamedTuple):
    """v ↦ D v and y ↦ Dᵀy, sample by sample."""

    forward: Callable[[Tensor], Tensor]
    transposed: Callable[[Tensor], Tensor]


def dense(D: Tensor) -> Products:
    """The products of a matrix, ``(m, n)`` or ``(B, m, n)``."""
    return Products(lambda v: matvec(D, v), lambda y: matvec(D.mT, y))


def free_rows(u: Tensor, weight: Tensor) -> Tensor:
    """Which rows are free. Where λ = 0 all are held."""
    return u.abs() < weight


def conditions(z: Point, d: Tensor, weight: Tensor, D: Products) -> Point:
    """z − F(z, c)."""
    x, u = z
    free = free_rows(u, weight)
    slope = D.forward(x)
    # Where λ = 0 the sign is that which u will have once λ is more.
    sign = torch.where(weight > 0, u.sign(), slope.sign()).detach()
    at_bound = weight * sign
    u_next = torch.where(free, u - slope, at_bound)
    return Point(d - D.transposed(torch.where(free, u, at_bound)), u_next)


def update(z: Point, d: Tensor, weight: Tensor, operator: Tensor) -> Point:
    """z − F(z, c) for a dense operator."""
    return conditions(z, d, weight, dense(operator))


def inside(u: Tensor, bound: Tensor, dtype: torch.dtype) -> Tensor:
    """u of free rows, still free once it is rounded to ``dtype``."""
    most = bound * (1 - 2 * torch.finfo(dtype).eps)
    return torch.minimum(torch.maximum(u, -most), most)


def weak_rows(u: Tensor, bound: Tensor, slope: Tensor, size: Tensor) -> Tensor:
    """The rows that are only just held, or only just free: |u| = λ and Dx = 0.

    Parameters
    ----------
    u, bound
        The multipliers and λ.
    slope, size
        D x, and D d for a measure of what is small.
    """
    if not u.shape[-1]:
        return torch.zeros_like(u, dtype=torch.bool)
    small = slope.abs() <= _WEAK * size.abs().amax(-1, keepdim=True)
    return (bound > 0) & small & (u.abs() >= (1 - _WEAK) * bound)
