"""The second-order cone and the exponential cone."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt import _operator as ops
from foldopt.projections._exponential import Chart, mismatch, nearest_ray, on_ray


def second_order_cone(y: Tensor) -> Tensor:
    r"""Project on the second-order cone :math:`\{(t, x) : \|x\|_2 \le t\}`, last dimension.

    The first entry is t, as in SCS, ECOS, Clarabel and CVXPY. Where neither
    :math:`\|x\| \le t` (y itself) nor :math:`\|x\| \le -t` (zero), the projection is
    :math:`s\,(1, x/\|x\|)` with :math:`s = (t + \|x\|)/2`, and its Jacobian, with
    :math:`u = x/\|x\|`,

    .. math:: \tfrac12 \begin{pmatrix} 1 & u^\top \\ u & (1 + \tfrac{t}{\|x\|}) I
        - \tfrac{t}{\|x\|} u u^\top \end{pmatrix}.

    Parameters
    ----------
    y
        Shape ``(*batch, n)``, n ≥ 1, ordered (t, x).

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    References
    ----------
    M. Fukushima, Z.-Q. Luo, P. Tseng, SIAM J. Optim. 12 (2002), 436–460, Section 3.

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.second_order_cone(torch.tensor([0.0, 3.0, 4.0]))
    tensor([2.5000, 1.5000, 2.0000])
    """
    ops.need_entries("projections.second_order_cone", y)
    t, x = y[..., :1], y[..., 1:]
    length = ops.length_of(x).unsqueeze(-1)
    s = 0.5 * (t + length)
    surface = torch.cat([s, s / torch.where(length == 0, 1, length) * x], -1)
    # On the boundary y is inside, and so the origin has the Jacobian I.
    return torch.where(length <= t, y, torch.where(length <= -t, 0, surface))


def exponential_cone(y: Tensor) -> Tensor:
    r"""Project on the exponential cone, the closure of :math:`\{b > 0,\ b\,e^{a/b} \le c\}`.

    The entries are (a, b, c), in the order of SCS, Clarabel and CVXPY. In the polar cone the
    projection is zero; where a ≤ 0 and b ≤ 0 it is (a, 0, [c]₊); elsewhere outside it lies on a
    ray :math:`\mu\,(r, 1, e^r)`, whose ratio r solves an equation in one unknown. That is solved
    by bracketed Newton steps, to rounding, and differentiated by the implicit function theorem.

    Parameters
    ----------
    y
        Shape ``(*batch, 3)``, ordered (a, b, c).

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Notes
    -----
    The root is found as a constant, and then goes through three more Newton steps, which leave it
    where it is and give it its derivatives: the first one the first, and each further step doubles
    the order of the error, from δ² to δ⁴ to δ⁸. So derivatives are exact up to the seventh.

    References
    ----------
    H. A. Friberg, Optim. Methods Softw. 38 (2023), 457–473 (the equation for r).

    Examples
    --------
    >>> import torch
    >>> from foldopt import projections
    >>> projections.exponential_cone(torch.tensor([1.0, 1.0, 1.0]))
    tensor([0.4263, 0.7517, 1.3254])
    """
    ops.check_point("projections.exponential_cone", y, last=True)
    if y.shape[-1] != 3:
        raise ValueError(
            "projections.exponential_cone: y must have shape (*batch, 3), one (a, b, c) in each "
            f"row, got {tuple(y.shape)}"
        )
    # Everything is seen at the scale of the largest entry: it can neither overflow nor vanish.
    scale = y.detach().abs().amax(-1, keepdim=True)
    scale = torch.where(scale == 0, 1, scale)
    z = y / scale
    inside, polar, flat = _places(z.detach())
    # The points that need no ray get a harmless one, (0, 1, 0), whose derivative is not used.
    harmless = torch.eye(3, dtype=y.dtype, device=y.device)[1]
    z = torch.where(inside | polar | flat, harmless, z)
    low, high, s = ops.search(nearest_ray, z)
    for _ in range(3):
        value, slope = mismatch(z, Chart(low, high), s)
        s = s - value / slope
    ray = scale * on_ray(z, Chart(low, high), s)

    face = torch.stack([y[..., 0], torch.zeros_like(y[..., 1]), torch.relu(y[..., 2])], -1)
    x = torch.where(flat, face, ray)
    return torch.where(inside, y, torch.where(polar, 0, x))


def _places(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which y, constant, lie in the exponential cone, in its polar, in front of its flat face.

    Each has a last dimension of 1. A NaN compares false, and lies nowhere.
    """
    a, b, c = y.split(1, -1)
    above = b * torch.exp(a / torch.where(b > 0, b, 1)) <= c
    inside = torch.where(b > 0, above, (b == 0) & (a <= 0) & (c >= 0))
    below = a * torch.exp(b / torch.where(a > 0, a, 1) - 1) <= -c
    polar = torch.where(a > 0, below, (a == 0) & (b <= 0) & (c <= 0)) & ~inside
    return inside, polar, (a <= 0) & (b <= 0) & ~inside & ~polar
