"""The power cone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foldopt import _operator as ops

__all__ = ["power_cone"]

# Enough to halve the range of logits; Newton's steps need about 8.
_STEPS = 64


def power_cone(y: Tensor, alpha: Tensor | float) -> Tensor:
    r"""Project on the power cone :math:`\{a, b \ge 0,\ a^\alpha b^{1 - \alpha} \ge |c|\}`.

    The entries are (a, b, c), in the order of SCS, Clarabel and CVXPY. In the polar cone the
    projection is zero; elsewhere outside it is :math:`(a(r), b(r), \operatorname{sign}(c)\, r)`
    with :math:`a(r) = \tfrac12 (a + \sqrt{a^2 + 4 \alpha r (|c| - r)})`, b(r) likewise with
    1 − α, and the one r between 0 and \|c\| for which that lies on the boundary. It is found by
    bracketed Newton steps, and differentiated by the implicit function theorem.

    Parameters
    ----------
    y
        Shape ``(*batch, 3)``, ordered (a, b, c).
    alpha
        0 < α < 1, a number or a tensor that broadcasts to ``batch``; it gets no derivative.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``.

    Notes
    -----
    As in :func:`exponential_cone`, three Newton steps after the root is found give it exact
    derivatives up to the seventh.

    References
    ----------
    L. T. K. Hien, Math. Methods Oper. Res. 82 (2015), 265–284, Proposition 2.2.

    Examples
    --------
    With α = ½ it is the second-order cone ab ≥ c², a, b ≥ 0:

    >>> import torch
    >>> from foldopt.projections import power_cone
    >>> power_cone(torch.tensor([1.0, 1.0, 3.0]), 0.5)
    tensor([1.6667, 1.6667, 1.6667])
    """
    ops.check_point("projections.power_cone", y, last=True)
    if y.shape[-1] != 3:
        raise ValueError(
            "projections.power_cone: y must have shape (*batch, 3), one (a, b, c) in each row, got "
            f"{tuple(y.shape)}"
        )
    first = ops.operand("projections.power_cone: alpha", alpha, y, y.shape[:-1], least=0)
    first = first.detach().expand(y.shape[:-1])
    if not isinstance(alpha, Tensor) and not 0 < alpha < 1:
        raise ValueError(
            f"projections.power_cone: alpha must be between 0 and 1, got {alpha}: with 0 or 1 the "
            "cone is a second-order cone and a half-line"
        )
    powers = torch.stack([first, 1 - first], -1)
    # Everything is seen at the scale of the largest entry: it can neither overflow nor vanish.
    scale = y.detach().abs().amax(-1, keepdim=True)
    scale = torch.where(scale == 0, 1, scale)
    z = y / scale
    inside, polar = _places(z.detach(), powers)
    flat = (z.detach()[..., 2:] == 0) & ~inside & ~polar
    # The points that need no search get a harmless one, whose derivative is not used.
    other = torch.tensor([1.0, 1.0, 3.0], dtype=z.dtype, device=z.device)
    z = torch.where(inside | polar | flat, other, z)
    (logit,) = ops.search(_root, z, powers)
    for _ in range(3):
        value, slope, _ = _mismatch(z, powers, logit)
        logit = logit - value / slope
    corner = _mismatch(z, powers, logit)[2]
    last = z[..., 2:] * torch.sigmoid(logit).unsqueeze(-1)
    x = scale * torch.cat([corner, last], -1)
    # Here too the points that are elsewhere get a harmless one.
    other = torch.tensor([-1.0, 1.0, 0.0], dtype=z.dtype, device=z.device)
    x = torch.where(flat, _edge(torch.where(flat, y, other), powers), x)
    x = torch.where(inside, y, torch.where(polar, 0, x))
    return ops.valid(alpha, ((first > 0) & (first < 1)).unsqueeze(-1), x)


def _places(y: Tensor, powers: Tensor) -> tuple[Tensor, Tensor]:
    """Which y, constant, lie in the cone and in its polar, with a last dimension of 1."""
    sides, size = y[..., :2], y[..., 2:].abs()
    weighted = torch.where(sides > 0, sides, 0) ** powers
    inside = (sides >= 0).all(-1, keepdim=True) & (weighted.prod(-1, keepdim=True) >= size)
    # −y in the dual: (u/α)^α (v/(1 − α))^(1 − α) ≥ |w|.
    other = torch.where(sides < 0, -sides, 0) / powers
    polar = (sides <= 0).all(-1, keepdim=True) & ((other**powers).prod(-1, keepdim=True) >= size)
    return inside, polar & ~inside


def _edge(y: Tensor, powers: Tensor) -> Tensor:
    """The projection where c is 0, one of a and b negative and the other positive.

    That is the point with 0 in the place of the negative one, n, but it has derivatives in c. With
    p the positive one and π the power of n, the cone is near there all n ≥ (|c| / p^(1 − π))^(1/π):
    flatter than any parabola for π < ½, so that c stays as it is; steeper for π > ½, so that 0
    stays; and for π = ½ the parabola c²/p, which c meets after a share p / (p + 2|n|) of its way.
    """
    sides, last = y[..., :2], y[..., 2:]
    down = sides < 0
    depth = torch.relu(-sides).sum(-1, keepdim=True)
    height = torch.relu(sides).sum(-1, keepdim=True)
    # Smaller beside the depth it makes no difference, but its inverse overflows.
    height = torch.maximum(height, depth.detach() * torch.finfo(y.dtype).tiny ** 0.5)
    slope, power = depth / height, torch.where(down, powers, 0).sum(-1, keepdim=True)
    parabola = power == 0.5
    last = last * torch.where(parabola, 1 / (1 + 2 * slope), (power < 0.5).to(y.dtype))
    bend = torch.where(parabola, last.square() / height, 0)
    return torch.cat([torch.relu(sides) + bend * torch.where(down, 1, slope), last], -1)


def _mismatch(y: Tensor, powers: Tensor, logit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """α log a(r) + (1 − α) log b(r) − log r, its derivative, and (a(r), b(r)).

    r = |c| σ(t), with the logit t as the unknown: both ends of the range are far away in it, and
    r (|c| − r) = c² σ(t) σ(−t) has all its digits.
    """
    sides, size = y[..., :2], y[..., 2:].abs()
    t = logit.unsqueeze(-1)
    share, rest = torch.sigmoid(t), torch.sigmoid(-t)
    product = powers * (size * size * share * rest)
    root = (sides * sides + 4 * product).sqrt()
    # The difference of two numbers that are nearly equal, as a quotient.
    down = sides < 0
    total = torch.where(down, root - sides, root + sides)
    corner = torch.where(down, 2 * product / total, 0.5 * total)
    d_log = (rest - share) * torch.where(down, 0.5 * total / root, 2 * product / (total * root))
    value = (powers * corner.log()).sum(-1) - (size.log() + torch.nn.functional.logsigmoid(t))[
        ..., 0
    ]
    slope = (powers * d_log).sum(-1) - rest[..., 0]
    return value, torch.where(slope == 0, -1, slope), corner


def _root(y: Tensor, powers: Tensor) -> tuple[Tensor]:
    """The logit of r; the mismatch falls in it."""
    # r < |c| e⁻²⁸³ is no number that anything is added to, and its square is still one (float64).
    low = torch.full_like(y[..., 0], 0.4 * math.log(torch.finfo(y.dtype).tiny))
    high, t = -low, torch.zeros_like(low)
    last = high - low
    rounding = 8 * torch.finfo(y.dtype).eps
    for _ in range(_STEPS):
        value, slope, _ = _mismatch(y, powers, t)
        low, high = torch.where(value > 0, t, low), torch.where(value > 0, high, t)
        step = -value / slope
        moving = step.abs() > rounding * (1 + t.abs())
        if ops.none(moving):
            break
        step = torch.minimum(torch.maximum(t + step, low), high) - t
        good = (2 * step.abs() <= last) & (step != 0)
        step = torch.where(moving, torch.where(good, step, 0.5 * (low + high) - t), 0)
        t, last = t + step, step.abs()
    return (t,)
