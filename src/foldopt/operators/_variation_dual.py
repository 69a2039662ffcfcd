"""Total variation on a grid, forward: accelerated projected gradient on the dual.

With h(d) = ‖d‖²/2δ for ‖d‖ ≤ δ and ‖d‖ − δ/2 above, which is ‖d‖ for δ = 0, the dual of

    min ½‖x − y‖² + w Σ h((Dx)ᵢ)   is   min ½‖y − Dᵀp‖² + δ/2w ‖p‖²   over ‖pᵢ‖ ≤ w,

with x = y − Dᵀp. Its gradient has the Lipschitz constant 8 + δ/w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foldopt import _operator as ops
from foldopt.operators._grid import differences, means, parts, transposed
from foldopt.status import Solution, Status


class Variation(NamedTuple):
    """w Σ h((Dx)ᵢ): what is constant of it."""

    isotropic: bool
    smoothing: float  # δ

    def size(self, d: Tensor) -> Tensor:
        """‖dᵢ‖: of both differences of a pixel together, or of each one."""
        return ops.length_of(d.movedim(-3, -1)).unsqueeze(-3) if self.isotropic else d.abs()

    def force(self, d: Tensor, weight: Tensor) -> Tensor:
        """The gradient of w h at d, for δ > 0."""
        return weight * d / self.size(d).clamp_min(self.smoothing)

    def descend(self, p: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """One projected gradient step of the dual."""
        change = weight * differences(y - transposed(p)) - self.smoothing * p
        scale = 8 * weight + self.smoothing
        p = p + change / torch.where(scale == 0, 1, scale)
        size = self.size(p)
        outside = size > weight
        # In this order, so that a single difference ends at ±w exactly.
        return torch.where(outside, weight * (p / torch.where(outside, size, 1)), p)


def on_pieces(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Without smoothing, one difference at a time: the solution with the pieces that x has.

    On a connected part of equal pixels, x is the mean of y − w Dᵀσ, with σ the signs of the
    differences, of which only those along the boundary of the part count.
    """
    d = differences(x.detach())
    joined = (d == 0) & (weight.detach() > 0)
    return means(y - transposed(weight * d.sign()), parts(joined))


def solve(
    variation: Variation, y: Tensor, weight: Tensor, rtol: float, max_iterations: int
) -> Solution:
    """x for y of shape ``(B, H, W)`` and weight ``(B, 1, 1, 1)``, with ‖x − x*‖ ≤ rtol ‖y − ȳ‖.

    Each sample is taken as soon as this is certain, and is not touched any more.
    """
    found = exact if variation.smoothing == 0 else _smooth
    level = y.mean((-2, -1), keepdim=True)  # takes no part, and would only cost digits
    y = y - level
    spread = torch.linalg.vector_norm(y, dim=(-2, -1))
    goal = rtol * spread
    done = ~torch.isfinite(spread + weight.flatten())  # a fold reports what is not finite
    x = torch.where(done[:, None, None], torch.nan, y)
    p = torch.zeros_like(differences(y))
    z, t = p, torch.ones_like(weight)
    look = 16
    for k in range(1, max_iterations + 1):
        q = variation.descend(z, y, weight)
        # Momentum starts again where it points uphill; this makes the end of the way linear.
        uphill = ((z - q) * (q - p)).sum((-3, -2, -1), keepdim=True) > 0
        faster = torch.where(uphill, 1, 0.5 * (1 + (1 + 4 * t * t).sqrt()))
        z = q + torch.where(uphill, 0, (t - 1) / faster) * (q - p)
        p, t = q, faster
        if k in (look, max_iterations):
            candidate, distance = found(variation, p, y, weight, goal)
            x = torch.where(done[:, None, None], x, candidate)
            done = done | (distance <= goal)
            if bool(done.all()):
                break
            look += max(16, look // 4)
    status = torch.where(done, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
    return Solution(x + level, status)


def _smooth(
    variation: Variation, p: Tensor, y: Tensor, weight: Tensor, goal: Tensor
) -> tuple[Tensor, Tensor]:
    """x = y − Dᵀp, and a bound of its distance: the objective is 1-strongly convex."""
    x = y - transposed(p)
    gradient = transposed(variation.force(differences(x), weight) - p)
    return x, torch.linalg.vector_norm(gradient, dim=(-2, -1))


def exact(
    variation: Variation, p: Tensor, y: Tensor, weight: Tensor, goal: Tensor
) -> tuple[Tensor, Tensor]:
    """The solution on the pieces that p shows, and a bound of its distance.

    Pixels are joined where |pᵢ| < w, and also where their difference is too small to tell from
    zero: p is not unique, and may be w inside of a piece.
    """
    u = y - transposed(p)
    d = differences(u)
    tiny = 0.1 * goal[:, None, None, None] / (y.shape[-2] * y.shape[-1]) ** 0.5
    joined = (p.abs() < weight) | ((d.abs() <= tiny) & (weight > 0))
    x = means(y - transposed(torch.where(joined, 0, weight * d.sign())), parts(joined))
    # The duality gap, in terms that are none of them negative, and bound ½‖x − x*‖².
    d = differences(x)
    gap = 0.5 * (x - u).square().sum((-2, -1)) + (weight * d.abs() - d * p).sum((-3, -2, -1))
    # The signs must be those that x turns out to have.
    astray = torch.linalg.vector_norm(on_pieces(x, y, weight) - x, dim=(-2, -1))
    return x, torch.maximum((2 * gap.clamp_min(0)).sqrt(), astray)
