r"""The critical line: all efficient portfolios, walked along from the greatest return downwards.

For t ≥ 0 let x(t) solve min ½xᵀVx − t cᵀx s.t. 1ᵀx = 1, x ≥ 0. With ζ ≥ 0 of x ≥ 0,

    Vx − t c + ν1 − ζ = 0,   1ᵀx = 1,   x_i ζ_i = 0.

While the same assets are held, x and ζ are linear in t. From t = ∞, where all is in the asset of
the greatest return, one asset enters or leaves at a time as t falls: this is H. Markowitz' critical
line (Portfolio Selection, 1959, appendix A), here for a batch. Mean–variance asks for x(1/δ), and
eq. 20 for the x(t) whose risk is γ, with the multiplier λ = 1/(2t). At t = 0 is the least risk.

The tableau gives, of each asset, what is not held at zero (x_i of those in the portfolio, ζ_i of
the others) as a linear function of the rest, of 1 and of t; an event is one pivot on its diagonal.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Stop", "critical_line"]

# In the place of infinity: its square is a number.
_FAR = 1e150
# A pivot below this: a direction without risk, for which a pivot on the diagonal will not do.
_PIVOT = 1e-12


class Stop(NamedTuple):
    """Where the walk has ended.

    Attributes
    ----------
    free
        The assets in the portfolio, boolean ``(B, n)``.
    x
        ``(B, n)``.
    t
        ``(B, 1)``; ``_FAR`` or so where the greatest return was reached.
    vertex
        Where the risk of the first asset alone is not above γ, ``(B,)``.

    If even the least risk is above γ, t is 0 and x that of the least risk. Where the walk gave
        up, x is just some portfolio.
    """

    free: Tensor
    x: Tensor
    t: Tensor
    vertex: Tensor


# Inference mode: a walk is many small operations, of which it takes a tenth off.
@torch.inference_mode()
def critical_line(c: Tensor, V: Tensor, gamma: Tensor | None, t_end: Tensor | None) -> Stop:
    """Walk until the risk is γ, or until t is ``t_end``.

    Parameters
    ----------
    c
        Returns less the greatest of them, ``(B, n)``.
    V
        Symmetric, ``(B, n, n)``.
    gamma, t_end
        One of them, ``(B,)``.
    """
    B, n = c.shape
    rows = torch.arange(B, device=c.device)
    first = c.argmax(-1)
    own = V[rows, first]  # covariances with the first asset
    T, level = _tableau(c, V, own, rows, first)
    a, s, slope = T[:, :n, n], T[:, :n, n + 1], T[:, n, n + 1 :]
    vertex = torch.zeros_like(first, dtype=torch.bool)
    if gamma is not None:
        gamma = gamma.unsqueeze(-1)
        vertex = (level <= gamma).squeeze(-1)
    end = torch.zeros_like(level) if t_end is None else t_end.unsqueeze(-1).clamp_max(_FAR)
    # Two assets of the greatest return: the walk may begin with the other, or with both.
    lost = ((s <= 0) & (a > 0)).any(-1, keepdim=True)
    end = torch.where(lost, _FAR, end)
    t = torch.full_like(level, _FAR)
    one, endless = torch.ones_like(level), torch.full_like(level, torch.inf)
    events, moves = [], []
    for _ in range(4 * n + 8):
        # As t falls ts − a comes to zero where s is positive.
        t_next, which = torch.where(s > 0, a / s, -torch.inf).max(-1, keepdim=True)
        t_next = torch.minimum(t_next.clamp_(min=0), t)
        going = t_next > end
        if gamma is not None:
            # dr/dt = 2xᵀVx' = 2t cᵀx', since 1ᵀx' = 0 and ζᵀx' = 0.
            level = torch.addcmul(level, t_next.square() - t.square(), slope)
            going &= level > gamma
        # Samples that have arrived stay on their last segment, of which any t and r will do.
        t = t_next
        index = which.squeeze(-1)
        row, column = T[rows, index], T[rows, :, index]
        pivot = row.gather(1, which)
        going &= pivot > _PIVOT
        if not bool(going.any()):
            break
        events.append(which)
        moves.append(going)
        # With places changed, x_p for ζ_p, the rest is T_ij − T_ip T_pj / d. With d + 1 and d − 1
        # for the pivot the same formula gives row and column p too: −T_pj / d, T_ip / d and 1 / d.
        column.scatter_add_(1, which, one)
        row.scatter_add_(1, which, -one)
        column *= torch.where(going, pivot, endless).reciprocal_()
        T.baddbmm_(column.unsqueeze(-1), row.unsqueeze(-2), alpha=-1)
    if gamma is not None:
        end = (t.square() - (level - gamma) / slope).clamp_(min=0).sqrt_()
        end = torch.where(vertex.unsqueeze(-1), _FAR, end)
    flips = torch.zeros_like(c, dtype=torch.int64)
    flips[rows, first] = 1
    if events:
        flips.scatter_add_(1, torch.cat(events, -1), torch.cat(moves, -1).long())
    free = flips % 2 == 1
    return Stop(free, torch.where(free, end * s - a, 0), end, vertex)


def _tableau(
    c: Tensor, V: Tensor, own: Tensor, rows: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """That of the first asset alone, x₁ = 1 − Σx_j and ν = t c₁ − (Vx)₁, and its risk ``(B, 1)``.

    The columns are those of the assets, that of −1 and that of t; the last row is cᵀx.
    """
    B, n = c.shape
    level = own.gather(1, first.unsqueeze(-1))
    T = c.new_zeros(B, n + 1, n + 2)
    excess = own - level
    torch.sub(V, own.unsqueeze(-1), out=T[:, :n, :n])
    T[:, :n, :n] -= excess.unsqueeze(-2)
    T[:, :n, n] = -excess
    T[:, :n, n + 1] = -c
    T[:, n, :n] = c
    T[rows, :n, first] = 1.0
    last = torch.tensor([-1.0] * (n + 1) + [0.0], dtype=T.dtype, device=T.device)
    T[rows, first] = last
    T[rows, first, first] = 0.0
    return T, level
