"""Both ends of a symmetric operator's spectrum, from a few products."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.linear._common import norm

# ρ to one part in 2^10.
_BISECTIONS = 10


class Ends(NamedTuple):
    """The least and the largest Ritz value, each of the batch's shape, with their residuals.

    The Ritz values lie inside the spectrum. Within a residual of each there is an eigenvalue.
    """

    least: Tensor
    largest: Tensor
    least_residual: Tensor
    largest_residual: Tensor


def krylov(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    products: int,
    project: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """An orthonormal basis V of the Krylov space of ``start``, and its images A V.

    No value decides what is computed, so that this runs inside ``torch.func`` transforms and
    ``torch.compile``. A vector beyond the end of an invariant space is zero.

    Parameters
    ----------
    product
        A v, of the shape of v, with A symmetric.
    start
        Shape ``(*batch, n)``, with a component along every eigenvector that matters.
    products
        How many, and vectors; n suffice for exact values.
    project
        To stay in a subspace, that of ``start``: applied to every image before it becomes a
        direction, and again once it is of length one, which enlarges what rounding left.

    Returns
    -------
    V, W
        Each ``(*batch, products, n)``, in rows.
    """
    count = min(products, start.shape[-1])
    tiny = torch.finfo(start.dtype).eps ** 0.75
    basis = [unit(start, 0.0)]
    images = [product(basis[0])]
    largest = torch.zeros_like(start[..., 0])
    while len(images) < count:
        w = images[-1] if project is None else project(images[-1])
        largest = torch.maximum(largest, norm(w))
        w = unit(orthogonal(w, basis), tiny * largest)
        if project is not None:
            w = unit(orthogonal(project(w), basis), tiny)
        basis.append(w)
        images.append(product(w))
    return torch.stack(basis, -2), torch.stack(images, -2)


def ends(V: Tensor, W: Tensor) -> Ends:
    """The Ritz values at both ends, from a basis and its images."""
    matrix, finite = compressed(V, W)
    values, vectors = torch.linalg.eigh(matrix)
    found = []
    for index in (0, -1):
        theta, y = values[..., index], vectors[..., index].unsqueeze(-2)
        residual = norm((y @ W - theta[..., None, None] * (y @ V)).squeeze(-2))
        found += [torch.where(finite, theta, torch.nan), torch.where(finite, residual, torch.nan)]
    return Ends(found[0], found[2], found[1], found[3])


def compressed(V: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """V A Vᵀ, symmetric; and where it is finite (elsewhere it is zero: LAPACK raises on NaN).

    A row of V that is zero brings the eigenvalue 0, which may lie outside of the spectrum. The
    first Rayleigh quotient never does, and takes its place.
    """
    matrix = V @ W.mT
    matrix = 0.5 * (matrix + matrix.mT)
    dead = V.square().sum(-1) == 0
    matrix = matrix + torch.diag_embed(torch.where(dead, matrix[..., :1, 0], 0))
    finite = torch.isfinite(matrix).all(-1).all(-1)
    return torch.where(finite[..., None, None], matrix, 0), finite


def ends_on_set(V: Tensor, HV: Tensor, PV: Tensor, PHV: Tensor, alpha: Tensor) -> Ends:
    """The ends that decide on the best α of a step P (x − α∇f), with P = ∂P_C or ∂prox.

    On its range P = (I + αG)⁻¹ with the curvature G of the set (or of the prox's function): zero
    for a polyhedron, a multiple of the identity for a ball. An eigenvalue λ of Φ = P (I − αH) has
    1 − λ = α μ(H + λG). So at the best α, where λ = ρ at one end and −ρ at the other,

        1 − ρ = α μ_min(H + ρG),    1 + ρ = α μ_max(H − ρG).

    Without α, (1 + ρ) μ_min(H + ρG) = (1 − ρ) μ_max(H − ρG): the left side rises and the right
    side falls with ρ in [0, 1), and bisection on the basis V finds ρ, with G from P at ``alpha``.
    """
    H, finite = compressed(V, HV)
    P, sound = compressed(V, PV)
    p, Q = torch.linalg.eigh(P)
    G = (Q * (1 / p.clamp(1e-6, 1.0) - 1).unsqueeze(-2)) @ Q.mT / alpha[..., None, None]
    low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
    for _ in range(_BISECTIONS):
        rho = 0.5 * (low + high)
        bent = rho[..., None, None] * G
        values = torch.linalg.eigvalsh(torch.stack([H + bent, H - bent]))
        least, largest = values[0, ..., 0], values[1, ..., -1]
        above = (1 + rho) * least > (1 - rho) * largest
        low, high = torch.where(above, low, rho), torch.where(above, rho, high)
    bent = low[..., None, None] * G
    least = torch.linalg.eigvalsh(H + bent)[..., 0]
    values, vectors = torch.linalg.eigh(H - bent)
    y = vectors[..., -1].unsqueeze(-2)
    # How far P H leads out of the space, in the measure of P itself.
    image = y @ PHV
    outside = norm((image - image @ V.mT @ V).squeeze(-2))
    share = (y @ P @ y.mT).squeeze(-1).squeeze(-1).clamp_min(1e-6)
    found = (least, values[..., -1], torch.zeros_like(least), outside / share)
    return Ends(*(torch.where(finite & sound, one, torch.nan) for one in found))


def orthogonal(w: Tensor, basis: list[Tensor]) -> Tensor:
    """w without its part in the span of an orthonormal basis; twice, to be so to rounding."""
    V, row = torch.stack(basis, -2), w.unsqueeze(-2)
    for _ in range(2):
        row = row - row @ V.mT @ V
    return row.squeeze(-2)


def unit(v: Tensor, bound: Tensor | float) -> Tensor:
    """v / ‖v‖, and zero where ‖v‖ is not above the bound."""
    length = norm(v)
    keep = length > bound
    return torch.where(keep, 1 / torch.where(keep, length, 1), 0).unsqueeze(-1) * v


def best_step_size(found: Ends) -> Tensor:
    """α = 2/(μ_min + μ_max), where max |1 − αμ| over the spectrum is least.

    Too large an α makes the iteration diverge, and too small a one only slows it down. So μ_max
    is taken with twice its residual and two percent on top, unless it is exact. Where the least μ
    is zero or below, no α gives |1 − αμ| < 1 for all μ: 1/max |μ| then, which shrinks every mode
    of positive μ. Where there is no curvature at all, α = 1.
    """
    eps = torch.finfo(found.largest.dtype).eps
    exact = found.largest_residual <= eps**0.5 * found.largest.abs()
    most = found.largest + 2 * found.largest_residual
    most = torch.where(exact, most, most + 0.02 * found.largest.abs())
    size = torch.maximum(most, -found.least)
    convex = found.least > 64 * eps * size
    alpha = torch.where(convex, 2 / (found.least + most), 1 / size)
    return torch.where(size > 0, alpha, torch.where(size.isnan(), torch.nan, 1.0))
