"""The eigenvalue of largest modulus of each sample's Φ, from products with Φᵀ."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.jacobian import StepJacobian
from foldopt.linear._common import norm

# Up to this n, all of Φ is written out; above it, so many vectors are kept before a restart.
BASIS = 64


class Dominant(NamedTuple):
    """The dominant eigenvalue of each sample, and how well it is known; each ``(B,)``.

    Attributes
    ----------
    eigenvalue
        Complex; of a conjugate pair, the one above the real axis. NaN where Φ is not finite.
    residual
        ‖Φᵀy − θy‖ for the unit Ritz vector y: θ is an eigenvalue of a matrix this near to Φᵀ.
    products
        After how many products with Φᵀ the sample was done.
    converged
        Whether ``residual`` ≤ rtol |θ|, twice in succession.
    """

    eigenvalue: Tensor
    residual: Tensor
    products: Tensor
    converged: Tensor


def dominant(jacobian: StepJacobian, rtol: float, max_products: int) -> Dominant:
    """The dominant eigenvalue of Φ (which is that of Φᵀ), each sample on its own."""
    samples, n = jacobian.layout.samples, jacobian.layout.n
    if samples * n == 0:
        zero = jacobian.residual.new_zeros(samples)
        count = torch.zeros_like(zero, dtype=torch.int64)
        return Dominant(complex_zero(zero), zero, count, torch.ones_like(count, dtype=torch.bool))
    if n <= min(BASIS, max_products):
        return exact(jacobian.dense())
    return arnoldi(jacobian.vjp, jacobian._generic(0.7548776662466927), rtol, max_products)


def complex_zero(like: Tensor) -> Tensor:
    """Complex zeros in the shape of ``like``; double, as eigenvalues are here always."""
    return torch.zeros(like.shape, dtype=torch.complex128, device=like.device)


def exact(phi: Tensor) -> Dominant:
    """The dominant eigenvalue of matrices ``(B, n, n)``, by LAPACK.

    It balances first, and so finds the eigenvalues of a matrix that is triangular up to a
    permutation on its diagonal, without rounding: a nilpotent Φ of that kind has exactly 0.
    """
    samples, n = phi.shape[:2]
    finite = torch.isfinite(phi).all(-1).all(-1)
    matrix = torch.where(finite[:, None, None], phi, 0).cpu().double()
    theta = largest(torch.linalg.eigvals(matrix)).to(phi.device)
    size = torch.linalg.matrix_norm(phi)
    return Dominant(
        torch.where(finite, theta, torch.nan),
        torch.finfo(phi.dtype).eps * size,
        torch.full((samples,), n, dtype=torch.int64, device=phi.device),
        finite,
    )


def largest(values: Tensor) -> Tensor:
    """Of complex ``(B, m)``, the one of largest modulus; of a conjugate pair, the upper one."""
    # Rounding must not decide between the two of a pair.
    index = values.abs().argmax(-1, keepdim=True)
    one = values.gather(-1, index).squeeze(-1)
    return torch.complex(one.real, one.imag.abs())


def arnoldi(
    product: Callable[[Tensor], Tensor], start: Tensor, rtol: float, max_products: int
) -> Dominant:
    """Arnoldi's method with thick restarts, on every sample at once.

    Φᵀ V_m = V_{m+1} H. A sample's answer is taken when its Ritz value of largest modulus has a
    small residual at two successive looks (one could be chance: an eigenvalue that is not the
    largest may show first), or when its Krylov space is invariant. Looks are at fixed numbers of
    products, so that no sample's answer depends on the others.

    Parameters
    ----------
    product
        Φᵀv for v of shape ``(B, n)``.
    start
        Of that shape, with a component along every eigenvector.
    """
    samples, n = start.shape
    device, tiny = start.device, 8 * torch.finfo(start.dtype).eps
    m = min(BASIS, n)
    basis = start.new_zeros(samples, m + 1, n)
    basis[:, 0] = start / norm(start).unsqueeze(-1)
    H = start.new_zeros(samples, m + 1, m)
    theta, residual = complex_zero(start[:, 0]), torch.full_like(start[:, 0], torch.inf)
    products = torch.zeros(samples, dtype=torch.int64, device=device)
    done = lost = near = torch.zeros(samples, dtype=torch.bool, device=device)
    j, next_look = 0, 1
    for spent in range(1, max_products + 1):
        w = product(basis[:, j])
        lost = lost | ~torch.isfinite(w).all(-1)
        w = torch.where(lost.unsqueeze(-1), 0, w)
        w, column = orthogonalise(w, basis[:, : j + 1])
        H[:, : j + 1, j] = column
        length = norm(w)
        # Below rounding of the largest product so far, the space is invariant: the basis goes on
        # with zeros, which add eigenvalues 0 and change nothing.
        length = torch.where(length > tiny * H.square().sum(1).amax(-1).sqrt(), length, 0)
        H[:, j + 1, j] = length
        basis[:, j + 1] = torch.where(
            length.unsqueeze(-1) > 0, w / torch.where(length > 0, length, 1).unsqueeze(-1), 0
        )
        j += 1
        if spent >= next_look or j == m or spent == max_products:
            next_look = spent + max(1, j // 4)
            theta_now, residual_now = ritz(H[:, :j, :j], H[:, j, :j])
            small = residual_now <= rtol * theta_now.abs()
            open_ = ~done
            theta = torch.where(open_, theta_now, theta)
            residual = torch.where(open_, residual_now.to(residual.dtype), residual)
            products = torch.where(open_, spent, products)
            invariant = (H[:, j, :j] == 0).all(-1)
            done = done | (small & near) | invariant | lost
            near = small
            if bool(done.all()):
                break
        if j == m:
            j = restart(basis, H)
    theta = torch.where(lost, torch.nan, theta)
    return Dominant(theta, residual, products, done & ~lost)


def orthogonalise(w: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """w minus its part in the span of ``known`` ``(B, j, n)``, and that part's coordinates."""
    column = w.new_zeros(known.shape[:2])
    for _ in range(2):  # twice is enough (Kahan, Parlett): orthogonal to rounding
        part = torch.bmm(known, w.unsqueeze(-1)).squeeze(-1)
        w = w - torch.bmm(part.unsqueeze(1), known).squeeze(1)
        column = column + part
    return w, column


