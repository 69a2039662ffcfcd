"""The step of a quadratic program: its optimality conditions, with the active rows held.

z = (x, λ, ν, μ) with λ ≥ 0 of Gx ≤ h, ν of Ax = b and μ of the bounds (positive at an upper one);
the multipliers are one tensor, side by side.
F(z, c) = 0 holds at the solution, and so U(z, c) = z − F(z, c) leaves it fixed. I − Φ = ∂F/∂z is
the KKT matrix, which the forward pass has factored: no iteration is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.operators._inverse import matvec

__all__ = ["State", "params_vjp", "update"]


class State(NamedTuple):
    """x ``(B, n)`` and the multipliers of G, A and the bounds, ``(B, m + k + n)`` or less."""

    x: Tensor
    multipliers: Tensor

    def blocks(self, h: Tensor, b: Tensor, lower: Tensor) -> Sequence[Tensor]:
        """λ, ν and μ, as long as these are."""
        sizes = [h.shape[-1], b.shape[-1], lower.shape[-1]]
        return torch.split_with_sizes(self.multipliers, sizes, -1)


def update(
    z: State,
    Q: Tensor,
    p: Tensor,
    G: Tensor,
    h: Tensor,
    A: Tensor,
    b: Tensor,
    lower: Tensor,
    upper: Tensor,
) -> State:
    """z − F(z, c). A row is active if its multiplier is not zero, or the variable is fixed."""
    x, (lam, nu, mu) = z.x, z.blocks(h, b, lower)
    # xᵀQx sees the symmetric part of Q, which so gets the gradient.
    gradient = (matvec(Q, x) + matvec(Q.mT, x)) / 2 + p
    if lam.shape[-1]:
        active = lam > 0
        # h may be infinite: where a row is not active its slack is not looked at.
        lam_next = torch.where(active, lam - (matvec(G, x) - torch.where(active, h, 0)), 0)
        gradient = gradient + matvec(G.mT, torch.where(active, lam, 0))
    else:
        lam_next = lam
    if nu.shape[-1]:
        gradient = gradient + matvec(A.mT, nu)
        nu_next = nu - (matvec(A, x) - b)
    else:
        nu_next = nu
    if mu.shape[-1]:
        fixed = lower == upper
        active = (mu != 0) | fixed
        bound = torch.where((mu > 0) | fixed, upper, torch.where(mu < 0, lower, 0))
        mu_next = torch.where(active, mu - (x - bound), 0)
        gradient = gradient + torch.where(active, mu, 0)
    else:
        mu_next = mu
    return State(x - gradient, torch.cat([lam_next, nu_next, mu_next], -1))


def params_vjp(
    z: State, params: Sequence[Tensor], v: State, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Ψᵀv of :func:`update`: what autograd finds, without a graph.

    With v = (u, κ, η, ω), on active rows, vᵀ dU is

        −uᵀ(½(dQ + dQᵀ) x + dp + dGᵀλ + dAᵀν) − κᵀ(dG x − dh) − ηᵀ(dA x − db) + ωᵀ d(bound).
    """
    _, _, _, h, _, b, lower, upper = params
    shapes = [param.dim() for param in params]
    x, (lam, nu, mu) = z.x, z.blocks(h, b, lower)
    u, (kappa, eta, omega) = v.x, v.blocks(h, b, lower)
    active = lam > 0
    kappa, lam = kappa * active, lam * active
    minus, half = -u, u / -2
    if mu.shape[-1]:
        at_upper = (mu > 0) | (lower == upper)
        down, up = torch.where((mu < 0) & ~at_upper, omega, 0), torch.where(at_upper, omega, 0)
    else:
        down = up = omega

    def outer(index: int, a: Tensor, b: Tensor, c: Tensor, d: Tensor, sign: float) -> Tensor:
        """abᵀ ± cdᵀ; the sum over the batch if the param is shared."""
        if shapes[index] == 2:
            return (a.mT @ b).addmm_(c.mT, d, alpha=sign)
        both = a.unsqueeze(-1) * b.unsqueeze(-2)
        return both.addcmul_(c.unsqueeze(-1), d.unsqueeze(-2), value=sign)

    def total(index: int, grad: Tensor) -> Tensor:
        return grad.sum(0) if shapes[index] == 1 else grad

    made = (
        lambda: outer(0, half, x, x, half, 1.0),
        lambda: total(1, minus),
        lambda: outer(2, lam, minus, kappa, x, -1.0),
        lambda: total(3, kappa),
        lambda: outer(4, nu, minus, eta, x, -1.0),
        lambda: total(5, eta),
        lambda: total(6, down),
        lambda: total(7, up),
    )
    return tuple(make() if want else None for make, want in zip(made, wanted, strict=True))
