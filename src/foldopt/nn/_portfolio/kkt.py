r"""The KKT matrix of an active set, inverted once for every right-hand side.

With g = 2Vx and w the weight of V in the gradient (2λ, or δ), on the assets F that are held,

    [wV_FF  g_F  1] [u]   [a]
    [g_Fᵀ   0    0] [μ] = [b]
    [1ᵀ     0    0] [ρ]   [e],

without the middle row where the risk does not bind. Divided by w, the first row has V in the place
of wV, and μ/w and ρ/w as unknowns: however small or large w is, the matrix M that is inverted has
no w in it. Entries that do not take part stand as ones on its diagonal.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt._lu import one_by_one
from foldopt.operators._inverse import matvec

__all__ = ["Active", "Factor", "factored", "polished"]

# Above this bound of its condition number M counts as singular, and so do eigenvalues below that
# of the others.
_SINGULAR = 1e12
# A null vector with more than this share in x: the portfolio is not unique.
_FLAT = 1e-6


@dataclasses.dataclass(frozen=True)
class Active:
    """Which assets are held, ``(B, n)``, and whether the risk binds, ``(B, 1)``; 0.0 or 1.0."""

    free: Tensor
    tight: Tensor


@dataclasses.dataclass(frozen=True)
class Factor:
    """See the head of this file.

    Attributes
    ----------
    active
        The active set.
    V, weight, g
        ``(B, n, n)``, w ``(B, 1)``, and 2Vx ``(B, n)``.
    matrix, inverse
        M and its (pseudo-)inverse, ``(B, n + 2, n + 2)``.
    flat
        Where the portfolio is not unique, ``(B,)``.
    """

    active: Active
    V: Tensor
    weight: Tensor
    g: Tensor
    matrix: Tensor
    inverse: Tensor
    flat: Tensor

    @property
    def unit(self) -> Tensor:
        """By what the first row has been divided, ``(B, 1)``."""
        return torch.where(self.weight > 0, self.weight, 1)

    def solve(self, a: Tensor, b: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, μ and ρ for columns a ``(B, n, L)``, b and e ``(B, 1, L)``, and what M leaves of them.

        Returns
        -------
        u, mu, rho
            Shapes of a, b and e.
        both
            The right-hand side, the solution and the residual in the units of M, stacked:
            ``(3, B, n + 2, L)``.
        """
        n = a.shape[-2]
        unit = self.unit.unsqueeze(-1)
        free, tight = self.active.free.unsqueeze(-1), self.active.tight.unsqueeze(-1)
        right = torch.cat([free * a / unit, tight * b, e], -2)
        found = self.inverse @ right
        found = found + self.inverse @ (right - self.matrix @ found)
        both = torch.stack([right, found, right - self.matrix @ found])
        u, rest = found[:, :n], found[:, n:] * unit
        return u, rest[:, :1], rest[:, 1:], both


def factored(V: Tensor, weight: Tensor, x: Tensor, active: Active) -> Factor:
    """Invert the KKT matrix at x.

    Parameters
    ----------
    V
        Symmetric, ``(B, n, n)``, of size 1 or so.
    weight
        w ≥ 0, ``(B, 1)``.
    x
        ``(B, n)``.
    active
        The active set.
    """
    B, n = x.shape
    g = 2 * matvec(V, x)
    M = x.new_zeros(B, n + 2, n + 2)
    M[:, :n, :n] = V * (weight > 0).unsqueeze(-1)
    M[:, :n, n] = M[:, n, :n] = g
    M[:, :n, n + 1] = M[:, n + 1, :n] = 1.0
    part = torch.cat([active.free, active.tight, torch.ones_like(active.tight)], -1)
    M *= part.unsqueeze(-1) * part.unsqueeze(-2)
    M.diagonal(dim1=-2, dim2=-1).add_(1 - part)
    inverse, info = one_by_one(torch.linalg.inv_ex, M)
    size = (n + 2) * M.abs().amax((-2, -1)) * inverse.abs().amax((-2, -1))
    singular = (info != 0) | ~(size <= _SINGULAR)
    flat = torch.zeros_like(singular)
    if bool(singular.any()):
        where = torch.nonzero(singular).squeeze(-1)
        inverse[where], flat[where] = _pseudo_inverse(M[where], n)
    return Factor(active, V, weight, g, M, inverse, flat)


def _pseudo_inverse(M: Tensor, n: int) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(torch.nan_to_num(M))
    zero = values.abs() <= values.abs().amax(-1, keepdim=True) / _SINGULAR
    inverse = (vectors * torch.where(zero, 0, 1 / values).unsqueeze(-2)) @ vectors.mT
    inside = vectors[..., :n, :].square().sum(-2)
    return inverse, (zero & (inside > _FLAT)).any(-1)


def polished(
    factor: Factor, c: Tensor, x: Tensor, lam: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One Newton step on the active set: x, λ and ν.

    Parameters
    ----------
    factor
        At x, with w = 2λ if there is a γ.
    c, x, lam
        ``(B, n)``, ``(B, n)`` with zeros where not held, ``(B, 1)``.
    gamma
        The bound on the risk, ``(B,)``; None: there is none.
    """
    free, tight, g = factor.active.free, factor.active.tight, factor.g
    force = c - factor.weight * g / 2
    nu = (free * force).sum(-1, keepdim=True) / free.sum(-1, keepdim=True)
    gap = torch.zeros_like(nu)
    if gamma is not None:
        gap = gamma.unsqueeze(-1) - (x * g).sum(-1, keepdim=True) / 2
    budget = 1 - x.sum(-1, keepdim=True)
    dx, d_lam, d_nu, _ = factor.solve(*(v.unsqueeze(-1) for v in (force - nu, gap, budget)))
    return (
        x + free * dx.squeeze(-1),
        lam + tight * d_lam.squeeze(-1),
        nu + d_nu.squeeze(-1),
    )
