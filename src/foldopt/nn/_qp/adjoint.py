"""The adjoint system of a quadratic program, solved with the factor of the forward pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foldopt.linear import Dense, LinearOperator, LinearSolution
from foldopt.linear._common import excused, judge
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
        if answer is None or len(answer.point.x) != b.shape[-2]:
            # Under vmap many programs are differentiated together, of which this knows one.
            return Dense(least_squares=True).solve(operator, b)
        factor, eps = answer.factor, torch.finfo(b.dtype).eps
        value, found = _solved(factor, b.detach().double().cpu().numpy(), eps)
        return excused(found, torch.from_numpy(value), torch.from_numpy(factor.least), b)


@np.errstate(all="ignore")  # what overflows is looked at
def _solved(factor: Factor, right: np.ndarray, eps: float) -> tuple[np.ndarray, LinearSolution]:
    """v, and what it is worth."""
    n = factor.scaled.p.shape[-1]
    inside, rows = right[..., :n], right[..., n:]
    held = rows * factor.mask
    u, mu = factor.solve(inside, held)
    left, found = _judged(factor, inside, held, u, mu, eps)
    if not found.solved:
        # An ill-conditioned Q costs digits, which a second solve for what is left brings back.
        du, change = factor.solve(*left)
        u, mu = u + du, mu + change
        _, found = _judged(factor, inside, held, u, mu, eps)
    # A multiplier that is not active is its own equation.
    return np.concatenate([u, np.where(factor.mask, mu, rows)], -1), found


def _judged(
    factor: Factor,
    inside: np.ndarray,
    held: np.ndarray,
    u: np.ndarray,
    mu: np.ndarray,
    eps: float,
) -> tuple[tuple[np.ndarray, np.ndarray], LinearSolution]:
    """What the KKT matrix leaves of a right-hand side, and what that is worth.

    In units in which Q and the rows have size 1. The product with I − Φ itself would be formed from
    v and Φv, which cancel where Q is small.
    """
    size, length = factor.scaled.size, factor.scaled.rows.length
    Qu, Wu = factor.product(u, mu)
    left = inside - Qu, held - Wu
    b, rest = _norm(inside / size, held / length), _norm(left[0] / size, left[1] / length)
    limit = eps**0.7 * b  # what a solver asks for
    if (rest <= limit).all():
        relative = torch.from_numpy(rest / np.maximum(b, np.finfo(float).tiny))
        none = torch.zeros(rest.shape, dtype=torch.int64)
        return left, LinearSolution(torch.from_numpy(u), none, none + 1, relative, "KKT", True)
    limit += 64 * eps * u.shape[-1] ** 0.5 * _norm(u, mu * (length / size))  # what rounding leaves
    v, rest, b, limit = (torch.from_numpy(part) for part in (u, rest, b, limit))
    return left, judge(v, rest, b, limit, 1, Status.BREAKDOWN, "KKT")


def _norm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖(a, b)‖ over the last dimension."""
    return np.sqrt(np.einsum("...i,...i->...", a, a) + np.einsum("...i,...i->...", b, b))
