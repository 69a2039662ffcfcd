"""The search for the α with the least ρ(Φ(α))."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch

from foldopt._arguments import Step
from foldopt.diagnose._arnoldi import BASIS, dominant
from foldopt.diagnose._lanczos import Ends, best_step_size, ends, krylov
from foldopt.diagnose._point import record_step, warn_if_moved
from foldopt.jacobian import StepJacobian
from foldopt.linear._common import norm
from foldopt.status import FoldWarning

# The search ends once α is known to this factor; ρ is flat to second order around it, or its two
# branches differ by a hundredth of their own change.
_WIDTH = 1.01
# Points of the coarse grid, evenly spaced in log α.
_GRID = 9
# How many times the two branches are brought closer before the search takes over.
_CROSSINGS = 20
# Without bounds, the search covers this factor to either side of 1/s.
_REACH = 30.0
# Lanczos' method has found both ends once their residuals are below this share of the spectrum.
_ENDS = 0.005


class Family:
    """Steps by their α, with what was measured of each, and at what price."""

    def __init__(
        self,
        make_step: Callable[[float], Step],
        x_star: Any,
        params: tuple[Any, ...],
        batch_dims: int,
        rtol: float | None,
        max_products: int,
    ) -> None:
        self.make_step = make_step
        self.at = (x_star, params, batch_dims)
        self.rtol, self.max_products = rtol, max_products
        self.products = self.evaluations = 0
        self._seen: dict[float, complex] = {}
        self._last: tuple[float, StepJacobian] | None = None

    def jacobian(self, alpha: float) -> StepJacobian:
        """The step of this α, recorded at x*; the last one is kept."""
        if self._last is None or self._last[0] != alpha:
            recorded = record_step("tune_step_size", self.make_step(alpha), *self.at)[1]
            self._last = (alpha, recorded)
        return self._last[1]

    def eigenvalue(self, alpha: float) -> complex:
        """The eigenvalue of largest modulus in the batch; inf where Φ is not finite."""
        if alpha not in self._seen:
            jacobian = self.jacobian(alpha)
            eps = torch.finfo(jacobian.residual.dtype).eps
            rtol = max(1e-6, eps**0.6) if self.rtol is None else self.rtol
            found = dominant(jacobian, rtol, self.max_products)
            self.evaluations += 1
            self.products += int(found.products.max())
            theta = torch.where(found.eigenvalue.isnan(), torch.inf, found.eigenvalue)
            self._seen[alpha] = complex(theta[theta.abs().argmax()])
        return self._seen[alpha]

    def radius(self, alpha: float) -> float:
        return abs(self.eigenvalue(alpha))

    def best(self) -> float:
        """The α with the least ρ of all that were looked at."""
        return min(self._seen, key=self.radius)

    def warn(self, alpha: float, radius: float, bounds: tuple[float, float] | None) -> None:
        """Say so where the answer is of no use."""
        where = "any α > 0 tried" if bounds is None else f"any α in {bounds}"
        if not radius < 1:
            warnings.warn(
                f"tune_step_size: ρ(Φ) is not below 1 for {where}: {radius:.6g} at "
                f"α = {alpha:.3g}, the value returned. Likely causes: the Hessian is singular or "
                "indefinite where the step may move, or the bounds do not hold the right α. An "
                "iterative backward pass (LFPI, unrolling) does not converge: fold with Auto(), "
                "Dense() or GMRES(), which need no ρ(Φ) < 1; or regularise the objective, or "
                "widen the bounds.",
                FoldWarning,
                stacklevel=5,
            )
        warn_if_moved("tune_step_size", self.jacobian(alpha), stacklevel=6)


def from_both_ends(
    family: Family, alpha: float, bounds: tuple[float, float] | None
) -> tuple[float, float]:
    """α* of a gradient step and ρ there, from the spectrum of H = (I − Φ)/α at one α."""
    jacobian = family.jacobian(alpha)
    start = jacobian._generic(0.7548776662466927)
    n = jacobian.layout.n
    count = n if n <= BASIS else 16  # exact where that is cheap
    while True:
        count = min(count, n, family.max_products)
        found = ends(*krylov(lambda v: (v - jacobian.vjp(v)) / alpha, start, count))
        family.products += count
        open_ = (found.least_residual + found.largest_residual).max()
        small = not bool(open_ > _ENDS * (found.largest - found.least).max())
        if small or count in (n, family.max_products):
            break
        count *= 2
    family.evaluations += 1
    # One α for all samples: the ends of the union of their spectra.
    least, largest = found.least.min(), found.largest.max()
    worst = found.largest_residual[found.largest.argmax()]
    best = float(best_step_size(Ends(least, largest, found.least_residual.max(), worst)))
    if math.isnan(best):
        return alpha, math.inf
    if bounds is not None:
        best = min(max(best, bounds[0]), bounds[1])
    return best, max(abs(1 - best * float(least)), abs(1 - best * float(largest)))


def unbounded(family: Family) -> float:
    """Search around 1/s, and further up where the best is at the upper end of what was searched.

    On a curved set s is that of the curvature at small α, which may be far above the Hessian's.
    """
    center = 1 / _scale(family)
    low, high = center / _REACH, center * _REACH
    alpha = within(family, low, high)
    for _ in range(3):
        if not (alpha > high / 1.1 and family.radius(alpha) < 1):
            break
        low, high = high / 1.2, high * _REACH**2
        alpha = within(family, low, high)
    return alpha


def _scale(family: Family) -> float:
    """The largest modulus s of an eigenvalue of −∂Φ/∂α at α = 0.1/s, to a factor of about two.

    For a Φ that is affine in α it is the same everywhere. On a curved set it falls as α grows, so
    that the first look is at a small α; where that loses all digits, the next look is at a larger.
    """
    alpha, earlier = 1e-4, math.inf
    for _ in range(4):
        first, second = family.jacobian(alpha), family.jacobian(2 * alpha)
        v = first._generic(0.7548776662466927)
        size = torch.zeros_like(v[:, 0])
        for _ in range(4):
            v = v / norm(v).clamp_min(torch.finfo(v.dtype).tiny).unsqueeze(-1)
            v = (first.vjp(v) - second.vjp(v)) / alpha
            size = norm(v)
            family.products += 2
        s = float(size.nan_to_num(0.0, 0.0, 0.0).max())
        if s == 0:
            return 1.0
        if 0.5 * earlier <= s <= 2 * earlier:
            return s
        alpha, earlier = 0.1 / s, s
    return earlier


def within(family: Family, low: float, high: float) -> float:
    alpha = _from_two_branches(family, low, high)
    return _search(family, low, high) if alpha is None else alpha


def _from_two_branches(family: Family, low: float, high: float) -> float | None:
    """Where 1 − αμ_min and αμ_max − 1 are equal, if that is what ρ(Φ(α)) looks like.

    The dominant eigenvalue is positive to the left of there and negative to the right. The two
    lines through it at either end cross where ρ is least, if they are lines; on a curved set they
    are not quite, and the ends move in.
    """
    left, right = family.eigenvalue(low), family.eigenvalue(high)
    bisect = False
    for _ in range(_CROSSINGS):
        if left.imag or right.imag or not (0 < left.real < 1 and right.real < 0):
            return None
        least, most = (1 - left.real) / low, (1 - right.real) / high
        alpha = math.sqrt(low * high) if bisect else 2 / (least + most)
        if not low < alpha < high:
            return None
        here = family.eigenvalue(alpha)
        predicted = max(1 - alpha * least, alpha * most - 1)
        found = not bisect and abs(abs(here) - predicted) <= (_WIDTH - 1) * (1 - predicted)
        width = math.log(high / low)
        if here.real > 0:
            low, left = alpha, here
        else:
            high, right = alpha, here
        if found or high / low <= _WIDTH:
            return family.best()
        bisect = math.log(high / low) > 0.5 * width
    return None


def _search(family: Family, low: float, high: float) -> float:
    """The least ρ on a coarse grid in log α, and then by golden sections around it."""
    ratio = (high / low) ** (1 / (_GRID - 1))
    grid = [low, *(low * ratio**k for k in range(1, _GRID - 1)), high]
    radii = [family.radius(alpha) for alpha in grid]
    least = min(radii)
    flat = [k for k, radius in enumerate(radii) if radius <= least + 1e-9 * (1 + least)]
    if len(flat) > 2 or least == 0 or math.isinf(least):
        return grid[flat[len(flat) // 2]]
    best = radii.index(least)
    a, d = math.log(grid[max(best - 1, 0)]), math.log(grid[min(best + 1, _GRID - 1)])
    golden = (math.sqrt(5) - 1) / 2
    b, c = d - golden * (d - a), a + golden * (d - a)
    while d - a > math.log(_WIDTH):
        if family.radius(math.exp(b)) <= family.radius(math.exp(c)):
            d, c = c, b
            b = d - golden * (d - a)
        else:
            a, b = b, c
            c = a + golden * (d - a)
    return family.best()
