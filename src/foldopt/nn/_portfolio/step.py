"""The step of a portfolio: its optimality conditions, with the active ones held.

z = (x, λ, ν, ζ) with λ ≥ 0 of the risk, ν of the budget and ζ ≥ 0 of x ≥ 0. F(z, c) = 0 holds at
the solution, and so U(z, c) = z − F(z, c) leaves it fixed. I − Φ = ∂F/∂z is the symmetric KKT
matrix, which the forward pass has inverted: no iteration is needed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.operators._inverse import matvec

__all__ = ["Point", "mean_variance", "risk_bound"]


class Point(NamedTuple):
    """x ``(B, n)``, λ ``(B, 1)`` or, for mean–variance, ``(B, 0)``, ν ``(B, 1)``, ζ ``(B, n)``."""

    x: Tensor
    risk: Tensor
    budget: Tensor
    bounds: Tensor


def risk_bound(z: Point, c: Tensor, V: Tensor, gamma: Tensor) -> Point:
    """z − F(z, c) for max cᵀx s.t. xᵀVx ≤ γ, 1ᵀx = 1, x ≥ 0, with V symmetric.

    A constraint is active if its multiplier is not zero.
    """
    x, lam, _, _ = z
    Vx = matvec(V, x)
    tight = lam > 0
    gap = (x * Vx).sum(-1, keepdim=True) - gamma.unsqueeze(-1)
    lam_next = torch.where(tight, lam - gap, 0)
    return _joined(z, 2 * torch.where(tight, lam, 0) * Vx - c, lam_next)


def mean_variance(z: Point, c: Tensor, V: Tensor, delta: Tensor) -> Point:
    """z − F(z, c) for max cᵀx − (δ/2) xᵀVx s.t. 1ᵀx = 1, x ≥ 0, with V symmetric."""
    return _joined(z, delta.unsqueeze(-1) * matvec(V, z.x) - c, z.risk)


def _joined(z: Point, gradient: Tensor, lam_next: Tensor) -> Point:
    x, _, nu, zeta = z
    held = zeta > 0
    # Of an entry that is free ζ = 0 is an equation of its own, and no other has ζ in it.
    gradient = gradient + nu - torch.where(held, zeta, 0)
    budget = x.sum(-1, keepdim=True) - 1
    return Point(x - gradient, lam_next, nu - budget, torch.where(held, zeta + x, 0))
