"""The adjoint system of a cone program, by the factors of the forward pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foldopt.cvxpy._forward import Sample
from foldopt.linear import Dense, LinearOperator, LinearSolution
from foldopt.linear._common import excused, finish
from foldopt.status import FoldError, Status

__all__ = ["ConeKKT"]

_FLAT = 1e-6
# A residual that is worth a second solve.
_REFINE = 1e-11
# Up to this size a matrix can be formed where the factors do not fit.
_DENSE = 1000


class ConeKKT:
    """A solver of (I − Φᵀ) v = g, and of (I − Φ) t = r, for the step of a cone program.

    I − Φ is F' of :mod:`~foldopt.cvxpy._system`. One object serves one call of the layer: the
    forward pass leaves its samples here, in order.
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution:
        """v for right-hand sides ``(*lead, B, n + 2m)``.

        The last m are those of the gauge, which U returns as it is and nothing asks for: zero.
        """
        if len(self.samples) != b.shape[-2]:
            # Under several levels of vmap these systems are those of some samples many times over.
            if b.shape[-1] > _DENSE:
                raise FoldError(
                    f"CvxpyLayer: {b.shape[-2]} systems are to be solved, and {len(self.samples)} "
                    "programs were. Likely cause: a vmap inside another one, or around the "
                    "gradient of a call that was made outside it. Call the layer with a batch "
                    "instead, which it knows as one"
                )
            return Dense(least_squares=True).solve(operator, b)
        right = b.detach().double().cpu().reshape(-1, *b.shape[-2:]).numpy()  # (L, B, N)
        value, left = right.copy(), np.zeros_like(right)
        least = np.zeros(right.shape[:2], dtype=bool)
        for i, sample in enumerate(self.samples):
            if sample.program is None or not right[:, i].any():
                continue
            n, m = len(sample.program.q), sample.program.cones.rows
            given = np.ascontiguousarray(right[:, i, : n + m].T)
            inverse = sample.system.transposed if operator.transpose else sample.system.forward
            found = inverse(given)
            rest = given - sample.system.product(found, operator.transpose)
            if (np.linalg.norm(rest, axis=0) > _REFINE * np.linalg.norm(given, axis=0)).any():
                again = found + inverse(rest)
                rest_again = given - sample.system.product(again, operator.transpose)
                better = np.linalg.norm(rest_again, axis=0) < np.linalg.norm(rest, axis=0)
                found, rest = np.where(better, again, found), np.where(better, rest_again, rest)
            value[:, i, : n + m] = found.T
            value[:, i, n + m :] = 0.0
            left[:, i, : n + m] = rest = rest.T
            length = np.linalg.norm(rest, axis=1)
            least[:, i] = np.linalg.norm(rest[:, :n], axis=1) <= _FLAT * length
        v, r = (torch.from_numpy(part).reshape(b.shape) for part in (value, left))
        g = torch.from_numpy(right).reshape(b.shape)
        eps, norm = torch.finfo(b.dtype).eps, torch.linalg.vector_norm
        reach = eps**0.6 * norm(g, dim=-1) + 64 * eps * b.shape[-1] ** 0.5 * norm(v, dim=-1)
        found = finish(g, v, r, reach, 1, Status.BREAKDOWN, "cone KKT")
        return excused(found, v, torch.from_numpy(least).reshape(b.shape[:-1]), b)
