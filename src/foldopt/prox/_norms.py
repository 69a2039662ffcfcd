"""Norms of vectors, and a square: thresholds, shrinkage, scaling."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt._operator import check_point, length_of, operand, valid
from foldopt.projections._balls import l1_ball


def l1(y: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    r"""Soft thresholding: the proximal operator of :math:`w \|x\|_1`.

    :math:`x_i = \operatorname{sign}(y_i)\,[|y_i| - w]_+`. Its Jacobian is diagonal: 1 where
    :math:`|y_i| > w`, else 0; and there :math:`\partial x_i/\partial w =
    -\operatorname{sign}(y_i)`.

    Parameters
    ----------
    y
        Any shape.
    weight
        w ≥ 0, a number or a tensor that broadcasts to the shape of ``y``.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    References
    ----------
    arXiv 2301.12047, the soft thresholding operator T below eq. 28.

    Examples
    --------
    >>> import torch
    >>> from foldopt import prox
    >>> prox.l1(torch.tensor([3.0, -0.5, -2.0]), 1.0)
    tensor([ 2.,  0., -1.])
    """
    check_point("prox.l1", y)
    w = operand("prox.l1: weight", weight, y, y.shape, least=0)
    # At |y| = w the outer side counts, so that w = 0 is the identity, with Jacobian I, also at 0.
    return valid(weight, w >= 0, torch.where(y.abs() < w, 0, y - y.sign() * w))


def l2(y: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    r"""Block shrinkage: the proximal operator of :math:`w \|x\|_2`, over the last dimension.

    :math:`x = [1 - w/\|y\|]_+\, y`, with the Jacobian
    :math:`(1 - w/\|y\|) I + w\, y y^\top / \|y\|^3` where :math:`\|y\| > w`, else 0.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    weight
        w ≥ 0, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Examples
    --------
    >>> import torch
    >>> from foldopt import prox
    >>> prox.l2(torch.tensor([3.0, 4.0]), 1.0)
    tensor([2.4000, 3.2000])
    """
    check_point("prox.l2", y, last=True)
    w = operand("prox.l2: weight", weight, y, y.shape[:-1], least=0)
    return _shrinkage(length_of(y), w, weight).unsqueeze(-1) * y


def linf(y: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    r"""Cut the peaks: the proximal operator of :math:`w \|x\|_\infty`, over the last dimension.

    :math:`x = y - P(y)`, with the projection P on the ball :math:`\{\|z\|_1 \le w\}` (Moreau):
    the entries of y above a threshold τ come down to it, by w in all. On their set S, with the
    signs :math:`\sigma`, the Jacobian is :math:`\sigma \sigma^\top/|S|`, elsewhere I; it is 0
    where :math:`\|y\|_1 < w`, as x is.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    weight
        w ≥ 0, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    References
    ----------
    N. Parikh, S. Boyd, Found. Trends Optim. 1 (2014), 127–239, Section 6.5.2.

    Examples
    --------
    >>> import torch
    >>> from foldopt import prox
    >>> prox.linf(torch.tensor([3.0, -1.0, 0.5]), 1.0)
    tensor([ 2.0000, -1.0000,  0.5000])
    """
    check_point("prox.linf", y, last=True)
    w = operand("prox.linf: weight", weight, y, y.shape[:-1], least=0)
    # An integer weight or a number has become a tensor, and NaN stands for one below zero.
    return y - l1_ball(y, valid(weight, w >= 0, w))


def squared_l2(y: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    r"""Scaling: the proximal operator of :math:`\tfrac{w}{2} \|x\|_2^2`, :math:`x = y/(1 + w)`.

    Parameters
    ----------
    y
        Any shape.
    weight
        w ≥ 0, a number or a tensor that broadcasts to the shape of ``y``.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Examples
    --------
    >>> import torch
    >>> from foldopt import prox
    >>> prox.squared_l2(torch.tensor([2.0, -4.0]), 1.0)
    tensor([ 1., -2.])
    """
    check_point("prox.squared_l2", y)
    w = operand("prox.squared_l2: weight", weight, y, y.shape, least=0)
    return valid(weight, w >= 0, y / (1 + w))


def group_l2(y: Tensor, weight: Tensor | float, groups: Tensor) -> Tensor:
    r"""Shrink groups of entries: the proximal operator of :math:`\sum_g w_g \|x_g\|_2`.

    The last dimension is divided into disjoint groups g; on each,
    :math:`x_g = [1 - w_g/\|y_g\|]_+\, y_g`, with the Jacobian of :func:`l2`.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    weight
        w ≥ 0: a number, or a tensor that broadcasts to ``(*batch, G)``, one weight for each group.
    groups
        The group of each entry: integers from 0 to G − 1, shape ``(n,)``. G is one more than the
        largest, which the host looks up.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    References
    ----------
    M. Yuan, Y. Lin, J. R. Stat. Soc. B 68 (2006), 49–67 (the group lasso).

    Examples
    --------
    >>> import torch
    >>> from foldopt import prox
    >>> y = torch.tensor([3.0, 4.0, 0.5, 0.5])
    >>> prox.group_l2(y, 1.0, torch.tensor([0, 0, 1, 1]))
    tensor([2.4000, 3.2000, 0.0000, 0.0000])
    """
    check_point("prox.group_l2", y, last=True)
    count = _count_groups(groups, y)
    w = operand("prox.group_l2: weight", weight, y, (*y.shape[:-1], count), least=0)
    if count > len(groups):
        # Some groups are empty, as most are where labels are hashes: they shall take no memory.
        present, groups = torch.unique(groups, return_inverse=True)
        w = w.index_select(-1, present) if w.dim() and w.shape[-1] > 1 else w
        count = len(present)
    shape = (*y.shape[:-1], count)
    label = groups.to(torch.int64).expand(y.shape)
    # As in length_of: scaled by the sum of absolute values, and with the derivative 0 at zero.
    zeros = torch.zeros(shape, dtype=y.dtype, device=y.device)
    scale = zeros.scatter_add(-1, label, y.detach().abs())
    scale = torch.where(scale == 0, 1, scale)
    square = zeros.scatter_add(-1, label, (y / scale.gather(-1, label)).square())
    length = scale * torch.where(square == 0, 0, torch.where(square == 0, 1, square).sqrt())
    return _shrinkage(length, w, weight).gather(-1, label) * y


def _count_groups(groups: Tensor, y: Tensor) -> int:
    """G, once the labels have been found sound."""
    if not isinstance(groups, Tensor) or groups.dtype not in (torch.int32, torch.int64):
        seen = str(groups.dtype) if isinstance(groups, Tensor) else type(groups).__name__
        raise TypeError(
            f"prox.group_l2: groups must be a tensor of int64, the group of each entry, got {seen}"
        )
    if groups.shape != y.shape[-1:]:
        raise ValueError(
            f"prox.group_l2: groups must have shape ({y.shape[-1]},), the group of each entry of y "
            f"of shape {tuple(y.shape)}, got {tuple(groups.shape)}"
        )
    if groups.numel() == 0:
        return 0
    least, most = (int(end) for end in torch.aminmax(groups))
    if least < 0:
        raise ValueError(f"prox.group_l2: groups are numbered from 0, got {least}")
    return most + 1


def _shrinkage(length: Tensor, w: Tensor, given: Tensor | float) -> Tensor:
    """[1 − w/‖y‖]₊, by which a vector of the given length shrinks."""
    shrunk = length < w
    # The inner where keeps 0/0 out of the branch that the outer where discards.
    divisor = torch.where(shrunk | (length == 0), 1, length)
    return valid(given, w >= 0, torch.where(shrunk, 0, 1 - w / divisor))
