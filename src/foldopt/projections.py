r"""Euclidean projections with closed-form derivatives: argmin_x ‖x − y‖ over a convex set.

Where the projection is piecewise linear, the piece is found first (its active set, under
``detach``), and the projection is then written *on that piece*. Autograd's derivative of that
expression is the closed form: no sort is differentiated, and every ``torch.func`` transform works.
At a point between two pieces, the derivative is that of one of them: an element of the
generalized Jacobian.

An argument that is not of its kind, dtype or shape raises a ``TypeError`` or ``ValueError``. NaN
in, NaN out. An empty set has no projection: an error if that follows from numbers, and NaN if from
tensors, whose values are not looked at (that would make the host wait for the device); a fold
reports such a sample as ``NONFINITE``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt import _operator as ops

__all__ = ["affine", "ball", "box", "capped_simplex", "half_space", "nonnegative", "simplex"]


def box(y: Tensor, lower: Tensor | float, upper: Tensor | float) -> Tensor:
    r"""Project on :math:`\{x : l \le x \le u\}`: clip, with a diagonal 0/1 Jacobian.

    Parameters
    ----------
    y
        Any shape.
    lower, upper
        l ≤ u: numbers, or tensors that broadcast to the shape of ``y`` (differentiable too); ±inf
        is allowed.

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
    ops.check_point("projections.box", y)
    low = ops.operand("projections.box: lower", lower, y, y.shape)
    high = ops.operand("projections.box: upper", upper, y, y.shape)
    numbers = not isinstance(lower, Tensor) and not isinstance(upper, Tensor)
    if numbers and not lower <= upper:
        raise ValueError(f"projections.box: lower={lower!r} must be at most upper={upper!r}")
    # A bound that is met exactly counts as active, so that lower = upper has the Jacobian 0.
    x = torch.where(y <= low, low, torch.where(y >= high, high, y))
    return x if numbers else torch.where(low <= high, x, torch.nan)


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
    ops.check_point("projections.nonnegative", y)
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
    ops.check_point("projections.ball", y, last=True)
    r = ops.operand("projections.ball: radius", radius, y, y.shape[:-1], least=0)
    length = ops.length_of(y)
    # ‖y‖ = r counts as outside, so that r = 0 has the Jacobian 0, also at y = 0.
    inside = length < r
    divisor = torch.where(inside | (length == 0), 1, length)
    factor = ops.valid(radius, r >= 0, torch.where(inside, 1, r / divisor))
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
    ops.check_point("projections.half_space", y, last=True)
    a = ops.matrix_of("projections.half_space: normal", normal, y, y.shape, 1)
    b = ops.operand("projections.half_space: offset", offset, y, y.shape[:-1])
    length = ops.length_of(a).unsqueeze(-1)
    unit = a / length
    along = (unit * y).sum(-1, keepdim=True)
    inside = along <= b.unsqueeze(-1) / length
    bound = torch.where(inside, 0, b.unsqueeze(-1)) / length  # an infinite b would make NaN of 0
    return y - torch.where(inside, 0, along - bound) * unit


def affine(y: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    r"""Project on the affine set :math:`\{A x = b\}`, over the last dimension.

    :math:`x = y - A^+ (A y - b)` with the pseudo-inverse, so that redundant rows of A do no harm;
    the Jacobian is :math:`I - A^+ A`. The derivative in A assumes that its rank stays as it is.
    Redundant rows that contradict each other are met in the sense of least squares.

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
    ops.check_point("projections.affine", y, last=True)
    batch, n = y.shape[:-1], y.shape[-1]
    rows = matrix.shape[-2] if isinstance(matrix, Tensor) and matrix.dim() > 1 else 0
    A = ops.matrix_of("projections.affine: matrix", matrix, y, (*batch, rows, n), 2)
    b = ops.matrix_of("projections.affine: right", right, y, (*batch, rows), 1)
    A, b = ops.unit_rows(A, b)
    gap = (A @ y.unsqueeze(-1)).squeeze(-1) - b
    return y - (torch.linalg.pinv(A) @ gap.unsqueeze(-1)).squeeze(-1)
