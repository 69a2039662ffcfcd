"""The derivative F' of the optimality conditions at a solution, factored once for both passes.

With D = U diag(λ) Uᵀ, see :mod:`~foldopt.cvxpy._spectrum`, and Â = Uᵀ A,

    F' = [P  AᵀD  ]        F' (dx, dv) = (r, t):    P dx + Âᵀu = r,   Â dx − ((1 − λ)/λ) u = Uᵀt,
         [A  D − I],                                dv = U u + A dx − t,

where u = Uᵀ D dv has entries only where λ > 0. For the transposed matrix, with c + h = U u,

    F'ᵀ (a, c) = (g, h):    P a + Âᵀu = g + Aᵀh,   Â a − ((1 − λ)/λ) u = Uᵀh.

So one symmetric matrix serves both: a KKT matrix, in which λ = 1 is a row that holds. Multiplied by
√λ, its rows lose their large numbers:

    M = [P     Âᵀ√λ    ]
        [√λÂ  −(1 − λ)].
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from foldopt.cvxpy._layout import ORDER
from foldopt.cvxpy._program import SMALL, Program
from foldopt.cvxpy._spectrum import Spectrum, spectra
from foldopt.cvxpy._split import Split, split
from foldopt.cvxpy._symmetric import Symmetric
from foldopt.nn._qp.sparse.refine import Shifted, pivoted
from foldopt.solvers import _scipy

__all__ = ["System", "systems"]

# From this share of entries on, and up to this size, a dense factorization is the faster one.
_FILLED = 0.15
_LARGE = 6000
# What MINRES is to leave, in how many products at most, and how often its answer is refined.
_KRYLOV, _PRODUCTS, _REFINEMENTS = 1e-13, 1500, 4


@dataclasses.dataclass(frozen=True)
class System:
    """F' of one program at one v.

    Attributes
    ----------
    program, spectrum
        See above.
    """

    program: Program
    spectrum: Spectrum

    def forward(self, right: np.ndarray) -> np.ndarray:
        """z with F' z = right, ``(n + m,)`` or ``(n + m, right-hand sides)``."""
        n, A = len(self.program.q), self.program.operators[1]
        r, t = right[:n], right[n:]
        dx, u = self._solve(r, self.spectrum.rotate(t))
        return np.concatenate([dx, self.spectrum.back(u) + A @ dx - t])

    def roughly(self, right: np.ndarray) -> np.ndarray | None:
        """z with F' z = right but for rounding; None: it takes more than one small system."""
        if self._split is None:
            return None
        n, root = len(self.program.q), np.sqrt(self.spectrum.values)[:, None]
        r, t = right[:n, None], right[n:, None]
        dx, w = self._split(r, root * self.spectrum.rotate(t))
        A = self.program.operators[1]
        return np.concatenate([dx, self.spectrum.back(root * w) + A @ dx - t])[:, 0]

    def transposed(self, right: np.ndarray) -> np.ndarray:
        """z with F'ᵀ z = right."""
        n, transposed = len(self.program.q), self.program.operators[2]
        g, h = right[:n], right[n:]
        a, u = self._solve(g + transposed @ h, self.spectrum.rotate(h))
        return np.concatenate([a, self.spectrum.back(u) - h])

    def product(self, z: np.ndarray, transposed: bool) -> np.ndarray:
        """F' z or F'ᵀ z."""
        (P, A, pull), n = self.program.operators, len(self.program.q)
        x, v = z[:n], z[n:]
        if transposed:
            Dv = self._D(A @ x + v)
            return np.concatenate([P @ x + pull @ v, Dv - v])
        Dv = self._D(v)
        return np.concatenate([P @ x + pull @ Dv, A @ x + Dv - v])

    def fits(self, v: np.ndarray) -> bool:
        """Whether this is F' at another v too: where all cones are linear, on the same rows."""
        cones = self.program.cones
        if cones.rows > cones.linear:
            return False
        return bool(np.array_equal(self.spectrum.values[cones.zero :] > 0, v[cones.zero :] > 0))

    def _D(self, h: np.ndarray) -> np.ndarray:  # noqa: N802
        values = self.spectrum.values.reshape(-1, *[1] * (h.ndim - 1))
        return self.spectrum.back(values * self.spectrum.rotate(h))

    def _solve(self, r: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and u of the reduced system, t rotated."""
        kept, root = self._kept, self._root
        flat = r.reshape(len(r), -1), t.reshape(len(t), -1)
        if any(len(vectors) >= ORDER for _, vectors in self.spectrum.matrices):
            products = self._by_split(*flat) or self._by_products(*flat)
            if products is not None:
                return products[0].reshape(r.shape), products[1].reshape(t.shape)
        x, w = self._factors(flat[0], root[:, None] * flat[1][kept])
        u = np.zeros_like(flat[1])
        u[kept] = root[:, None] * w
        return x.reshape(r.shape), u.reshape(t.shape)

    @functools.cached_property
    def _kept(self) -> np.ndarray:
        return np.flatnonzero(self.spectrum.values > 0)

    @functools.cached_property
    def _root(self) -> np.ndarray:
        return np.sqrt(self.spectrum.values[self._kept])

    @functools.cached_property
    def rows(self) -> Any:
        """√λÂ, where λ > 0, CSR."""
        scale = _scipy.sparse.diags(self._root, format="csr")
        return scale @ self.spectrum.rotated_rows(self.program.A.tocsr())[self._kept]

    @functools.cached_property
    def _factors(self) -> Any:
        rest = 1 - self.spectrum.values[self._kept]
        if self.program.small:
            P, A, _ = self.program.operators
            return _Dense(P, self._root[:, None] * self.spectrum.rotate(A)[self._kept], rest)
        rows = self.rows
        n, r = len(self.program.q), len(rest)
        filled = (self.program.P.nnz + 2 * rows.nnz + r) / max((n + r) ** 2, 1)
        if n + r <= SMALL or (filled > _FILLED and n + r <= _LARGE):
            return _Dense(self.program.P.toarray(), rows.toarray(), rest)
        return _Sparse(self.program.P, rows, rest)

    def _reduced(self, z: np.ndarray) -> np.ndarray:
        """M z, with rows also where λ = 0."""
        (P, A, pull), turn, n = self.program.operators, self.spectrum, len(self.program.q)
        x, w = z[:n], z[n:]
        values = turn.values.reshape(-1, *[1] * (z.ndim - 1))
        root = np.sqrt(values)
        top = P @ x + pull @ turn.back(root * w)
        return np.concatenate([top, root * turn.rotate(A @ x) - (1 - values) * w])

    @functools.cached_property
    def _split(self) -> Split | None:
        return split(self.program.parts, self.spectrum)

    def _by_split(self, r: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The same system by a small one, where matrices are variables; None: they are not."""
        if self._split is None:
            return None
        n, root = len(r), np.sqrt(self.spectrum.values)[:, None]
        right = np.concatenate([r, root * t])
        found, rest = np.zeros_like(right), right
        for _ in range(_REFINEMENTS):
            found = found + np.concatenate(self._split(rest[:n], rest[n:]))
            rest = right - self._reduced(found)
            if self._solved(right, found, rest):
                return found[:n], root * found[n:]
        return None

    def _solved(self, right: np.ndarray, found: np.ndarray, rest: np.ndarray) -> bool:
        size, given, left = (np.linalg.norm(part, axis=0) for part in (found, right, rest))
        return bool((left <= 100 * _KRYLOV * (given + size)).all())

    def _by_products(self, r: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The same system by MINRES, from products with M alone; None: it did not get there.

        The rows of a matrix of order k are k²/2, and full once they are rotated. Their factors cost
        k⁶, a product k³ (C. C. Paige, M. A. Saunders, SIAM J. Numer. Anal. 12 (1975)).
        """
        n, root = len(r), np.sqrt(self.spectrum.values)
        size = n + len(t)
        linalg: Any = _scipy.sparse_linalg
        M = linalg.LinearOperator((size, size), matvec=self._reduced, dtype=np.float64)
        right, found = np.concatenate([r, root[:, None] * t]), np.empty((size, r.shape[1]))
        for j in range(r.shape[1]):
            z, _ = linalg.minres(M, right[:, j], rtol=_KRYLOV, maxiter=_PRODUCTS)
            if not self._solved(right[:, j], z, right[:, j] - self._reduced(z)):
                return None
            found[:, j] = z
        return found[:n], root[:, None] * found[n:]


def systems(programs: list[Program], v: list[np.ndarray]) -> list[System]:
    """F' of some programs of one kind, each at its v."""
    if not programs:
        return []
    return list(map(System, programs, spectra(programs[0].cones, np.stack(v))))


class _Dense:
    """M dense. Rows with 1 − λ ≥ ½ are eliminated first, which makes it smaller."""

    def __init__(self, P: np.ndarray, rows: np.ndarray, rest: np.ndarray) -> None:
        self.weak = rest >= 0.5
        self.rows, self.rest = rows, rest
        W = rows[self.weak]
        if len(W):
            P = P + (W.T / rest[self.weak]) @ W
        held = rows[~self.weak]
        self.n = len(P)
        M = np.zeros((self.n + len(held),) * 2)
        M[: self.n, : self.n] = P
        M[self.n :, : self.n], M[: self.n, self.n :] = held, held.T
        M[np.arange(self.n, len(M)), np.arange(self.n, len(M))] = -rest[~self.weak]
        self.core = Symmetric(M)

    def __call__(self, r: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        W, weak = self.rows[self.weak], self.weak
        # w of an eliminated row is (row x − t)/(1 − λ).
        over = t[weak] / self.rest[weak][:, None]
        right = np.concatenate([r + W.T @ over, t[~weak]])
        found = self.core.solve(right, refine=True)
        x, w = found[: self.n], np.empty_like(t)
        w[~weak] = found[self.n :]
        w[weak] = (W @ x) / self.rest[weak][:, None] - over
        return x, w


class _Sparse:
    """M sparse: quasi-definite once it is shifted a little, which refinement takes out again."""

    def __init__(self, P: Any, rows: Any, rest: np.ndarray) -> None:
        corner = _scipy.sparse.diags(-rest, format="csc")
        M = _scipy.sparse.block_array([[P, rows.T], [rows, corner]], format="csc")
        self.n = P.shape[0]
        self.shifted = Shifted.of(M, self.n)
        self._second: list[Shifted | None] = []

    def __call__(self, r: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right = np.ascontiguousarray(np.concatenate([r, t]))
        found = self.shifted.solve(right)
        if not found.solved.all():
            if not self._second:
                self._second = [pivoted(self.shifted)]
            if self._second[0] is not None:
                found = self._second[0].solve(right)
        if not found.solved.all():
            # What is left is what M cannot give; its share of the solution is not wanted.
            left = found.residual * ~found.solved
            found = self.shifted.solve(right - left)
        return found.value[: self.n], found.value[self.n :]
