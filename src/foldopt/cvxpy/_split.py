"""The system of a program whose semidefinite matrices are variables, by a small dense one.

With z = diag(d) x the entries of all matrices as their rows of A have them, ẑ = Uᵀz in the
eigenbasis of the solution, and w the unknowns of the rows, M of :mod:`~foldopt.cvxpy._system` is

    π ẑ + √λ w + Cᵀ w_K = ρ,     √λ ẑ − (1 − λ) w = τ,     C = √λ_K A_K diag(1/d) U,

where K are the other rows and π is the curvature of the objective, if it is the same number for all
entries of a matrix: then the basis makes no difference. So each entry has a system of its own,

    ẑ = ((1 − λ) p + √λ τ)/δ,   w = (√λ p − π τ)/δ,   p = ρ − Cᵀ w_K,   δ = π (1 − λ) + λ,

and what is left is a matrix with a row for each other variable and other row. That costs k³ times
their number, not k⁶. Where δ is next to nothing (both eigenvalues belong to the primal matrix, and
there is no curvature) ẑ stays with the others; there are no more of those than rows hold them.
"""

from __future__ import annotations

import numpy as np

from foldopt.cvxpy._parts import LARGEST, Parts
from foldopt.cvxpy._spectrum import Spectrum, columns_of
from foldopt.cvxpy._symmetric import Symmetric

__all__ = ["Split", "split"]

_NOTHING = 1e-3


def split(parts: Parts | None, turn: Spectrum) -> Split | None:
    """The solver, if the program is such a one, and what is left small enough."""
    if parts is None:
        return None
    values = turn.values[parts.layout.matrix_rows]
    delta = parts.pi * (1 - values) + values
    kept = np.flatnonzero(turn.values[parts.layout.rows] > 0)
    size = len(parts.layout.columns) + len(kept) + int((delta < _NOTHING).sum())
    return Split(parts, turn, kept, delta) if size <= LARGEST else None


class Split:
    """Solves M (x, w) = (r, τ); see above."""

    def __init__(self, parts: Parts, turn: Spectrum, kept: np.ndarray, delta: np.ndarray) -> None:
        layout = parts.layout
        self.parts, self.turn, self.kept, self.delta = parts, turn, layout.rows[kept], delta
        of_matrix, of_rows = turn.values[layout.matrix_rows], turn.values[self.kept]
        self.root, self.rest = np.sqrt(of_matrix), 1 - of_matrix
        self.near = np.flatnonzero(delta < _NOTHING)
        # Γ, with which the rows of C are joined once ẑ is eliminated; near ones are not.
        gamma = self.rest / np.where(delta < _NOTHING, np.inf, delta)
        A, C = parts.A, parts.C
        if turn.blocks:
            basis = turn.basis[layout.rows][:, layout.rows].T.tocsr()
            A, C = basis @ A, (basis @ C).tocoo()
        root = np.sqrt(of_rows)[:, None]
        self.C = root * columns_of(turn, C, kept)
        n, z = len(layout.columns), len(layout.columns) + len(self.near)
        M = np.zeros((z + len(kept),) * 2)
        if n:
            M[:n, :n] = parts.P
            M[z:, :n] = root * A[kept].toarray()
            M[:n, z:] = M[z:, :n].T
        at = np.arange(n, z)
        M[at, at] = delta[self.near] / self.rest[self.near]
        M[z:, n:z] = self.C[:, self.near]
        M[n:z, z:] = M[z:, n:z].T
        M[z:, z:] = -(self.C * gamma) @ self.C.T
        at = np.arange(z, len(M))
        M[at, at] -= 1 - of_rows
        self.core = Symmetric(M)

    def __call__(self, r: np.ndarray, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x ``(n, columns)`` and w ``(m, columns)``."""
        parts, layout, near = self.parts, self.parts.layout, self.near
        x, w = np.zeros_like(r), -tau  # that of a row that does not hold
        a, bend = parts.a[:, None], parts.bend[:, None]
        pull = (r[layout.defined] - bend * tau[layout.defined_rows] / a) / a
        rho, t = r[layout.matrix_columns], tau[layout.matrix_rows]
        if len(a):
            rho -= _scattered(layout.square_to, parts.squares, pull[layout.square_rows], len(rho))
        rho = self.turn.of_matrices(rho / parts.d[:, None], back=False)
        root, rest, delta = self.root[:, None], self.rest[:, None], self.delta[:, None]
        fixed = (rest * rho + root * t) / delta.clip(_NOTHING)
        fixed[near] = 0.0
        of_near = rho[near] + (root * t)[near] / rest[near]
        right = np.concatenate([r[layout.columns], of_near, tau[self.kept] - self.C @ fixed])
        found = self.core.solve(right)
        n, k = len(layout.columns), len(layout.columns) + len(near)
        x[layout.columns], w[self.kept] = found[:n], found[k:]
        p = rho - self.C.T @ found[k:]
        safe = delta.clip(_NOTHING)
        z, of_rows = (rest * p + root * t) / safe, (root * p - parts.pi[:, None] * t) / safe
        z[near] = found[n:k]
        of_rows[near] = (root[near] * z[near] - t[near]) / rest[near]
        w[layout.matrix_rows] = of_rows
        entries = self.turn.of_matrices(z, back=True) / parts.d[:, None]
        x[layout.matrix_columns] = entries
        if len(a):
            joined = entries[layout.square_to]
            moved = tau[layout.defined_rows]
            moved -= _scattered(layout.square_rows, parts.squares, joined, len(a))
            x[layout.defined] = moved / a
            w[layout.defined_rows] = (r[layout.defined] - bend * x[layout.defined]) / a
        return x, w


def _scattered(to: np.ndarray, factors: np.ndarray, h: np.ndarray, count: int) -> np.ndarray:
    """Sums of ``factors * h`` by their places, ``(count, columns)``."""
    products = factors[:, None] * h
    return np.stack([np.bincount(to, column, count) for column in products.T], 1)
