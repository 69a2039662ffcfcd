"""The step of a nonlinear program: its optimality conditions, with the active rows held.

z = (x, λ, ν, μ) with λ ≥ 0 of g(x) ≤ 0, ν of h(x) = 0 and μ of the bounds (positive at an upper
one). F(z, c) = 0 holds at a solution, and so U(z, c) = z − F(z, c) leaves it fixed. I − Φ = ∂F/∂z
is the symmetric KKT matrix

    [H  Wᵀ 0]      H the Hessian of the Lagrangian, W the Jacobian of the active rows;
    [W  0  0]      the other multipliers are zero, each by an equation of its own.
    [0  0  I]

Newton's step z − (F')⁻¹F has Φ = 0, and the same derivatives: its adjoint is the product with the
inverse that is here a factorisation, left by the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from foldopt.nn._nlp.model import Model, Point

__all__ = ["update_of"]


def update_of(model: Model) -> Callable[..., Point]:
    """``update(z, *params)``; a row is active if its multiplier is not zero, or x is fixed."""

    def update(z: Point, *params: Any) -> Point:
        x, lam, nu, mu = z
        active = lam > 0
        held = torch.where(active, lam, 0)
        slope, g, h = model.program.lagrangian_gradient(x, held, nu, params)
        lam_next = torch.where(active, lam - g, 0)
        mu_next = mu + 0  # a new tensor: where there is nothing, nothing of a transform may stay
        if mu.shape[-1]:
            lower, upper = model.limits(x, params)
            fixed = lower == upper
            kept = (mu != 0) | fixed
            bound = torch.where((mu > 0) | fixed, upper, torch.where(mu < 0, lower, 0))
            mu_next = torch.where(kept, mu - (x - bound), 0)
            slope = slope + torch.where(kept, mu, 0)
        return Point(x - slope, lam_next, nu - h, mu_next)

    return update
