r"""Euclidean projections with closed-form derivatives: argmin_x ‖x − y‖ over a convex set.

Where the projection is piecewise linear, the piece is found first (its active set, under
``detach``), and the projection is then written *on that piece*. Autograd's derivative of that
expression is the closed form: no sort is differentiated, and every ``torch.func`` transform works.
At a point between two pieces, the derivative is that of one of them: an element of the
generalized Jacobian.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt.prox import _length

__all__ = ["affine", "ball", "box", "capped_simplex", "half_space", "nonnegative", "simplex"]


def box(y: Tensor, lower: Tensor | float, upper: Tensor | float) -> Tensor:
    r"""Project on :math:`\{x : l \le x \le u\}`: clip, with a diagonal 0/1 Jacobian.

    Parameters
    ----------
    y
        Any shape.
    lower, upper
        Numbers, or tensors that broadcast against ``y`` (differentiable too); ±inf is allowed.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.box(torch.tensor([-2.0, 0.5, 3.0]), 0.0, 1.0)
    tensor([0.0000, 0.5000, 1.0000])
    """
    lower = torch.as_tensor(lower, dtype=y.dtype, device=y.device)
    upper = torch.as_tensor(upper, dtype=y.dtype, device=y.device)
    return torch.where(y < lower, lower, torch.where(y > upper, upper, y))


def nonnegative(y: Tensor) -> Tensor:
    r"""Project on the nonnegative orthant: :math:`[y]_+`.

    Parameters
    ----------
    y
        Any shape.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.nonnegative(torch.tensor([-2.0, 0.5]))
    tensor([0.0000, 0.5000])
    """
    return torch.relu(y)


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
        s > 0, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it.

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
    _need_entries("simplex", y)
    s = torch.as_tensor(total, dtype=y.dtype, device=y.device).unsqueeze(-1)
    fixed = y.detach()
    # With y sorted downward, τ_k = (y_1 + … + y_k − s)/k; the support is the largest k for which
    # y_k > τ_k.
    ordered = fixed.sort(dim=-1, descending=True).values
    count = torch.arange(1, y.shape[-1] + 1, device=y.device)
    tau = (ordered.cumsum(-1) - s.detach()) / count
    size = (ordered > tau).sum(-1, keepdim=True).clamp_min(1)
    support = fixed > tau.gather(-1, size - 1)
    shift = (torch.where(support, y, 0).sum(-1, keepdim=True) - s) / support.sum(-1, keepdim=True)
    return torch.where(support, y - shift, 0)


def capped_simplex(y: Tensor, total: Tensor | float = 1.0, cap: Tensor | float = 1.0) -> Tensor:
    r"""Project on :math:`\{0 \le x \le u,\ \sum_i x_i = s\}`, over the last dimension.

    :math:`x = \operatorname{clip}(y - \tau, 0, u)`; on the free set F (strictly between the
    bounds) the Jacobian is :math:`I - \mathbf 1 \mathbf 1^\top / |F|`, elsewhere 0.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    total
        s, 0 ≤ s ≤ Σu: a number or a tensor of shape ``batch``.
    cap
        u ≥ 0: a number or a tensor that broadcasts against ``y``.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Notes
    -----
    Σᵢ clip(yᵢ − τ, 0, uᵢ) falls in τ, linearly between the 2n breakpoints yᵢ − uᵢ and yᵢ. One sort
    and two cumulative sums give its value at each of them, and so the piece that meets s.
    An s outside [0, Σu] leaves the set empty: the nearest attainable sum is taken, and a fold's
    certificate will show that the sum is not s.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.capped_simplex(torch.tensor([3.0, 0.4, 0.2]), total=1.4)
    tensor([1.0000, 0.3000, 0.1000])
    """
    _need_entries("capped_simplex", y)
    s = torch.as_tensor(total, dtype=y.dtype, device=y.device).unsqueeze(-1)
    u = torch.as_tensor(cap, dtype=y.dtype, device=y.device).expand_as(y)
    fixed, bound = y.detach(), u.detach()
    points, order = torch.cat([fixed - bound, fixed], -1).sort(dim=-1)
    # Passing yᵢ − uᵢ upward, entry i begins to fall; passing yᵢ, it has reached zero.
    slope = torch.cat([-torch.ones_like(fixed), torch.ones_like(fixed)], -1).gather(-1, order)
    drop = slope.cumsum(-1)[..., :-1] * points.diff(dim=-1)
    sums = bound.sum(-1, keepdim=True) + torch.cat(
        [torch.zeros_like(drop[..., :1]), drop.cumsum(-1)], -1
    )
    last = 2 * y.shape[-1] - 2
    piece = ((sums >= s.detach()).sum(-1, keepdim=True) - 1).clamp(0, last)
    middle = 0.5 * (points.gather(-1, piece) + points.gather(-1, piece + 1))
    full = fixed - bound >= middle
    free = (fixed > middle) & ~full
    count = free.sum(-1, keepdim=True)
    excess = torch.where(free, y, 0).sum(-1, keepdim=True) + torch.where(full, u, 0).sum(
        -1, keepdim=True
    )
    shift = (excess - s) / count.clamp_min(1)
    return torch.where(free, y - shift, torch.where(full, u, 0))


def ball(y: Tensor, radius: Tensor | float = 1.0) -> Tensor:
    r"""Project on the Euclidean ball :math:`\{\|x\|_2 \le r\}`, over the last dimension.

    Outside, :math:`x = r y/\|y\|` with the Jacobian
    :math:`\tfrac{r}{\|y\|}(I - y y^\top/\|y\|^2)`; inside, the identity.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    radius
        r ≥ 0, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.ball(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """
    radius = torch.as_tensor(radius, dtype=y.dtype, device=y.device)
    length = _length(y)
    outside = length > radius
    factor = torch.where(outside, radius / torch.where(outside, length, 1), 1)
    return factor.unsqueeze(-1) * y


def half_space(y: Tensor, normal: Tensor, offset: Tensor | float) -> Tensor:
    r"""Project on the half-space :math:`\{a^\top x \le b\}`, over the last dimension.

    :math:`x = y - [a^\top y - b]_+\, a/\|a\|^2`; outside, the Jacobian is
    :math:`I - a a^\top/\|a\|^2`.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    normal
        a ≠ 0, shape ``(n,)`` or ``(*batch, n)``.
    offset
        b, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.half_space(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0]), 2.0)
    tensor([1., 1.])
    """
    offset = torch.as_tensor(offset, dtype=y.dtype, device=y.device)
    excess = torch.relu((normal * y).sum(-1) - offset) / (normal * normal).sum(-1)
    return y - excess.unsqueeze(-1) * normal


def affine(y: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    r"""Project on the affine set :math:`\{A x = b\}`, over the last dimension.

    :math:`x = y - A^+ (A y - b)` with the pseudo-inverse, so that redundant rows of A do no harm;
    the Jacobian is :math:`I - A^+ A`. The derivative in A assumes that its rank stays as it is.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    matrix
        A, shape ``(m, n)`` or ``(*batch, m, n)``.
    right
        b, shape ``(m,)`` or ``(*batch, m)``.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> A = torch.tensor([[1.0, 1.0]])
    >>> projections.affine(torch.tensor([2.0, 0.0]), A, torch.tensor([1.0]))
    tensor([ 1.5000, -0.5000])
    """
    gap = (matrix @ y.unsqueeze(-1)).squeeze(-1) - right
    return y - (torch.linalg.pinv(matrix) @ gap.unsqueeze(-1)).squeeze(-1)


def _need_entries(name: str, y: Tensor) -> None:
    if y.dim() == 0 or y.shape[-1] == 0:
        raise ValueError(
            f"{name}: y needs at least one entry in its last dimension, got shape {tuple(y.shape)}"
        )
