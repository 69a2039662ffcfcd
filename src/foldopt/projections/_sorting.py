"""Monotone sequences, and the polytope of all orders of a vector."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt import _operator as ops


def isotonic(y: Tensor) -> Tensor:
    r"""Project on the monotone cone :math:`\{x_1 \le x_2 \le \dots \le x_n\}`, last dimension.

    This is isotonic regression: x is constant on blocks of neighbours, and equal to the mean of y
    on each. The Jacobian is the averaging over blocks, :math:`\mathbf 1 \mathbf 1^\top/|B|` on
    the block B.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``. A row with a NaN is NaN throughout.

    Notes
    -----
    The solutions of halves are merged, on all rows and all halves at once: what violates the order
    is a run around the middle, which becomes one block, and one sort finds its mean. So log₂ n
    rounds give the blocks, and no value is looked at.

    References
    ----------
    M. J. Best, N. Chakravarti, Math. Programming 47 (1990), 425–439 (merging, in any order).

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.isotonic(torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor([1.0000, 2.5000, 2.5000, 4.0000])
    """
    ops.check_point("projections.isotonic", y, last=True)
    if y.shape[-1] == 0:
        return y.clone()
    x = ops.block_means(y, _blocks(y.detach()))
    held = x.detach()
    x = x + (held.cummax(-1).values - held)  # what rounding puts out of order
    return torch.where(held.isnan().any(-1, keepdim=True), torch.nan, x)


def permutahedron(y: Tensor, w: Tensor) -> Tensor:
    r"""Project on the permutahedron, the convex hull of all permutations of a vector w.

    With both sorted downward, :math:`x = y + \operatorname{isotonic}(w - y)`. Its Jacobian in y is
    :math:`I - \mathbf 1 \mathbf 1^\top/|B|` on each block B of entries that meet; in w it averages
    over the same blocks. With ρ = (n, …, 1), the projection of −y/ε on the permutahedron of ρ is a
    soft rank of y, 1 for the largest, and that of ρ/ε on the permutahedron of y a soft sort.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    w
        Shape ``(n,)`` or ``(*batch, n)``, in any order; differentiable too.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``. A row with a NaN, in y or w, is NaN throughout.

    References
    ----------
    M. Blondel, O. Teboul, Q. Berthet, J. Djolonga, ICML 2020, 950–959, Propositions 3 and 4.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.permutahedron(torch.tensor([0.3, 9.0, 0.1]), torch.tensor([1.0, 2.0, 3.0]))
    tensor([1.6000, 3.0000, 1.4000])
    """
    ops.check_point("projections.permutahedron", y, last=True)
    w = ops.matrix_of("projections.permutahedron: w", w, y, y.shape, 1).expand(y.shape)
    if y.shape[-1] == 0:
        return y.clone()
    order = y.detach().argsort(dim=-1, descending=True, stable=True)
    falling = y.gather(-1, order)
    largest = w.gather(-1, w.detach().argsort(dim=-1, descending=True, stable=True))
    # y + isotonic(w − y), block by block, without adding w − y to y: y may be much larger than w.
    begins = _blocks((largest - falling).detach())
    x = falling - ops.block_means(falling, begins) + ops.block_means(largest, begins)
    x = x.gather(-1, order.argsort(dim=-1))
    return torch.where(x.detach().isnan().any(-1, keepdim=True), torch.nan, x)


def _blocks(y: Tensor) -> Tensor:
    """Where the blocks of the isotonic regression begin, as a mask; y is constant.

    Two neighbouring parts of length m, both in order, are merged into one of length 2 m. If the
    last value on the left is above the first one on the right, a run around the middle becomes a
    block, with the mean μ for which Σ [left − μ]₊ = Σ [μ − right]₊.
    """
    n = y.shape[-1]
    levels = (n - 1).bit_length()
    width = 1 << levels
    # Filled up with the largest value, which violates nothing.
    most = y.amax(-1, keepdim=True).expand(*y.shape[:-1], width - n)
    x = torch.cat([y, most], -1)
    begins = torch.ones_like(x, dtype=torch.bool)
    for level in range(levels):
        m = 1 << level
        pair = x.unflatten(-1, (width // (2 * m), 2 * m))
        place = torch.arange(2 * m, device=y.device)
        left = place < m
        top, bottom = pair[..., m - 1 : m], pair[..., m : m + 1]
        # h(μ) = Σ [left − μ]₊ − Σ [μ − right]₊ falls from bottom to top, and is linear between the
        # values. One that is below all this on the left, or above it on the right, stays out.
        inner = torch.where(left, pair.maximum(bottom), pair.minimum(top)) - bottom
        points, order = inner.sort(dim=-1)
        slope = m + torch.where(order < m, -1, 1).cumsum(-1)
        fall = slope[..., :-1] * (points[..., 1:] - points[..., :-1])
        h = torch.where(left, inner, 0).sum(-1, keepdim=True) - fall.cumsum(-1)
        last = points.gather(-1, (h >= 0).sum(-1, keepdim=True))  # the last value below μ
        start = (left & (inner <= last)).sum(-1, keepdim=True)
        stop = m + (~left & (inner <= last)).sum(-1, keepdim=True)
        run = (top > bottom) & (start <= place) & (place < stop)
        mean = torch.where(run, inner, 0).sum(-1, keepdim=True) / (stop - start)
        x = torch.where(run, bottom + mean, pair).flatten(-2)
        begins = begins & ~(run & (place > start)).flatten(-2)
    return begins[..., :n]
