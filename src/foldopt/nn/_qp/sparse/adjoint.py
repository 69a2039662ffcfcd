"""The adjoint system of a sparse quadratic program, by the factors of the forward pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foldopt.linear import LinearOperator, LinearSolution
from foldopt.linear._common import excused, finish
from foldopt.nn._qp.sparse.active import Found
from foldopt.nn._qp.sparse.forward import Sample
from foldopt.nn._qp.sparse.scaled import Scaled
from foldopt.status import FoldError, Status

__all__ = ["SparseKKT"]

_FLAT = 1e-6


class SparseKKT:
    """A solver of (I − Φᵀ) v = g for the step of a sparse quadratic program.

    I − Φ is the symmetric KKT matrix of the active rows, and the identity on the other multipliers.
    One object serves one call of the layer: the forward pass leaves its samples here, in order.
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution:
        """v for right-hand sides ``(*lead, B, n + m + k + bounds)``."""
        if len(self.samples) != b.shape[-2]:
            raise FoldError(
                f"nn.QP: {b.shape[-2]} systems of sparse programs are to be solved, and "
                f"{len(self.samples)} were factored. Likely cause: a vmap around the gradient of a "
                "call that was made outside it. Put the call of the layer inside the vmap"
            )
        right = b.detach().double().cpu().reshape(-1, *b.shape[-2:]).numpy()  # (L, B, N)
        value, asked = right.copy(), np.zeros_like(right)
        residual, least = np.zeros_like(right), np.zeros(right.shape[:2], dtype=bool)
        for i, sample in enumerate(self.samples):
            if sample.scaled is None or sample.found is None:
                continue
            parts = _solved(sample.scaled, sample.found, right[:, i])
            value[:, i], asked[:, i], residual[:, i], least[:, i] = parts
        return self._judged(b, value, asked, residual, least)

    def _judged(
        self,
        b: Tensor,
        value: np.ndarray,
        asked: np.ndarray,
        residual: np.ndarray,
        least: np.ndarray,
    ) -> LinearSolution:
        v, g, r = (torch.from_numpy(part).reshape(b.shape) for part in (value, asked, residual))
        eps, norm = torch.finfo(b.dtype).eps, torch.linalg.vector_norm
        reach = eps**0.7 * norm(g, dim=-1) + 64 * eps * b.shape[-1] ** 0.5 * norm(v, dim=-1)
        found = finish(g, v, r, reach, 1, Status.BREAKDOWN, "sparse KKT")
        return excused(found, v, torch.from_numpy(least).reshape(b.shape[:-1]), b)


def _solved(
    scaled: Scaled, found: Found, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """v ``(L, N)`` of one sample; what was asked and what is left, in its units; whether rows alone
    are to blame for that.
    """
    n, rows = len(scaled.p), found.system.active
    # In the units of the factors, where the matrix has size 1, and the symmetric form of it.
    asked = np.concatenate(
        [right[:, :n] / scaled.size, right[:, n:][:, rows] / scaled.length[rows]], 1
    )
    answer = found.system.solve(np.ascontiguousarray(asked.T))
    solution, left = answer.value.T, answer.residual.T
    value = right.copy()  # a multiplier that is not active is its own equation
    value[:, :n] = solution[:, :n]
    value[:, n + rows] = solution[:, n:] * scaled.size / scaled.length[rows]
    length = np.linalg.norm(left, axis=1)
    least = np.linalg.norm(left[:, :n], axis=1) <= _FLAT * length

    def padded(part: np.ndarray) -> np.ndarray:
        return np.pad(part, ((0, 0), (0, right.shape[1] - part.shape[1])))

    return value, padded(asked), padded(left), least
