r"""The optimality conditions as one square system F(z) = 0, and Newton's step on it.

For min f(x) s.t. g(x) ≤ 0, h(x) = 0 with multipliers λ ≥ 0 and ν, the conditions are

    ∇f + Gᵀλ + Aᵀν = 0,    h = 0,    and for each inequality: g_i = 0 ≤ λ_i, or g_i ≤ 0 = λ_i.

Which of the two, the sign of λ_i + g_i tells (the primal–dual active set). With a_i = 1 for active
constraints and 0 for the others, they become F(z) = 0, z = (x, λ, ν), with

    F = ( ∇f + Gᵀ(a λ) + Aᵀν,   a g − (1 − a) λ,   h ),
    F' = [[H, (aG)ᵀ, Aᵀ], [aG, −(1 − a) I, 0], [A, 0, 0]],    symmetric.

A step U(z, c) = z − M F(z, c) has its fixed points at F = 0 for *every* invertible M. So M may be
held constant at the inverse of F' where U is evaluated: then Φ = I − M F' = 0 at the solution, and
derivatives of any order are right, because they are those of a step with that constant M.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.operators._inverse import symmetric_inverse

__all__ = ["PrimalDual", "active_set", "kkt_inverse", "least_squares_multipliers"]


class PrimalDual(NamedTuple):
    """A solution with its multipliers.

    Attributes
    ----------
    x
        The variable, shape ``(*batch, n)``.
    inequality
        λ ≥ 0, one for each inequality g(x) ≤ 0, shape ``(*batch, m)``; m may be 0.
    equality
        ν, one for each equality h(x) = 0, shape ``(*batch, k)``; k may be 0.
    """

    x: Tensor
    inequality: Tensor
    equality: Tensor


def active_set(slack: Tensor, multipliers: Tensor) -> Tensor:
    """Which inequalities are active, boolean: the multiplier outweighs the slack.

    ``slack`` is g ≤ 0. Of a weakly active constraint (both zero) it says that it is not: one
    element of the generalized Jacobian.
    """
    return multipliers.detach() + slack.detach() > 0


def kkt_matrix(H: Tensor, G: Tensor, A: Tensor, active: Tensor) -> Tensor:
    """F' of the module's text; H ``(*batch, n, n)``, G ``(*batch, m, n)``, A ``(*batch, k, n)``."""
    m, k = G.shape[-2], A.shape[-2]
    a = active.to(H.dtype)
    aG = a.unsqueeze(-1) * G
    batch = torch.broadcast_shapes(H.shape[:-2], aG.shape[:-2], A.shape[:-2])
    H, aG, A = (block.expand(*batch, *block.shape[-2:]) for block in (H, aG, A))
    held = torch.diag_embed((a - 1).expand(*batch, m))
    zero = H.new_zeros(*batch, k, m)
    return torch.cat(
        [
            torch.cat([H, aG.mT, A.mT], -1),
            torch.cat([aG, held, zero.mT], -1),
            torch.cat([A, zero, H.new_zeros(*batch, k, k)], -1),
        ],
        -2,
    )


def kkt_inverse(H: Tensor, G: Tensor, A: Tensor, active: Tensor) -> Tensor:
    """M, the inverse of F', as a constant.

    It is found with H of size one and rows of length one, lest the smaller of two scales count as
    zero; where constraints are dependent, the multipliers are of least norm in these units.
    """
    H, G, A = H.detach(), G.detach(), A.detach()
    size = H.abs().amax((-2, -1)) if H.shape[-1] else H.new_ones(H.shape[:-2])
    root = torch.where(size > 0, size, 1).sqrt().unsqueeze(-1)
    of_rows = [(root / row_lengths(J)).expand(*size.shape, J.shape[-2]) for J in (G, A)]
    unit = torch.cat([(1 / root).expand(*size.shape, H.shape[-1]), *of_rows], -1)
    K = kkt_matrix(H, G, A, active) * unit.unsqueeze(-1) * unit.unsqueeze(-2)
    return (symmetric_inverse(K) * unit.unsqueeze(-1) * unit.unsqueeze(-2)).detach()


def row_lengths(J: Tensor) -> Tensor:
    """The length of each row, and 1 for a row of zeros; a constant, ``(*batch, m)``."""
    length = torch.linalg.vector_norm(J.detach(), dim=-1)
    return torch.where(length > 0, length, 1)


def kkt_residual(
    gradient: Tensor, g: Tensor, h: Tensor, multipliers: Tensor, active: Tensor
) -> Tensor:
    """F as one vector; ``gradient`` is that of the Lagrangian with the multipliers a λ."""
    complementarity = torch.where(active, g, -multipliers)
    return torch.cat([gradient, complementarity, h], -1)


def least_squares_multipliers(gradient: Tensor, g: Tensor, G: Tensor, A: Tensor) -> Tensor:
    """(λ, ν) that best fit ∇f + Gᵀλ + Aᵀν = 0 and g_i λ_i = 0, side by side.

    At a solution both hold exactly, and no tolerance need say which constraints are active.
    """
    m, k, n = G.shape[-2], A.shape[-2], G.shape[-1]
    if m + k == 0:
        return g.new_zeros(*g.shape[:-1], 0)
    # Rows of one length, or else a short one would hardly count.
    rows = torch.cat([G, A], -2)
    length = row_lengths(rows)
    weight = torch.cat([g / length[..., :m], g.new_zeros(*g.shape[:-1], k)], -1)
    system = torch.cat([(rows / length.unsqueeze(-1)).mT, torch.diag_embed(weight)], -2)
    right = torch.cat([-gradient, gradient.new_zeros(*gradient.shape[:-1], m + k)], -1)
    assert system.shape[-2] == n + m + k
    # What is not finite would be an error for all samples; so it is NaN for those that have it.
    fine = torch.isfinite(system).all(-1, keepdim=True).all(-2, keepdim=True)
    inverse = torch.linalg.pinv(torch.where(fine, system, 0))
    return (torch.where(fine, inverse, torch.nan) @ right.unsqueeze(-1)).squeeze(-1) / length
