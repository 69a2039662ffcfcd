r"""The boundary of the exponential cone, and the point of it that is nearest to a given one.

Let p(r) = (r, 1, eʳ) be the ray of the boundary with the ratio r = a/b. A point that is neither in
the cone, nor in its polar, nor in front of its flat face, is projected on one of these rays, the
one on which y − x is normal to p and to p'. With the normal q = (eʳ, (1 − r) eʳ, −1) that is
yᵀ(p × q) = 0: one equation for r, whose left side changes its sign once where both multipliers
μ and λ of y = μ p + λ q are positive, for 1 − b/a < r if a > 0, and r < a/b if b > 0.

The ratio is held as r = u/v with max(|u|, v) = 1, so that nothing overflows: in one of three
charts, u = −1, v = 1, or u = 1, the other one of u and v is the coordinate s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foldopt import _operator as ops

# eʳ is zero in float64 long before this ratio, and all that depends on it.
_FAR = 800.0
# Enough where the entries of y differ by 200 orders of magnitude; ordinary points need about 12.
_STEPS = 48


class Chart(NamedTuple):
    """Which of u and v the coordinate s is: v with u = −1 (``low``), v with u = 1 (``high``)."""

    low: Tensor
    high: Tensor

    def ratio(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """(u, v) with r = u/v."""
        outer = self.low | self.high
        u = torch.where(self.high, 1, torch.where(self.low, -1, s))
        return u, torch.where(outer, s, 1)


def nearest_ray(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The chart and the coordinate s of the ray on which y is projected.

    A search that ends by the values: to be called through :func:`foldopt._operator.search`.
    """
    a, b, _ = y.unbind(-1)
    least = torch.where(a > 0, 1 - b / a, -torch.inf)
    most = torch.where(b > 0, a / b, torch.inf)
    one, no = torch.ones_like(a), torch.zeros_like(a, dtype=torch.bool)
    middle = Chart(no, no)
    high = (most > 1) & ((least >= 1) | (mismatch(y, middle, one)[0] < 0))
    low = (least < -1) & ((most <= -1) | (mismatch(y, middle, -one)[0] > 0))
    chart = Chart(low, high)
    # r rises with s, but for u = 1, where r = 1/s.
    begin = torch.where(high, 1 / most, torch.where(low, -1 / least, least.clamp_min(-1)))
    end = torch.where(high, 1 / least.clamp_min(1), torch.where(low, 1, most.clamp_max(1)))
    end = torch.where(low & (most < -1), -1 / most, end)
    rising = torch.where(high, -1, 1)
    rounding = 8 * torch.finfo(y.dtype).eps

    s, last = 0.5 * (begin + end), end - begin
    for _ in range(_STEPS):
        value, slope = mismatch(y, chart, s)
        above = value * rising > 0
        begin, end = torch.where(above, begin, s), torch.where(above, s, end)
        step = -value / slope
        moving = step.abs() > rounding * torch.where(low | high, s.abs(), 1)
        if ops.none(moving):
            break
        # Newton's step as far as the bracket goes, if it is at most half the last one.
        step = torch.minimum(torch.maximum(s + step, begin), end) - s
        good = (2 * step.abs() <= last) & (step != 0)
        step = torch.where(moving, torch.where(good, step, 0.5 * (begin + end) - s), 0)
        s, last = s + step, step.abs()
    return low, high, s


def mismatch(y: Tensor, chart: Chart, s: Tensor) -> tuple[Tensor, Tensor]:
    """yᵀ(p × q) with a positive factor that keeps it finite, and its derivative in s.

    The factor is v where r ≤ 0, and v e⁻²ʳ where r > 0.
    """
    a, b, c = y.unbind(-1)
    u, v = chart.ratio(s)
    outer = chart.low | chart.high
    du, dv = torch.where(outer, 0.0, 1.0), torch.where(outer, 1.0, 0.0)  # by s
    r, far = _divide(u, v)
    dr = torch.where(far, 0, (du - r * dv) / torch.where(far, 1, v))

    up = r > 0
    e = torch.exp(-r.abs())
    square = e * e
    plus, minus = torch.where(up, 1, square), torch.where(up, square, 1)
    d_plus, d_minus = torch.where(up, 0, 2 * square * dr), torch.where(up, -2 * square * dr, 0)
    d_e = torch.where(up, -e, e) * dr

    along_a, d_a = v * minus + (v - u) * plus, dv * minus + (dv - du) * plus
    along_b, d_b = v * plus + u * minus, dv * plus + du * minus
    along_c, d_c = u * r - u + v, du * r + u * dr - du + dv
    value = -a * along_a + b * along_b - c * along_c * e
    slope = (
        -a * (d_a + v * d_minus + (v - u) * d_plus)
        + b * (d_b + v * d_plus + u * d_minus)
        - c * (d_c * e + along_c * d_e)
    )
    # Zero only where all else has vanished below the smallest numbers.
    return value, torch.where(slope == 0, 1, slope)


def on_ray(y: Tensor, chart: Chart, s: Tensor) -> Tensor:
    """The projection of y on the ray p(r) at s."""
    u, v = chart.ratio(s)
    r, _ = _divide(u, v)
    e = torch.exp(-r.abs())
    up = r > 0
    p = torch.stack(
        [torch.where(up, r * e, u), torch.where(up, e, v), torch.where(up, 1, v * e)], -1
    )
    return p * ((y * p).sum(-1, keepdim=True) / p.square().sum(-1, keepdim=True))


def _divide(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """r = u/v, no larger than matters, and where it would be."""
    far = v.detach() * _FAR < u.detach().abs()
    return torch.where(far, _FAR * u.detach().sign(), u / torch.where(far, 1, v)), far
