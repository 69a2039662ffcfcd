r"""Proximal operators with closed-form derivatives: prox_g(y) = argmin_x g(x) + ½‖x − y‖².

Each is written so that autograd's derivative of the formula *is* the closed form, on any device,
batched, twice differentiable where the operator is, and under ``torch.func``.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["l1", "l2", "squared_l2"]


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
        w ≥ 0, a number or a tensor that broadcasts against ``y``.

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
    weight = torch.as_tensor(weight, dtype=y.dtype, device=y.device)
    return torch.where(y.abs() > weight, y - y.sign() * weight, 0)


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
    weight = torch.as_tensor(weight, dtype=y.dtype, device=y.device)
    length = _length(y)
    outside = length > weight
    # The inner where keeps 0/0 out of the branch that the outer where discards.
    factor = torch.where(outside, 1 - weight / torch.where(outside, length, 1), 0)
    return factor.unsqueeze(-1) * y


def squared_l2(y: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    r"""Scaling: the proximal operator of :math:`\tfrac{w}{2} \|x\|_2^2`, :math:`x = y/(1 + w)`.

    Parameters
    ----------
    y
        Any shape.
    weight
        w ≥ 0, a number or a tensor that broadcasts against ``y``.

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
    weight = torch.as_tensor(weight, dtype=y.dtype, device=y.device)
    return y / (1 + weight)


def _length(y: Tensor) -> Tensor:
    """‖y‖ over the last dimension, with derivative 0 (and not NaN) at y = 0."""
    square = (y * y).sum(-1)
    return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)