def ritz(H: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The Ritz value of largest modulus and its residual |hᵀy|, with h the row below H."""
    values, vectors = torch.linalg.eig(H.cpu().double())
    index = values.abs().argmax(-1, keepdim=True)
    y = vectors.gather(-1, index.unsqueeze(-2).expand(*vectors.shape[:-1], 1)).squeeze(-1)
    residual = (last.cpu().to(y.dtype) * y).sum(-1).abs()
    return largest(values).to(H.device), residual.to(H.device)


def restart(basis: Tensor, H: Tensor) -> int:
    """Keep the half of the basis that matters, in place; return its length (Stewart's way).

    With Y an orthonormal real basis of the eigenvectors of H for its largest eigenvalues,
    H Y = Y S, the vectors V Y and the last one span a Krylov space again:
    Φᵀ (V Y) = (V Y) S + v_{m+1} (hᵀ Y). Samples that keep fewer have zeros in the basis.
    """
    samples, m = H.shape[0], H.shape[2]
    keep = m // 2
    small = H[:, :m].cpu().double()
    values, vectors = torch.linalg.eig(small)
    Y = torch.zeros(samples, m, keep, dtype=torch.float64)
    for sample in range(samples):
        count = 0
        for index in values[sample].abs().argsort(descending=True):
            value, vector = values[sample, index], vectors[sample, :, index]
            if value.imag < 0:
                continue  # its conjugate brings both real vectors
            new = [vector.real] if value.imag == 0 else [vector.real, vector.imag]
            if count + len(new) > keep:
                break
            for column in new:
                known = Y[sample, :, :count]
                column = column - known @ (known.mT @ column)
                column = column - known @ (known.mT @ column)
                length = float(norm(column))
                if length > 1e-8:  # not parallel to an earlier one, as in a Jordan block
                    Y[sample, :, count] = column / length
                    count += 1
    S = Y.mT @ small @ Y
    Y = Y.to(basis)
    coupling = (H[:, m:, :] @ Y).squeeze(1)
    basis[:, :keep] = Y.mT @ basis[:, :m]
    basis[:, keep] = basis[:, m].clone()
    basis[:, keep + 1 :] = 0
    H.zero_()
    H[:, :keep, :keep] = S.to(H)
    H[:, keep, :keep] = coupling
    return keep
