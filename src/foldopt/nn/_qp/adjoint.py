"""The adjoint system of a quadratic program, solved with the factor of the forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt.linear import Dense, LinearOperator, LinearSolution
from foldopt.linear._common import excused, finish, norm
from foldopt.nn._qp.answer import Answer
from foldopt.nn._qp.factor import Factor
from foldopt.status import Status

__all__ = ["KKT"]


class KKT:
    """A solver of (I − Φᵀ) v = g for the step of a quadratic program.

    I − Φ is the symmetric KKT matrix of the active rows, and the identity on the other multipliers.
    One object serves one call of the layer: the forward pass leaves its factor here.
    """

    def __init__(self) -> None:
        self.answer: Answer | None = None

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution:
        """v for right-hand sides ``(*lead, B, n + m + k + bounds)``."""
        answer = self.answer
        if answer is None or len(answer.status) != b.shape[-2]:
            # Under vmap many programs are differentiated together, of which this knows one.
            return Dense(least_squares=True).solve(operator, b)
        n = answer.point.x.shape[-1]
        right = b.double().cpu()
        inside, rows = right[..., :n], right[..., n:]
        eps = torch.finfo(b.dtype).eps
        factor = answer.factor
        active = factor.active
        given = torch.cat([inside, active.gather(rows)], -1)
        u, mu = factor.solve(inside, given[..., n:])
        left, found = _judged(factor, given, u, mu, eps)
        if not found.solved:
            # An ill-conditioned Q costs digits, which a second solve for what is left brings back.
            du, change = factor.solve(left[..., :n], left[..., n:])
            u, mu = u + du, mu + change
            left, found = _judged(factor, given, u, mu, eps)
        # A multiplier that is not active is its own equation.
        v = torch.cat([u, active.scatter(mu, rows)], -1)
        return excused(found, v, factor.least, b)


def _judged(
    factor: Factor, given: Tensor, u: Tensor, mu: Tensor, eps: float
) -> tuple[Tensor, LinearSolution]:
    """What the KKT matrix leaves of a right-hand side, and what that is worth.

    In units in which Q and the rows have size 1. The product with I − Φ itself would be formed from
    v and Φv, which cancel where Q is small.
    """
    n, units = u.shape[-1], factor.units
    left = given - torch.cat(factor.product(u, mu), -1)
    right = given * units
    reach = norm(u) + norm(mu / (units[:, n:] * factor.scaled.size))
    reach = eps**0.7 * norm(right) + 64 * eps * n**0.5 * reach
    return left, finish(right, u, left * units, reach, 1, Status.BREAKDOWN, "KKT")
