"""Total variation of images."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

from foldopt import _operator as ops
from foldopt._arguments import OnFailure
from foldopt.certify import Certify
from foldopt.layer import folded
from foldopt.linear import CG
from foldopt.operators._grid import differences, transposed
from foldopt.operators._variation_dual import Variation, on_pieces, solve
from foldopt.status import Solution
from foldopt.step import Step

__all__ = ["total_variation_2d"]


def total_variation_2d(
    y: Tensor,
    weight: Tensor | float = 1.0,
    *,
    isotropic: bool = False,
    smoothing: float = 0.0,
    rtol: float | None = None,
    max_iterations: int = 20_000,
    on_failure: OnFailure = "raise",
) -> Tensor:
    r"""Denoise images: the proximal operator of total variation over the last two dimensions.

    .. math:: \min_x \tfrac12 \|x - y\|^2 + w \sum_{i,j} \Bigl(
        h(x_{i,j+1} - x_{i,j}) + h(x_{i+1,j} - x_{i,j}) \Bigr), \qquad h(d) = |d|,

    or, if isotropic, with h of the length of both differences of a pixel together; with
    ``smoothing`` δ > 0, :math:`h(d) = d^2/2\delta` for :math:`|d| \le \delta` and
    :math:`|d| - \delta/2` above (Huber). In one dimension see :func:`foldopt.prox.total_variation`.

    Parameters
    ----------
    y
        Images ``(*batch, H, W)``, float32 or float64.
    weight
        w ≥ 0, a number or a tensor of shape ``batch``, or of any shape that broadcasts to it.
    isotropic
        Which of the two forms. The isotropic one needs a ``smoothing``.
    smoothing
        δ, in units of the differences of x.
    rtol
        How accurate: :math:`\|x - x^\star\| \le` rtol :math:`\|y - \bar y\|`, guaranteed.
        None: 1e-7 in float64, 1e-4 in float32.
    max_iterations
        Of the accelerated dual projected gradient that finds x.
    on_failure
        As for :func:`~foldopt.fold`. An image that has not converged has failed.

    Returns
    -------
    Tensor
        Of the shape and dtype of ``y``, differentiable in y and w.

    Raises
    ------
    FoldError
        If an image has not converged, or holds NaN or inf.
    TypeError, ValueError
        If an argument is not of its kind.

    Notes
    -----
    Without smoothing x is constant on connected parts: on each of them the mean of y, plus w times
    the signs along its boundary over its size. The parts are found from the dual, and the solution
    is computed on them, so that it and its derivative, averaging over each part, are exact: a step
    with Φ = 0. The gradient step of the dual would not do. Its solution is not unique inside of a
    part, I − Φ is singular, and where it lies on the bound there the derivative is a wrong one.

    The isotropic form has no such parts to hold on to: beside flat ones there are differences of
    every size down to zero, and the derivative changes with the least of them. Smoothing makes it
    smooth. Then the step is x ↦ y − w Dᵀ∇h(Dx), with a symmetric Φ and I − Φ ≥ I, and conjugate
    gradients need of the order of :math:`10 \sqrt{1 + 8w/\delta}` products.

    References
    ----------
    L. I. Rudin, S. Osher, E. Fatemi, Physica D 60 (1992), 259–268; A. Beck, M. Teboulle, IEEE
    Trans. Image Process. 18 (2009), 2419–2434 (the dual method).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> y = torch.tensor([[1.0, 0.0, 4.0], [0.0, 1.0, 6.0]], requires_grad=True)
    >>> x = fo.operators.total_variation_2d(y, 0.5)
    >>> x
    tensor([[0.7500, 0.7500, 4.0000],
            [0.7500, 0.7500, 5.0000]], grad_fn=...)
    """
    name = "operators.total_variation_2d"
    ops.check_matrix(name, y)
    w = ops.operand(f"{name}: weight", weight, y, y.shape[:-2], least=0)
    variation = _options(name, isotropic, smoothing)
    accuracy = _accuracy(name, rtol, y.dtype)
    if (
        not isinstance(max_iterations, int)
        or isinstance(max_iterations, bool)
        or max_iterations < 1
    ):
        raise ValueError(f"{name}: max_iterations must be 1 or more, got {max_iterations!r}")
    if y.numel() == 0:
        return y.clone()

    images = y.reshape(-1, *y.shape[-2:])
    w = torch.where(w >= 0, w, torch.nan).expand(y.shape[:-2]).reshape(-1)
    if variation.smoothing == 0:
        # A weight above this joins all pixels, and has no more effect.
        most = 2 * (images - images.mean((-2, -1), keepdim=True)).detach().abs().sum((-2, -1))
        w = torch.where(w > most, torch.where(most == 0, 1, most), w)

    def solver(y: Tensor, w: Tensor) -> Solution:
        return solve(variation, y, w[:, None, None, None], accuracy, max_iterations)

    step = _pieces if variation.smoothing == 0 else _smooth(variation)
    # The solver certifies its own distance, in the units of y; nothing is left to compare.
    trust = Certify(math.inf, math.inf)
    x = folded(step, adjoint=CG(), on_failure=on_failure, certify=trust)(solver)(images, w)
    return x.reshape(y.shape)


def _on_pieces(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return on_pieces(x, y, w[:, None, None, None])


_pieces = Step(_on_pieces, symmetric=True, newton=True, name="total_variation_2d")


def _smooth(variation: Variation) -> Step:
    """A gradient step of length 1: the objective's Hessian is I − Φ = I + w Dᵀ ∇²h D."""

    def update(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return y - transposed(variation.force(differences(x), w[:, None, None, None]))

    return Step(update, symmetric=True, name="total_variation_2d")


def _options(name: str, isotropic: bool, smoothing: float) -> Variation:
    if not isinstance(smoothing, numbers.Real) or not 0 <= smoothing < math.inf:
        raise ValueError(
            f"{name}: smoothing must be a finite number of 0 or more, got {smoothing!r}"
        )
    if isotropic and smoothing == 0:
        raise ValueError(
            f"{name}: the isotropic form needs a smoothing above 0, such as 1e-2 times the height "
            "of an edge: without it the derivative depends on differences however small"
        )
    return Variation(bool(isotropic), float(smoothing))


def _accuracy(name: str, rtol: float | None, dtype: torch.dtype) -> float:
    if rtol is None:
        return 1e-7 if dtype == torch.float64 else 1e-4
    if not isinstance(rtol, numbers.Real) or not rtol > 0:
        raise ValueError(f"{name}: rtol must be above 0, got {rtol!r}")
    return float(rtol)
