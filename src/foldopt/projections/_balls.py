"""Balls of the norms ‖·‖₂, ‖·‖₁ and ‖·‖∞."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt import _operator as ops
from foldopt.projections._polyhedral import box
from foldopt.projections._simplex import simplex


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


def l1_ball(y: Tensor, radius: Tensor | float = 1.0) -> Tensor:
    r"""Project on the cross-polytope :math:`\{\|x\|_1 \le r\}`, over the last dimension.

    Outside, :math:`x_i = \operatorname{sign}(y_i)\,[|y_i| - \tau]_+` with τ such that
    :math:`\|x\|_1 = r`. On the support S, with the signs :math:`\sigma`, its Jacobian is
    :math:`I - \sigma \sigma^\top/|S|`, elsewhere 0; and
    :math:`\partial x_S/\partial r = \sigma/|S|`. Inside, it is the identity.

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

    References
    ----------
    J. Duchi, S. Shalev-Shwartz, Y. Singer, T. Chandra, ICML 2008, 272–279.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.l1_ball(torch.tensor([0.5, -0.7, 0.0]))
    tensor([ 0.4000, -0.6000,  0.0000])
    """
    ops.check_point("projections.l1_ball", y, last=True)
    r = ops.operand("projections.l1_ball: radius", radius, y, y.shape[:-1], least=0)
    if y.shape[-1] == 0:
        return y.clone()
    # ‖y‖₁ = r counts as outside, so that r = 0 has the Jacobian 0, also at y = 0.
    inside = y.detach().abs().sum(-1) < r
    return torch.where(inside.unsqueeze(-1), y, y.detach().sign() * simplex(y.abs(), r))


def linf_ball(y: Tensor, radius: Tensor | float = 1.0) -> Tensor:
    r"""Project on the cube :math:`\{\|x\|_\infty \le r\}`, over the last dimension.

    :math:`x_i = \operatorname{clip}(y_i, -r, r)`, with a diagonal 0/1 Jacobian, and
    :math:`\partial x_i/\partial r = \operatorname{sign}(y_i)` where :math:`|y_i| > r`.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``.
    radius
        r ≥ 0, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it. For
        a radius of each coordinate see :func:`box`.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.linf_ball(torch.tensor([-2.0, 0.5, 3.0]))
    tensor([-1.0000,  0.5000,  1.0000])
    """
    ops.check_point("projections.linf_ball", y, last=True)
    r = ops.operand("projections.linf_ball: radius", radius, y, y.shape[:-1], least=0)
    return box(y, -r.unsqueeze(-1), r.unsqueeze(-1))
