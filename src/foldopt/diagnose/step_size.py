"""The step size for which the backward pass converges fastest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from foldopt._arguments import Step
from foldopt._call import graph_break
from foldopt.diagnose._point import refuse_mixing
from foldopt.diagnose._search import Family, from_both_ends, unbounded, within
from foldopt.diagnose.radius import check_options

__all__ = ["StepSize", "tune_step_size"]


class StepSize(NamedTuple):
    """A step size and what it brings.

    Attributes
    ----------
    step_size
        α.
    radius
        ρ(Φ(α)), the largest over the batch.
    evaluations
        At how many step sizes the step was looked at.
    products
        With how many products with Φᵀ in all.
    """

    step_size: float
    radius: float
    evaluations: int
    products: int


@graph_break
@torch.no_grad()
def tune_step_size(
    make_step: Callable[[float], Step],
    x_star: Any,
    *params: Any,
    bounds: tuple[float, float] | None = None,
    batch_dims: int = 1,
    rtol: float | None = None,
    max_products: int = 1000,
) -> StepSize:
    r"""The step size α for which ρ(Φ) is least, and so the backward pass of unrolling fastest.

    :math:`\alpha^\star = \arg\min_{l \le \alpha \le u} \max_b \rho(\Phi_b(\alpha))`, over the
    samples b of the batch. For a gradient step :math:`\rho = \max |1 - \alpha \mu|` over the
    eigenvalues μ of the Hessian, and :math:`\alpha^\star = 2/(\mu_{\min} + \mu_{\max})`; for
    projected and proximal gradient on polyhedral pieces the same holds with the Hessian on the
    tangent space.

    Parameters
    ----------
    make_step
        ``make_step(alpha) -> step``, for a float α > 0, with the same fixed point for every α.
    x_star
        The fixed point; see :func:`~foldopt.fold`.
    *params
        As for :func:`~foldopt.fold`.
    bounds
        (l, u) with 0 < l < u: where to look. None: a factor 30 to either side of 1/s, with s an
        estimate of the largest modulus of an eigenvalue of −∂Φ/∂α for small α; and further up,
        where the best α is at that end. Enough for steps of gradient type; for another family (a
        penalty, a relaxation), give them.
    batch_dims
        How many leading dimensions of x count independent samples. All share α.
    rtol
        The residual, relative to ρ, at which an eigenvalue counts as found. None: 1e-6 in float64,
        7e-5 in float32.
    max_products
        At most so many products with Φᵀ at each α.

    Returns
    -------
    StepSize
        α, ρ(Φ(α)) as measured there, and what the search took.

    Raises
    ------
    FoldError
        As for :func:`~foldopt.spectral_radius`.
    TypeError, ValueError
        If an argument is not of its kind.

    Warns
    -----
    FoldWarning
        If no α within the bounds gives ρ(Φ) < 1 (a Hessian that is singular or indefinite where
        the step may move: ρ ≥ 1 for every α), or if a step moves ``x_star``.

    Notes
    -----
    Where the step says that its Φ is symmetric, Lanczos' method at one α gives both ends of the
    spectrum, and so α* and ρ: exactly for n ≤ 64, and above to half a percent of the spectrum's
    width. Otherwise ρ at both bounds predicts where the branches 1 − αμ_min and αμ_max − 1 cross;
    where ρ there is as predicted, that is the answer, after three evaluations, or a few more on a
    curved set. Where ρ is not made of two such branches, a grid of nine and a golden-section
    search in log α find the minimum, to 1 %; they trust that a dip between two points of the grid
    is seen at one of them.

    References
    ----------
    arXiv 2301.12047, Corollary 2 and eq. 34.
    B. T. Polyak, Introduction to Optimization (1987), Section 1.4 (the optimal step size).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> h = torch.tensor([1.0, 4.0], dtype=torch.float64)
    >>> def make_step(alpha):
    ...     return fo.steps.gradient(lambda x, c: 0.5 * (h * (x - c) ** 2).sum(-1), alpha)
    >>> c = torch.ones(3, 2, dtype=torch.float64)
    >>> best = fo.tune_step_size(make_step, c, c)
    >>> round(best.step_size, 6), round(best.radius, 6)  # 2 / (1 + 4), and (4 − 1) / (4 + 1)
    (0.4, 0.6)
    """
    if not callable(make_step):
        raise TypeError(f"make_step must be callable, make_step(α), got {type(make_step).__name__}")
    check_options(None, rtol, max_products)
    check_bounds(bounds)
    family = Family(make_step, x_star, params, batch_dims, rtol, max_products)
    middle = 1.0 if bounds is None else math.sqrt(bounds[0] * bounds[1])
    refuse_mixing(family.jacobian(middle))
    if family.jacobian(middle).residual.numel() == 0:
        return StepSize(middle, 0.0, 0, 0)
    if getattr(make_step(middle), "symmetric", False):
        alpha, radius = from_both_ends(family, middle, bounds)
    else:
        alpha = unbounded(family) if bounds is None else within(family, *bounds)
        radius = family.radius(alpha)
    family.warn(alpha, radius, bounds)
    return StepSize(alpha, radius, family.evaluations, family.products)


def check_bounds(bounds: Any) -> None:
    """Raise unless the bounds are None or two numbers in order."""
    if bounds is None:
        return
    try:
        low, high = map(float, bounds)
    except (TypeError, ValueError):
        raise TypeError(f"bounds must be two numbers (low, high), got {bounds!r}") from None
    if not 0 < low < high < math.inf:
        raise ValueError(f"bounds must be (low, high) with 0 < low < high < inf, got {bounds!r}")
