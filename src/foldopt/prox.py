r"""Proximal operators with closed-form derivatives: prox_g(y) = argmin_x g(x) + ½‖x − y‖².

Each is written so that autograd's derivative of the formula *is* the closed form, on any device,
batched, twice differentiable where the operator is, and under ``torch.func``. At a kink, the
derivative is that of one of the two sides: an element of the generalized Jacobian.

An argument that is not of its kind, dtype or shape raises a ``TypeError`` or ``ValueError``. NaN
in, NaN out. A weight below zero is an error as a number; as a tensor, whose values are not looked
at (that would make the host wait for the device), it gives NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt._operator import check_point, length_of, operand, valid

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
    length = length_of(y)
    shrunk = length < w
    # The inner where keeps 0/0 out of the branch that the outer where discards.
    divisor = torch.where(shrunk | (length == 0), 1, length)
    factor = valid(weight, w >= 0, torch.where(shrunk, 0, 1 - w / divisor))
    return factor.unsqueeze(-1) * y


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
