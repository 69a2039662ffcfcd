"""ρ(Φ): how fast the backward pass of an unfolded step converges, and whether it does."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foldopt._arguments import Step
from foldopt._call import graph_break
from foldopt.diagnose._arnoldi import Dominant, dominant
from foldopt.diagnose._point import in_batch, record_step, refuse_mixing
from foldopt.jacobian import StepJacobian
from foldopt.linear._common import default_rtol, tolerances
from foldopt.status import FoldWarning

__all__ = ["SpectralRadius", "spectral_radius"]


class SpectralRadius(NamedTuple):
    """ρ(Φ) of each sample and what it predicts; every field has the shape of the batch.

    Attributes
    ----------
    radius
        ρ(Φ), the largest modulus of an eigenvalue. NaN where Φ is not finite.
    rate
        −log ρ(Φ): by so much the logarithm of the error falls in an iteration of
        :class:`~foldopt.LFPI`, and of unrolling. Negative where they diverge, inf where ρ = 0.
    iterations
        How many iterations that means for ``tolerance``: log(1/tolerance) / rate, at least 1; inf
        where ρ ≥ 1. It is asymptotic: a Φ that is far from normal has a transient in front.
    eigenvalue
        The eigenvalue of that modulus, complex128; of a conjugate pair the one above the real axis.
    residual
        ‖Φᵀy − θy‖ for the unit Ritz vector y of that eigenvalue θ.
    converged
        Whether the residual is small enough, as asked for by ``rtol``.
    products
        With how many products with Φᵀ the sample was done, integers.
    """

    radius: Tensor
    rate: Tensor
    iterations: Tensor
    eigenvalue: Tensor
    residual: Tensor
    converged: Tensor
    products: Tensor


@graph_break
@torch.no_grad()
def spectral_radius(
    step: Step,
    x_star: Any,
    *params: Any,
    batch_dims: int = 1,
    tolerance: float | None = None,
    rtol: float | None = None,
    max_products: int = 1000,
) -> SpectralRadius:
    r"""The spectral radius ρ(Φ) of a step at a point, sample by sample.

    :math:`\Phi = \partial U/\partial x`, and the error of the iteration
    :math:`v_{k+1} = \Phi^\top v_k + g` falls like :math:`\rho(\Phi)^k`: it converges for every g
    if and only if ρ(Φ) < 1, at the rate :math:`-\log \rho(\Phi)`.

    Parameters
    ----------
    step
        ``step(x, *params) -> x``, in PyTorch; see :func:`~foldopt.fold`.
    x_star
        Where to take Φ: a floating tensor or numpy array ``(*batch, *event)``, or a nested tuple,
        list or dict of them. Whether it is a fixed point is not looked at.
    *params
        As for :func:`~foldopt.fold`.
    batch_dims
        How many leading dimensions of x count independent samples.
    tolerance
        The relative accuracy to which ``iterations`` refers, above 0 and below 1. None: that of
        the linear solvers, 1.1e-11 in float64 and 1.4e-5 in float32.
    rtol
        The residual, relative to ρ, at which the eigenvalue counts as found. None: 4e-10 in
        float64, 7e-5 in float32.
    max_products
        At most so many products with Φᵀ.

    Returns
    -------
    SpectralRadius
        With fields of shape ``(*batch,)``.

    Raises
    ------
    FoldError
        If the step returns another shape or dtype, mixes samples, or a ``torch.func`` transform
        is active.
    TypeError, ValueError
        If an argument is not of its kind.

    Warns
    -----
    FoldWarning
        If the eigenvalue of a sample was not found with ``max_products``.

    Notes
    -----
    For n ≤ 64, Φ is written out and LAPACK finds its eigenvalues. Above, Arnoldi's method with
    thick restarts finds the dominant one, complex pairs included, from a fixed generic vector: no
    random number is drawn, and no sample's answer depends on the others.

    An eigenvalue of a Φ that is far from normal is only as certain as Φ itself: the entries of a
    k × k Jordan block, right to ε, determine it to about ε^(1/k).

    References
    ----------
    arXiv 2301.12047, eq. 9 and Corollary 2.
    G. W. Stewart, SIAM J. Matrix Anal. Appl. 23 (2002), 601–614 (restarts).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> M = torch.tensor([[0.0, -0.5], [0.5, 0.0]], dtype=torch.float64)  # a rotation, halved
    >>> c = torch.ones(1, 2, dtype=torch.float64)
    >>> found = fo.spectral_radius(lambda x, c: x @ M.T + c, torch.zeros_like(c), c, tolerance=1e-6)
    >>> found.radius, found.iterations.ceil()
    (tensor([0.5000], dtype=torch.float64), tensor([20.], dtype=torch.float64))
    """
    check_options(tolerance, rtol, max_products)
    _, jacobian = record_step("spectral_radius", step, x_star, params, batch_dims)
    refuse_mixing(jacobian)
    return summarise(jacobian, dominant_of(jacobian, rtol, max_products), tolerance, warn=True)


def check_options(tolerance: float | None, rtol: float | None, max_products: int) -> None:
    """Raise for options that are not of their kind."""
    tolerances(rtol, 0.0)
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be above 0 and below 1, got {tolerance!r}")
    if not isinstance(max_products, int) or isinstance(max_products, bool) or max_products < 1:
        raise ValueError(f"max_products must be an integer of 1 or more, got {max_products!r}")


def dominant_of(jacobian: StepJacobian, rtol: float | None, max_products: int) -> Dominant:
    """The dominant eigenvalue of each sample, with the default tolerance for its dtype."""
    eps = torch.finfo(jacobian.residual.dtype).eps
    return dominant(jacobian, eps**0.6 if rtol is None else rtol, max_products)


def summarise(
    jacobian: StepJacobian, found: Dominant, tolerance: float | None, *, warn: bool
) -> SpectralRadius:
    """What an eigenvalue predicts, in the shape of the batch and the dtype of x."""
    dtype = jacobian.residual.dtype
    radius = found.eigenvalue.abs()
    rate = -radius.log()
    digits = -torch.tensor(default_rtol(dtype) if tolerance is None else tolerance).double().log()
    iterations = torch.where(radius < 1, (digits / rate.clamp_min(0)).clamp_min(1), torch.inf)
    iterations = torch.where(radius.isnan(), torch.nan, iterations)
    if warn and not bool((found.converged | radius.isnan()).all()):
        count = int((~found.converged).sum())
        raise_after = int(found.products.max())
        warnings.warn(
            f"spectral_radius: the dominant eigenvalue of {count} of {radius.numel()} samples was "
            f"not found to rtol with {raise_after} products (largest residual "
            f"{float(found.residual[~found.converged].max()):.1e}): eigenvalues of nearly the same "
            "modulus. The radius given is an estimate, most often too small. Raise max_products "
            "or rtol.",
            FoldWarning,
            stacklevel=5,
        )
    return SpectralRadius(
        in_batch(jacobian, radius.to(dtype)),
        in_batch(jacobian, rate.to(dtype)),
        in_batch(jacobian, iterations.to(dtype)),
        in_batch(jacobian, found.eigenvalue),
        in_batch(jacobian, found.residual),
        in_batch(jacobian, found.converged),
        in_batch(jacobian, found.products),
    )
