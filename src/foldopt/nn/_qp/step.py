"""The step of a quadratic program: its optimality conditions, with the active rows held.

z = (x, λ, ν, μ) with λ ≥ 0 of Gx ≤ h, ν of Ax = b and μ of the bounds (positive at an upper one).
F(z, c) = 0 holds at the solution, and so U(z, c) = z − F(z, c) leaves it fixed. I − Φ = ∂F/∂z is
the KKT matrix, which the forward pass has factored: no iteration is needed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.operators._inverse import matvec

__all__ = ["Point", "update"]


class Point(NamedTuple):
    """x and the multipliers: λ ``(B, m)``, ν ``(B, k)``, μ ``(B, n)`` or ``(B, 0)``."""

    x: Tensor
    inequality: Tensor
    equality: Tensor
    bounds: Tensor


def update(
    z: Point,
    Q: Tensor,
    p: Tensor,
    G: Tensor,
    h: Tensor,
    A: Tensor,
    b: Tensor,
    lower: Tensor,
    upper: Tensor,
) -> Point:
    """z − F(z, c). A row is active if its multiplier is not zero, or the variable is fixed."""
    x, lam, nu, mu = z
    gradient = matvec(Q, x) + p  # of a symmetric Q
    if lam.shape[-1]:
        active = lam > 0
        # h may be infinite: where a row is not active its slack is not looked at.
        lam_next = torch.where(active, lam - (matvec(G, x) - torch.where(active, h, 0)), 0)
        gradient = gradient + matvec(G.mT, torch.where(active, lam, 0))
    else:
        lam_next = lam + 0  # not lam itself, which a transform may have wrapped
    if nu.shape[-1]:
        gradient = gradient + matvec(A.mT, nu)
        nu_next = nu - (matvec(A, x) - b)
    else:
        nu_next = nu + 0
    if mu.shape[-1]:
        fixed = lower == upper
        active = (mu != 0) | fixed
        bound = torch.where((mu > 0) | fixed, upper, torch.where(mu < 0, lower, 0))
        mu_next = torch.where(active, mu - (x - bound), 0)
        gradient = gradient + torch.where(active, mu, 0)
    else:
        mu_next = mu + 0
    return Point(x - gradient, lam_next, nu_next, mu_next)
