r"""ADMM for quadratic programs, as an iteration of one vector w.

min ½xᵀQx + pᵀx  s.t.  A x = b,  l ≤ C x ≤ u  is split as z = C x, l ≤ z ≤ u, with the scaled
multiplier s and the penalty ρ (eq. 29–30 have C = I, l = 0, u = ∞, ρ = 1; printed there as a
maximum, it is a minimum):

    x⁺ = argmin { ½xᵀQx + pᵀx + ρ/2 ‖Cx − z + s‖²  :  A x = b },
    z⁺ = clip(Cx⁺ + s, l, u),
    s⁺ = s + Cx⁺ − z⁺.

w = Cx + s holds the whole state, z = clip(w, l, u) and s = w − z. The first line is linear,

    x⁺ = T (z − s) + x̄,    T = ρ M_xx Cᵀ,    x̄ = M_xb b − M_xx p,

with the blocks of M = K⁻¹, K = [[Q + ρCᵀC, Aᵀ], [A, 0]]. Hence U(w) = C x⁺ + s is one product with
the matrix S = C T per step, forward and backward, and all else is computed once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foldopt.operators._inverse import matvec, symmetric_inverse
from foldopt.operators._kkt import PrimalDual, row_lengths

__all__ = ["precompute", "readout", "state_of", "update"]


def precompute(
    Q: Tensor,
    p: Tensor,
    A: Tensor,
    b: Tensor,
    C: Tensor | None,
    lower: Tensor | None,
    upper: Tensor | None,
    penalty: Tensor | float,
) -> tuple[Any, ...]:
    """What the iteration needs of the params: S, s̄ = C x̄, the bounds, and (T, x̄) for x.

    Shapes: Q ``(*batch, n, n)``, A ``(*batch, k, n)``, C ``(*batch, m, n)`` or None for I; a matrix
    without batch dimensions serves all samples; a bound that is None is absent. ``penalty`` is a
    number or ``(*batch,)``.
    """
    n = Q.shape[-1]
    length = row_lengths(A)  # rows of length one: what their dependence means is then one thing
    A, b = A / length.unsqueeze(-1), b / length
    rho = torch.as_tensor(penalty, dtype=Q.dtype, device=Q.device)[..., None, None]
    square = torch.eye(n, dtype=Q.dtype, device=Q.device) if C is None else C.mT @ C
    top = Q + rho * square
    lead = torch.broadcast_shapes(top.shape[:-2], A.shape[:-2])
    top, rows = (block.expand(*lead, *block.shape[-2:]) for block in (top, A))
    k = A.shape[-2]
    K = torch.cat(
        [
            torch.cat([top, rows.mT], -1),
            torch.cat([rows, top.new_zeros(*lead, k, k)], -1),
        ],
        -2,
    )
    M = symmetric_inverse(K)
    M_xx, M_bx = M[..., :n, :n], M[..., n:, :n]
    T = rho * (M_xx if C is None else M_xx @ C.mT)
    # From [x; ν] = M [ρCᵀ(z − s) − p; b]:
    start = matvec(M_bx.mT, b) - matvec(M_xx, p)
    T_nu = rho * (M_bx if C is None else M_bx @ C.mT) / length.unsqueeze(-1)
    start_nu = (matvec(M[..., n:, n:], b) - matvec(M_bx, p)) / length
    S, shift = (T, start) if C is None else (C @ T, matvec(C, start))
    return S, shift, lower, upper, T, start, T_nu, start_nu, rho[..., 0]


def _clip(w: Tensor, lower: Tensor | None, upper: Tensor | None) -> Tensor:
    """clip(w, l, u), differentiable in the bounds; a bound that is met exactly counts as active."""
    z = w if upper is None else torch.where(w >= upper, upper, w)
    return z if lower is None else torch.where(w <= lower, lower, z)


def update(
    w: Tensor, S: Tensor, shift: Tensor, lower: Tensor | None, upper: Tensor | None, *_: Any
) -> Tensor:
    """One step of w."""
    z = _clip(w, lower, upper)
    return matvec(S, 2 * z - w) + shift + (w - z)


def readout(
    w: Tensor,
    S: Tensor,
    shift: Tensor,
    lower: Tensor | None,
    upper: Tensor | None,
    T: Tensor,
    start: Tensor,
    T_nu: Tensor,
    start_nu: Tensor,
    rho: Tensor,
) -> PrimalDual:
    """x and the multipliers of l ≤ Cx ≤ u (positive at u, negative at l) and of Ax = b."""
    z = _clip(w, lower, upper)
    inner = 2 * z - w
    return PrimalDual(matvec(T, inner) + start, rho * (w - z), matvec(T_nu, inner) + start_nu)


def state_of(point: PrimalDual, C: Tensor | None, rho: Tensor | float) -> Tensor:
    """The fixed point w = Cx + λ/ρ that belongs to a solution and its multipliers."""
    image = point.x if C is None else matvec(C, point.x)
    return image + point.inequality / rho
