"""Boxes, half-spaces and affine sets: one linear formula on each piece."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt import _operator as ops


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
    # A matrix that is not finite makes its own gap NaN; in the decomposition it would be an error.
    finite = torch.isfinite(A).all(-1, keepdim=True).all(-2, keepdim=True)
    inverse = torch.linalg.pinv(torch.where(finite, A, 0))
    return y - (inverse @ gap.unsqueeze(-1)).squeeze(-1)
