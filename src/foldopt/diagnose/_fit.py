"""The rate of a curve of errors that falls, in the end, like k^p ρ^k."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Relative errors below this many ε are rounding.
_ROUNDING = 100
# A fit needs so many points; one with a transient, so many.
_LEAST, _CURVED = 4, 9
# How fast the transient of the model dies, relative to the window: e^−2 … e^−12 at its end.
_DECAYS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
# It may move the rate by so much from that of the last third: it fits what is left of another
# eigenvalue, and does not foresee where that leads.
_REACH = 0.05
# A transient is believed in where it explains all but this share of what a line leaves over:
# oscillation, which no transient explains, stays with the line.
_BELIEVED = 0.25


def fitted_rate(index: Tensor, error: Tensor, power: float, eps: float) -> float:
    """−d log(error)/dk where the curve is asymptotic and above its floor.

    The last two thirds above the floor count. There log e_k − p log k is a line, and on top of it,
    where another eigenvalue is near to the dominant one, a transient that dies exponentially.
    """
    keep = torch.isfinite(error) & (index >= (1 if power else 0))
    k, e = index[keep].double(), error[keep].double()
    if len(k) == 0:
        raise ValueError("fitted_rate: the curve has no finite point")
    last = floor_begins(k, e, eps)
    if last < len(k) and k[last] - k[0] <= 2:
        return math.inf  # nothing is left after two products: Φ = 0, or very nearly
    if last < _LEAST:
        raise ValueError(
            f"fitted_rate: {last} point(s) lie above the rounding floor, and a fit needs {_LEAST}: "
            "the error falls too fast, or there are too few (raise iterations, or lower every)"
        )
    k, y = k[:last], e[:last].log() - power * k[:last].clamp_min(1).log()
    first = int((k < k[0] + (k[-1] - k[0]) / 3).sum())
    first = max(0, min(first, last - _CURVED))
    return -final_slope(k[first:], y[first:])


def floor_begins(k: Tensor, e: Tensor, eps: float) -> int:
    """The number of points before the curve reaches its floor, where it stops falling.

    The envelope from the right, max over j ≥ k of the errors, does not oscillate. A floor is where
    it stays within a factor of 100 of its end for half as long again as falling that far takes
    elsewhere.
    """
    envelope = e.flip(0).cummax(0).values.flip(0)
    last = int((envelope > _ROUNDING * eps).sum())
    near = envelope <= 100 * envelope[-1]
    begin = int((~near).sum())
    if begin < 2 or begin >= len(k) - 1:
        return last
    fall = float((envelope[0] / envelope[begin]).log() / (k[begin] - k[0]))
    stays = float(k[-1] - k[begin])
    return min(last, begin) if stays > 1.5 * math.log(100) / fall else last


def final_slope(k: Tensor, y: Tensor) -> float:
    """The slope of the line that y tends to, by least squares with and without a transient."""
    width = float(k[-1] - k[0])
    z = (k - k[0]) / width
    line = torch.stack([torch.ones_like(z), z], -1)
    plain, left = least_squares(line, y)
    slope, limit = None, _BELIEVED * left
    for decay in _DECAYS if len(k) >= _CURVED else ():
        found, left = least_squares(torch.cat([line, torch.exp(-decay * z).unsqueeze(-1)], -1), y)
        if left < limit:
            slope, limit = float(found[1]), left
    if slope is None:
        return float(plain[1]) / width
    late = z >= 0.5
    final = float(least_squares(line[late], y[late])[0][1])
    reach = _REACH * abs(final)
    return min(max(slope, final - reach), final + reach) / width


def least_squares(matrix: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """The coefficients, and the sum of squares that they leave."""
    found = torch.linalg.lstsq(matrix, y.unsqueeze(-1)).solution
    return found.squeeze(-1), float((matrix @ found - y.unsqueeze(-1)).square().sum())
