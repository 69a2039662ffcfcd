"""Derivatives and the KKT matrix of one large sample, sparse.

Coloured products give the Jacobian and the Hessian, SuperLU factors the KKT matrix, once for all
right-hand sides. It does not tell the signs of the eigenvalues. But the second-order condition
holds if and only if H + ρWᵀW is positive definite for some ρ (Debreu's lemma), and a factorisation
with pivots from the diagonal alone, all of them positive, proves that; it is then as stable as
Cholesky's.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.nn._nlp.model import Model, Point
from foldopt.solvers import _scipy
from foldopt.solvers._ipopt.derivatives import Oracle
from foldopt.solvers._ipopt.sparsity import Pattern

__all__ = ["SparseFactor", "SparseLocal", "complete", "sparse_at"]

_SINGULAR = 1e-12
_SCALINGS = 6
# What ρ is tried, for H and rows of size 1.
_WEIGHTS = (1.0, 1e2, 1e4, 1e6)
_POWERS = 4
# Products that differ by more than this, relative to the largest entry, are not the same.
_MISSED = 1e-7


@dataclasses.dataclass(frozen=True)
class SparseLocal:
    """What a :class:`~foldopt.nn._nlp.dense.DenseLocal` holds, of one sample: B is 1."""

    value: Tensor
    gradient: Tensor
    g: Tensor
    h: Tensor
    J: Any
    H: Any
    bounded: bool

    @functools.cached_property
    def lengths(self) -> Tensor:
        length = np.sqrt(np.asarray(self.J.multiply(self.J).sum(1)).reshape(1, -1))
        return torch.from_numpy(np.where(length > 0, length, 1))

    @property
    def size(self) -> Tensor:
        return torch.tensor([abs(self.H.data).max(initial=0)], dtype=torch.float64)

    def pull(self, multipliers: Tensor) -> Tensor:
        return torch.from_numpy(self.J.T @ multipliers.numpy()[0])[None]

    def change(self, other: SparseLocal, du: Tensor, dmu: Tensor) -> tuple[Tensor, Tensor]:
        """As for the dense one."""
        J, count = other.J - self.J, self.J.shape[0]
        step, forces = du.numpy()[0], dmu.numpy()[0, :count]
        rows = torch.zeros_like(dmu)
        rows[0, :count] = torch.from_numpy(J @ step)
        return torch.from_numpy((other.H - self.H) @ step + J.T @ forces)[None], rows

    def factor(self, held: Tensor) -> SparseFactor:
        rows = torch.nonzero(held[0]).flatten()
        count = self.J.shape[0]
        W = self.J[rows[rows < count].numpy()]
        if self.bounded:
            of_bounds = rows[rows >= count].numpy() - count
            ones, number = np.ones(len(of_bounds)), np.arange(len(of_bounds))
            shape = len(of_bounds), self.H.shape[0]
            units = _scipy.sparse.csr_matrix((ones, (number, of_bounds)), shape=shape)
            W = _scipy.sparse.vstack([W, units], format="csr")
        return SparseFactor(self.H, W, rows)


@dataclasses.dataclass(frozen=True)
class SparseFactor:
    """The KKT matrix of the rows W of one sample."""

    H: Any
    W: Any
    rows: Tensor

    samples = 1
    device = torch.device("cpu")

    @property
    def n(self) -> int:
        return self.H.shape[0]

    @functools.cached_property
    def matrix(self) -> Any:
        return _scipy.sparse.bmat([[self.H, self.W.T], [self.W, None]], format="csc")

    @functools.cached_property
    def scale(self) -> np.ndarray:
        entries = abs(self.matrix.tocoo())
        scale = np.ones(entries.shape[0])
        for _ in range(_SCALINGS):
            row = np.zeros(entries.shape[0])
            np.maximum.at(row, entries.row, entries.data * scale[entries.row] * scale[entries.col])
            scale /= np.sqrt(np.where(row > 0, row, 1))
        return scale

    @functools.cached_property
    def lu(self) -> Any:
        """SuperLU's factors of S K S; None: it is singular."""
        S = _scipy.sparse.diags(self.scale)
        try:
            return _scipy.sparse_linalg.splu((S @ self.matrix @ S).tocsc())
        except (RuntimeError, ValueError):  # singular, or not finite
            return None

    @functools.cached_property
    def singular(self) -> Tensor:
        """As for the dense one; by inverse iteration, which finds the smallest eigenvalue."""
        if self.lu is None:
            return torch.ones(1, dtype=torch.bool)
        v, growth = np.random.default_rng(0).normal(size=len(self.scale)), 0.0
        for _ in range(_POWERS):
            v = self.lu.solve(v / np.linalg.norm(v))
            growth = float(np.linalg.norm(v))
        return torch.tensor([not growth < 1 / _SINGULAR])

    @property
    def weakest(self) -> Tensor:
        """As for the dense one, but not looked for: ``singular`` must do."""
        return torch.full((1,), torch.inf, dtype=torch.float64)

    @functools.cached_property
    def minimum(self) -> Tensor:
        """As for the dense one; where no ρ proves it, by all the eigenvalues."""
        n = self.n
        S = _scipy.sparse.diags(self.scale[:n])
        H = S @ self.H @ S
        W = _scipy.sparse.diags(self.scale[n:]) @ self.W @ S
        square = W.T @ W
        for weight in _WEIGHTS if len(self.rows) else (0.0,):
            if _definite((H + weight * square).tocsc()):
                return torch.ones(1, dtype=torch.bool)
        if not np.isfinite(self.matrix.data).all():
            return torch.zeros(1, dtype=torch.bool)
        S = _scipy.sparse.diags(self.scale)
        values = np.linalg.eigvalsh((S @ self.matrix @ S).toarray())
        return torch.tensor([int((values > 0).sum()) == n])

    def solve(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """As for the dense one."""
        right = torch.cat([a, c[..., self.rows]], -1)
        b = right.reshape(-1, right.shape[-1]).numpy().T
        found = np.zeros_like(b)
        if self.lu is None and not np.isfinite(self.matrix.data).all():
            found = np.full_like(b, np.nan)
        elif self.lu is None:
            found = np.linalg.lstsq(self.matrix.toarray(), b, rcond=_SINGULAR)[0]
        else:
            scale = self.scale[:, None]
            for _ in range(2):  # the second takes out the rounding errors of the first
                found = found + scale * self.lu.solve(scale * (b - self.matrix @ found))
        both = torch.from_numpy(found.T.copy()).reshape(right.shape)
        return both[..., : self.n], self._scattered(both, c)

    def product(self, u: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of :meth:`solve`."""
        both = torch.cat([u, mu[..., self.rows]], -1)
        flat = both.reshape(-1, both.shape[-1]).numpy().T
        found = torch.from_numpy((self.matrix @ flat).T.copy()).reshape(both.shape)
        return found[..., : self.n], self._scattered(found, mu)

    def _scattered(self, both: Tensor, like: Tensor) -> Tensor:
        return torch.zeros_like(like).index_copy(-1, self.rows, both[..., self.n :])

    def held(self, like: Tensor) -> Tensor:
        """As for the dense one."""
        none = torch.zeros_like(like, dtype=torch.bool)
        return none.index_fill(-1, self.rows, True)

    def one(self, sample: int) -> tuple[Tensor, Tensor, Tensor]:
        """H, W and the numbers of the rows, dense: for what only a closer look can tell."""
        return torch.from_numpy(self.H.toarray()), torch.from_numpy(self.W.toarray()), self.rows


def complete(local: SparseLocal, model: Model, point: Point, params: tuple[Any, ...]) -> bool:
    """Whether the pattern has missed no entry here: a product of K against one without a pattern.

    The pattern was found at random points. An entry of a branch that none of them took would make
    the derivative wrong, and nothing else would show it.
    """
    x, lam, nu, _ = (part[0] for part in point)
    # A fixed irrational sequence: generic, and the same each time.
    r = 0.5 + torch.frac(torch.arange(1, len(x) + 1, dtype=x.dtype) * 0.6180339887498949)

    def conditions(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return model.program.lagrangian_gradient(y, lam, nu, params)

    Hr, Gr, Ar = (part.detach() for part in torch.func.jvp(conditions, (x,), (r,))[1])
    mine = torch.from_numpy(local.H @ r.numpy()), torch.from_numpy(local.J @ r.numpy())
    for found, exact in zip(mine, (Hr, torch.cat([Gr, Ar])), strict=True):
        size = 1e-300 + exact.abs().amax() if len(exact) else 1.0
        if bool(((found - exact).abs() > _MISSED * size).any()):
            return False
    return True


def _definite(matrix: Any) -> bool:
    """Whether every pivot from the diagonal is positive."""
    try:
        lu = _scipy.sparse_linalg.splu(
            matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )  # fmt: skip
    except (RuntimeError, ValueError):
        return False
    return bool((lu.perm_r == lu.perm_c).all() and (lu.U.diagonal() > 0).all())


def sparse_at(model: Model, point: Point, params: tuple[Any, ...], pattern: Pattern) -> SparseLocal:
    """Everything at the point of one sample, ``(1, n)``, with params without a batch dimension."""
    x, lam, nu, mu = (part[0].numpy() for part in point)
    m, k, n = len(lam), len(nu), len(x)
    oracle = Oracle(model.program, params, pattern, (m, k))
    values = oracle.constraints(x)
    value, gradient = oracle.value(x), oracle.gradient(x)
    rows, columns = pattern.jacobian_entries
    J = _scipy.sparse.csr_matrix((oracle.jacobian(x), (rows, columns)), shape=(m + k, n))
    low, high = pattern.hessian.rows, pattern.hessian.columns
    entries = oracle.hessian(x, 1.0, np.append(lam, nu))
    lower = _scipy.sparse.csr_matrix((entries, (low, high)), shape=(n, n))
    H = lower + _scipy.sparse.tril(lower, -1).T
    if oracle.error is not None:
        raise oracle.error

    def row(array: Any) -> Tensor:
        return torch.from_numpy(np.array(array, dtype=np.float64)).reshape(1, -1)

    return SparseLocal(
        row(value)[0], row(gradient), row(values[:m]), row(values[m:]), J, H.tocsr(), len(mu) > 0
    )
