"""The single measurements of a report, each on one recorded step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from foldopt._tree import Leaves
from foldopt.diagnose._lanczos import orthogonal, unit
from foldopt.jacobian import StepJacobian
from foldopt.linear import GMRES, LinearOperator, solve
from foldopt.linear._common import default_rtol, dot, norm
from foldopt.linear.auto import _CG_SHARE, _DENSE_BYTES, _LFPI_SHARE, _SMALL, _TINY, Auto

# Φ is written out for its singular values up to this n, and so many numbers in the batch.
_DENSE_UP_TO, _DENSE_NUMBERS = 256, 1 << 22
_BIDIAGONAL = 60
_RATES = (0.7548776662466927, 0.5698402909980532)


def fits_densely(jacobian: StepJacobian) -> bool:
    samples, n = jacobian.layout.samples, jacobian.layout.n
    return n <= _DENSE_UP_TO and samples * n * n <= _DENSE_NUMBERS


def is_zero(jacobian: StepJacobian) -> bool:
    """Whether Φᵀu is negligible for a generic u: then one product is all that a solver needs."""
    u = jacobian._generic(_RATES[0])
    return bool((norm(jacobian.vjp(u)) <= default_rtol(u.dtype) * norm(u)).all())


def symmetry_defect(jacobian: StepJacobian) -> Tensor:
    """|uᵀ(Φt) − tᵀ(Φu)| over the size of the products, for two generic vectors; ``(B,)``."""
    u, t = (jacobian._generic(rate) for rate in _RATES)
    back_u, back_t = jacobian.vjp(u), jacobian.vjp(t)
    gap = (dot(back_u, t) - dot(back_t, u)).abs()
    size = norm(back_u) * norm(t) + norm(back_t) * norm(u)
    return gap / torch.where(size > 0, size, 1)


def least_singular_value(jacobian: StepJacobian) -> tuple[Tensor, str]:
    """σ_min(I − Φ) of each sample, and how it was found."""
    like = jacobian.residual
    samples, n = like.shape
    if samples * n == 0:
        return like.new_full((samples,), math.inf), "nothing to measure"
    if fits_densely(jacobian):
        matrix = torch.eye(n, dtype=like.dtype, device=like.device) - jacobian.dense()
        finite = torch.isfinite(matrix).all(-1).all(-1)
        matrix = torch.where(finite[:, None, None], matrix, 0)  # LAPACK raises on NaN
        least = torch.linalg.svdvals(matrix)[..., -1]
        return torch.where(finite, least, torch.nan), "singular values of I − Φ written out"
    try:
        v = _bidiagonal(jacobian)
    except RuntimeError:  # no Φ t: the step cannot be differentiated twice
        return torch.full_like(like[:, 0], torch.nan), "not measured: Φ t is not to be had"
    return _inverse_iteration(jacobian, v), "an upper bound: Golub–Kahan and inverse iteration"


def _bidiagonal(jacobian: StepJacobian) -> Tensor:
    """A unit v for which ‖A v‖ is least on a Krylov space, A = I − Φ.

    A V = U B with orthonormal V and U and an upper bidiagonal B, so that ‖A V y‖ = ‖B y‖.
    """
    back, forward = LinearOperator(jacobian, True), LinearOperator(jacobian, False)
    v = unit(jacobian._generic(_RATES[0]), 0.0)
    tiny = 8 * torch.finfo(v.dtype).eps
    V, U = [v], []
    diagonal, beyond = [], []
    largest = torch.zeros_like(v[:, 0])
    for _ in range(min(_BIDIAGONAL, v.shape[-1])):
        image = forward(V[-1])
        largest = torch.maximum(largest, norm(image))
        image = orthogonal(image, U) if U else image
        diagonal.append(norm(image))
        U.append(unit(image, tiny * largest))
        image = orthogonal(back(U[-1]), V)
        length = norm(image)
        beyond.append(torch.where(length > tiny * largest, length, 0))
        V.append(unit(image, tiny * largest))
    alpha, beta = torch.stack(diagonal, -1), torch.stack(beyond, -1)[:, :-1]
    # Past the end of an invariant space, rows of zeros would look like singular values of 0; with
    # a large number there they are never the least.
    dead = torch.stack(V[:-1], 1).square().sum(-1) == 0
    alpha = torch.where(dead, 2 * largest.unsqueeze(-1) + 1, alpha)
    B = torch.diag_embed(alpha) + (torch.diag_embed(beta, 1) if beta.shape[-1] else 0)
    finite = torch.isfinite(B).all(-1).all(-1)
    y = torch.linalg.svd(torch.where(finite[:, None, None], B, 0))[2][..., -1:, :]
    v = (y @ torch.stack(V[:-1], 1)).squeeze(1)
    return torch.where(finite.unsqueeze(-1), v, torch.nan)


def _inverse_iteration(jacobian: StepJacobian, v: Tensor) -> Tensor:
    """The least ‖A v‖ / ‖v‖ over two steps of the power method on (AᵀA)⁻¹, A = I − Φ.

    Where A is nearly singular and GMRES does not solve, what it returns has grown along the least
    singular vector all the same; and every ‖A v‖ / ‖v‖ is an upper bound.
    """
    back, forward = LinearOperator(jacobian, True), LinearOperator(jacobian, False)
    method = GMRES(rtol=1e-4, max_iterations=200, restart=100)
    least = norm(forward(v))
    for _ in range(2):
        w = solve(method, forward, solve(method, back, v).value).value
        length = norm(w)
        usable = (length > 0) & torch.isfinite(length)
        w = w / torch.where(usable, length, 1).unsqueeze(-1)
        v = torch.where(usable.unsqueeze(-1), w, v)
        least = torch.minimum(least, norm(forward(v)))
    return least


def kinks(record: Callable[[Leaves], StepJacobian], here: StepJacobian) -> Tensor:
    """Which samples seem to sit at a kink of U, boolean ``(B,)``; a heuristic.

    Φᵀr, for one generic r, is compared with that at x* ± δd for a generic direction d. Where U is
    smooth the change is of order δ, and a hundredth of δ brings a hundredth of it; where a
    constraint is weakly active Φ jumps on one of the two sides, by the same amount for both.
    """
    like = here.residual
    samples, n = like.shape
    if samples * n == 0:
        return torch.zeros(samples, dtype=torch.bool, device=like.device)
    double = like.dtype == torch.float64
    delta, noise = (1e-5, 1e-6) if double else (1e-3, 1e-3)
    r = here._generic(_RATES[0])
    direction = here._generic(_RATES[1]) - 1  # in [−½, ½)
    x = here.layout.ravel(here.x).detach()
    reach = (delta * (1 + x.abs().amax(-1, keepdim=True))) * direction
    product = here.vjp(r)
    found = torch.zeros(samples, dtype=torch.bool, device=like.device)
    for sign in (1.0, -1.0):
        jumps = []
        for part in (1.0, 0.01):
            there = record(here.layout.unravel(x + sign * part * reach))
            jumps.append(norm(there.vjp(r) - product) / norm(r))
        found = found | ((jumps[1] > 0.3 * jumps[0]) & (jumps[1] > noise))
    return found


def is_singular(least: float, n: int, dtype: torch.dtype) -> bool:
    """Whether a σ_min(I − Φ) is zero to working precision."""
    return least <= 100 * n * torch.finfo(dtype).eps


def recommend(
    jacobian: StepJacobian, radius: float, least: float, symmetric: bool
) -> tuple[str, float, str]:
    """The solver of the adjoint system that suits, about how many products it takes, and why.

    The rules are those of ``Auto``, with ρ(Φ) in the place of the rate that it observes.
    """
    samples, n = jacobian.layout.samples, jacobian.layout.n
    like = jacobian.residual
    if is_singular(least, n, like.dtype):
        return "Dense(least_squares=True)", n, "I − Φ is singular: no other method has an answer"
    if is_zero(jacobian):
        return "Auto()", 1, "Φ = 0: v = g, which one product confirms"
    if n <= _TINY:
        return "Dense()", n, f"n = {n}: writing Φ out costs no more than a few iterations"
    fits = 3 * samples * n * n * like.dtype.itemsize <= _DENSE_BYTES
    if n <= _SMALL and fits:
        return "Dense()", n, f"n = {n}: an iteration's overhead is more than its arithmetic"
    auto = Auto()
    digits = -math.log(default_rtol(like.dtype))
    if auto._iterations(symmetric, like, radius):
        if symmetric:
            count = 0.5 * math.sqrt((1 + radius) / (1 - radius)) * (digits + 0.7)
            return "CG()", count, f"Φ is symmetric, and CG needs fewer than n/{_CG_SHARE} products"
        count = max(1.0, digits / -math.log(max(radius, 1e-300)))
        return "LFPI()", count, f"ρ(Φ) is small: fewer than n/{_LFPI_SHARE} products"
    if n <= auto.dense_up_to and fits:
        return "Dense()", n, "Φ contracts slowly, and fits in memory: n products and an LU"
    operator = LinearOperator(jacobian, symmetric=symmetric)
    name = type(auto._krylov(operator, like.numel() * like.dtype.itemsize)).__name__
    why = "Φ is symmetric" if symmetric else "no more is known of Φ"
    return f"{name}()", n, f"Φ contracts slowly and is too large to write out; {why}; n is a bound"
