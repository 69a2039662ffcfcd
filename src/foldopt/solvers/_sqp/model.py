"""The quadratic program of one SQP iteration, and what stands in where it has no solution."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from foldopt._program import Program
from foldopt.operators._inverse import matvec
from foldopt.operators._solve_qp import QP, solve_qp
from foldopt.status import Status

__all__ = ["Local", "direction", "local_of", "restoration"]

# Of the ADMM that looks for the active set, where the last one is not it.
_QP_ITERATIONS = 2000


@dataclasses.dataclass(frozen=True)
class Local:
    """A program at a point: values, slopes and rows of every sample."""

    f: Tensor
    gradient: Tensor
    g: Tensor
    G: Tensor
    h: Tensor
    A: Tensor

    def slope(self, lam: Tensor, nu: Tensor) -> Tensor:
        """∇f + Gᵀλ + Aᵀν."""
        return self.gradient + matvec(self.G.mT, lam) + matvec(self.A.mT, nu)

    @property
    def violation(self) -> Tensor:
        """[g]₊ and h, side by side."""
        return torch.cat([self.g.clamp_min(0), self.h], -1)

    @property
    def rows(self) -> Tensor:
        """Their Jacobian, a row of G being zero where g ≤ 0."""
        return torch.cat([torch.where((self.g > 0)[..., None], self.G, 0), self.A], -2)


def local_of(program: Program, x: Tensor, params: tuple[Any, ...]) -> Local:
    """Everything that one iteration needs but the Hessian."""
    g, G, h, A = program.constraints(x, params)
    parts = (program.values(x, params), program.gradient(x, params), g, G, h, A)
    return Local(*(part.detach() for part in parts))


def direction(
    local: Local, x: Tensor, H: Tensor, lam: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """d, its multipliers, dᵀHd, and which samples have them.

    min ½dᵀHd + ∇fᵀd s.t. g + G d ≤ 0, h + A d = 0, with H made positive definite.
    """
    active = lam > 0
    H, sigma = convex(H, local, x, active, damping)
    # σ/2 ‖J d + r‖² came with σ JᵀJ: constant where the rows J stay active.
    r = torch.cat([torch.where(active, local.g, 0), local.h], -1)
    J = torch.cat([torch.where(active[..., None], local.G, 0), local.A], -2)
    p = local.gradient + sigma * matvec(J.mT, r)
    point, status = solve_qp(QP(H, p, local.G, -local.g, local.A, -local.h), active, _QP_ITERATIONS)
    d, mu, eta = point
    curvature = (d * matvec(H, d)).sum(-1)
    finite = torch.isfinite(d).all(-1) & torch.isfinite(mu).all(-1) & torch.isfinite(eta).all(-1)
    # A solution that is not quite one will do if it takes most of the violation away.
    g, h = local.g + matvec(local.G, d), local.h + matvec(local.A, d)
    left = g.clamp_min(0).sum(-1) + h.abs().sum(-1)
    helps = (status == Status.MAX_ITERATIONS) & (left <= 0.5 * local.violation.abs().sum(-1))
    return d, mu.clamp_min(0), eta, curvature, finite & ((status == Status.CONVERGED) | helps)


def restoration(
    program: Program, x: Tensor, params: tuple[Any, ...], local: Local, exact: Tensor
) -> Tensor:
    """A step that lessens ½‖[g]₊‖² + ½‖h‖².

    Gauss's and Newton's, which makes its way past many a local minimum; for the samples in
    ``exact`` Newton's, every eigenvalue made positive, which finds one where there is no way past.
    """
    H = local.rows.mT @ local.rows
    if bool(exact.any()):

        def squares(y: Tensor, *c: Any) -> Tensor:
            over = torch.cat([program.inequalities(y, c).clamp_min(0), program.equalities(y, c)])
            return 0.5 * over.square().sum()

        distance = Program(squares, shared=program.shared, name=program.name)
        full = distance.hessian(x, x[:, :0], x[:, :0], params).detach()
        H = torch.where(exact[:, None, None], full, H)
    finite = torch.isfinite(H).flatten(-2).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, H, 0))
    values = values.abs()
    floor = (1e-8 * values.amax(-1, keepdim=True)).clamp_min(torch.finfo(x.dtype).tiny)
    slope = matvec(local.rows.mT, local.violation)
    return -matvec(vectors, matvec(vectors.mT, slope) / torch.maximum(values, floor))


def convex(
    H: Tensor, local: Local, x: Tensor, active: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """H + σJᵀJ + τI, positive definite, and σ ``(B, 1)``; σ = τ = 0 where H is that already.

    J holds the equalities and the active inequalities. Where H is positive definite on their null
    space, some σ is enough (G. Debreu, Econometrica 20 (1952)), and the step stays Newton's: fast
    in the end. The least σ of a few that serves is taken, then τ as needed. ``damping`` adds to τ.
    """
    finite = torch.isfinite(H).flatten(-2).all(-1)[..., None, None]
    H = torch.where(finite, H, 0)
    eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    J = torch.cat([torch.where(active[..., None], local.G, 0), local.A], -2)
    square = J.mT @ J
    size = H.abs().amax((-2, -1), keepdim=True)
    # Where there is no curvature, one that lets x grow by a factor.
    slow = local.gradient.abs().amax(-1) / (1 + x.abs().amax(-1))
    size = torch.where(size > 0, size, torch.where(slow > 0, slow, 1)[..., None, None])
    reach = square.abs().amax((-2, -1), keepdim=True)
    unit = torch.where(reach > 0, size / torch.where(reach > 0, reach, 1), 0)
    least = 1e-6 * size  # far above rounding
    value, sigma = torch.linalg.eigvalsh(H)[..., :1, None], torch.zeros_like(size)
    for factor in (1.0, 10.0, 100.0, 1000.0):
        if not bool((value < least).any()):
            break
        trial = torch.linalg.eigvalsh(H + factor * unit * square)[..., :1, None]
        helps = (value < least) & (trial > value)
        sigma = torch.where(helps, factor * unit, sigma)
        value = torch.where(helps, trial, value)
    # What stays negative changes its sign: a step against it goes as far as one along it would.
    tau = torch.where(value < least, least - value - value.clamp_max(0), 0)
    tau = tau + damping[..., None, None] * size
    return H + sigma * square + tau * eye, sigma[..., 0]
