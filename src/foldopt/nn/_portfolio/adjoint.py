"""The adjoint system of a portfolio, solved with the inverses of the forward pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foldopt.linear import Dense, LinearOperator, LinearSolution
from foldopt.linear._common import finish, norm
from foldopt.nn._portfolio.forward import Answer
from foldopt.status import Status

__all__ = ["KKT"]


class KKT:
    """A solver of (I − Φᵀ) v = b for the step of a portfolio; I − Φ is symmetric.

    One object serves one call of the layer: the forward pass leaves its answer here.
    """

    def __init__(self) -> None:
        self.answer: Answer | None = None

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution:
        """v for right-hand sides ``(*lead, B, n + 2 + n)``, without λ ``(*lead, B, n + 1 + n)``."""
        answer = self.answer
        if answer is None or len(answer.status) != b.shape[-2]:
            # Under vmap many programs are differentiated together, of which this knows one.
            return Dense(least_squares=True).solve(operator, b)
        factor, eps = answer.factor, torch.finfo(b.dtype).eps
        lead, (B, size) = b.shape[:-2], b.shape[-2:]
        n, with_risk = factor.g.shape[-1], answer.point.risk.shape[-1]
        # (B, entries, columns)
        columns = b.double().movedim(-2, 0).reshape(B, math.prod(lead), size).mT
        b_x, b_lam, b_nu, b_zeta = columns.split([n, with_risk, 1, n], -2)
        b_lam = b_lam if with_risk else torch.zeros_like(b_nu)
        free, tight = factor.active.free.unsqueeze(-1), factor.active.tight.unsqueeze(-1)
        g, weight = factor.g.unsqueeze(-1), factor.weight.unsqueeze(-1)
        # An entry that is held at zero has the equation −v_x = b_ζ.
        held = (free - 1) * b_zeta
        u, mu, rho, both = factor.solve(
            b_x - weight * (factor.V @ held),
            b_lam - (g * held).sum(-2, keepdim=True),
            b_nu - held.sum(-2, keepdim=True),
        )
        v_x = free * u + held
        # And its own equation of stationarity gives v_ζ. Of the others v_ζ = b_ζ.
        pull = weight * (factor.V @ v_x) + g * (tight * mu) + rho - b_x
        v_lam = tight * mu + (1 - tight) * b_lam
        parts = [v_x, v_lam if with_risk else v_lam[:, :0], rho, (1 - free) * pull + free * b_zeta]

        def restored(found: Tensor) -> Tensor:
            return found.mT.reshape(B, *lead, found.shape[-2]).movedim(0, -2)

        right, found, residual = (restored(part) for part in both)
        reach = eps**0.7 * norm(right) + 64 * eps * n**0.5 * norm(found)
        told = finish(right, found, residual, reach, 1, Status.BREAKDOWN, "KKT")
        return LinearSolution(
            restored(torch.cat(parts, -2)).to(b),
            told.status,
            told.iterations,
            told.residual.to(b),
            told.method,
            told.solved,
        )
