"""The simplex, with and without a cap: y minus a threshold that one sort finds."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt import _operator as ops


def simplex(y: Tensor, total: Tensor | float = 1.0) -> Tensor:
    r"""Project on the simplex :math:`\{x \ge 0,\ \sum_i x_i = s\}`, over the last dimension.

    :math:`x = [y - \tau]_+` with τ such that the sum is s. On the support S its Jacobian is
    :math:`I - \mathbf 1 \mathbf 1^\top / |S|`, elsewhere 0; and
    :math:`\partial x_S/\partial s = 1/|S|`.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``, n ≥ 1.
    total
        s ≥ 0, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    References
    ----------
    M. Held, P. Wolfe, H. Crowder, Math. Programming 6 (1974), 62–88 (the sorting algorithm).

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.simplex(torch.tensor([0.5, 0.7, -1.0]))
    tensor([0.4000, 0.6000, 0.0000])
    """
    ops.need_entries("projections.simplex", y)
    s = ops.operand("projections.simplex: total", total, y, y.shape[:-1], least=0)
    s = s.unsqueeze(-1)
    # A constant added to y changes nothing. With the largest entry at 0, those of the support lie
    # between −s and 0, and their sum loses no digits to a large common part.
    z = y - y.detach().amax(-1, keepdim=True)
    fixed = z.detach()
    # With z sorted downward, τ_k = (z_1 + … + z_k − s)/k; the support is the largest k for which
    # z_k > τ_k. Where s = 0 it is the largest entry alone. A NaN compares false, and stays in.
    ordered = fixed.sort(dim=-1, descending=True).values
    count = torch.arange(1, y.shape[-1] + 1, device=y.device)
    tau = (ordered.cumsum(-1) - s.detach()) / count
    size = (ordered > tau).sum(-1, keepdim=True).clamp_min(1)
    largest = torch.arange(y.shape[-1], device=y.device) == fixed.argmax(-1, keepdim=True)
    support = ~(fixed <= tau.gather(-1, size - 1)) | largest
    shift = (torch.where(support, z, 0).sum(-1, keepdim=True) - s) / support.sum(-1, keepdim=True)
    x = ops.snap(torch.where(support, z - shift, 0), 0, None)
    return ops.valid(total, s >= 0, x)


def capped_simplex(y: Tensor, total: Tensor | float = 1.0, cap: Tensor | float = 1.0) -> Tensor:
    r"""Project on :math:`\{0 \le x \le u,\ \sum_i x_i = s\}`, over the last dimension.

    :math:`x = \operatorname{clip}(y - \tau, 0, u)`; on the free set F (strictly between the
    bounds) the Jacobian is :math:`I - \mathbf 1 \mathbf 1^\top / |F|`, elsewhere 0.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    total
        s, 0 ≤ s ≤ Σu: a number or a tensor of shape ``batch``, or of any shape that broadcasts
        to it.
    cap
        u ≥ 0: a number or a tensor that broadcasts to the shape of ``y``; inf is allowed.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Notes
    -----
    Σᵢ clip(yᵢ − τ, 0, uᵢ) is piecewise linear in τ. One sort and two cumulative sums give its
    values at the breakpoints yᵢ and yᵢ − uᵢ, and so the piece that meets s.

    At a vertex (every entry at a bound, as for the k largest of n with u = 1) x does not move with
    y, however the entries tie, and the Jacobian in y is 0. A change of s or u there goes to one
    single entry.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.capped_simplex(torch.tensor([3.0, 0.4, 0.2]), total=1.4)
    tensor([1.0000, 0.3000, 0.1000])
    """
    ops.need_entries("projections.capped_simplex", y)
    s = ops.operand("projections.capped_simplex: total", total, y, y.shape[:-1], least=0)
    s = s.unsqueeze(-1)
    u = ops.operand("projections.capped_simplex: cap", cap, y, y.shape, least=0).expand(y.shape)
    numbers = not isinstance(total, Tensor) and not isinstance(cap, Tensor)
    if numbers and total > (1 + 1e-6) * y.shape[-1] * cap:
        raise ValueError(
            f"projections.capped_simplex: the set is empty: total={total!r} is above n · cap, "
            f"with cap={cap!r} and y of shape {tuple(y.shape)}"
        )
    full, free, attainable = ops.capped_pieces(y.detach(), u.detach(), s.detach())
    # From the largest free entry down, the free ones lose no digits to a large common part.
    base = torch.where(free, y.detach(), -torch.inf).amax(-1, keepdim=True)
    d = torch.where(free, y - base, 0)
    left = s - torch.where(full, u, 0).sum(-1, keepdim=True) - d.sum(-1, keepdim=True)
    share = left / free.sum(-1, keepdim=True).clamp_min(1)
    x = ops.snap(torch.where(free, d + share, torch.where(full, u, 0)), 0, u.detach())
    return torch.where(attainable, x, torch.nan)
