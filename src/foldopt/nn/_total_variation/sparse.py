"""Total variation with a sparse operator: interior points, then exactly on the free rows.

The dual box program of :mod:`foldopt.nn._total_variation.dual` does not mind dependent rows, as
those of an image's differences are, if it is solved by an interior-point method: see
:mod:`foldopt.nn._total_variation.interior`. Its answer tells which rows are free. On these,

    x + D_Fᵀ u_F = d − D_Hᵀ u_H,   D_F x = 0

is solved with one sparse factorization, that of I + D_Fᵀ D_F / δ, and refined by the residuals of
these very equations until rounding is left. Each round adds to u_F something in the range of D_F:
it ends at that solution which is nearest to where it began.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foldopt._tree import Leaves
from foldopt.nn._total_variation.interior import interior_point
from foldopt.nn._total_variation.step import (
    Point,
    Products,
    conditions,
    inside,
    weak_rows,
)
from foldopt.solvers import _scipy

__all__ = ["FreeRows", "has_scipy", "products", "solve", "solve_one", "taken_apart", "update"]

# δ, relative to the longest row.
_SMALL = 1e-7
_REFINEMENTS = 30
_CORRECTIONS = 20
# What counts as zero in the optimality conditions, relative to the size of their terms.
_TOLERANCE = 1e-9


def taken_apart(D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The values of a sparse COO or CSR tensor, differentiable in it, their rows and columns."""
    if D.layout == torch.sparse_coo:
        D = D.coalesce()
        rows, columns = D.indices().unbind(0)
        return D.values(), rows, columns
    starts = D.crow_indices()
    rows = torch.repeat_interleave(torch.arange(len(D), device=D.device), starts.diff())
    return D.values(), rows, D.col_indices()


def products(values: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Products:
    """The products of a sparse ``(m, n)``, in operations that differentiate in all orders."""
    m, n = shape

    def forward(v: Tensor) -> Tensor:
        terms = values * v.index_select(-1, columns)
        return v.new_zeros(*v.shape[:-1], m).index_add(-1, rows, terms)

    def transposed(y: Tensor) -> Tensor:
        terms = values * y.index_select(-1, rows)
        return y.new_zeros(*y.shape[:-1], n).index_add(-1, columns, terms)

    return Products(forward, transposed)


def update(
    z: Point, d: Tensor, weight: Tensor, values: Tensor, rows: Tensor, columns: Tensor
) -> Point:
    """z − F(z, c), of :mod:`foldopt.nn._total_variation.step`, for a sparse operator."""
    shape = z.u.shape[-1], z.x.shape[-1]
    return conditions(z, d, weight, products(values, rows, columns, shape))


@dataclasses.dataclass(frozen=True)
class FreeRows:
    """D with the free rows of each sample, factored.

    Attributes
    ----------
    free
        ``(B, m)``.
    products
        With D.
    systems
        One for each sample.
    least
        True everywhere: whether rows depend on one another is not looked at beforehand.
    """

    free: Tensor
    products: Products
    systems: tuple[_System, ...]
    least: Tensor

    def solve(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """u and μ for a ``(*lead, B, n)`` and c ``(*lead, B, m)``, of which the free rows count."""
        lead, mu = a.shape[:-2], torch.zeros_like(c)
        u = torch.empty_like(a)
        width = math.prod(lead)
        for sample, system in enumerate(self.systems):
            right = a[..., sample, :].reshape(width, -1).numpy().T
            rows = c[..., sample, :].reshape(width, -1).numpy().T
            free = self.free[sample].numpy()
            x, found = system.solve(right, rows[free])
            full = np.zeros_like(rows)
            full[free] = found
            u[..., sample, :] = torch.from_numpy(x.T.reshape(*lead, -1))
            mu[..., sample, :] = torch.from_numpy(full.T.reshape(*lead, -1))
        return u, mu


class _System:
    """u + Wᵀμ = a, W u = c for the free rows W of one sample."""

    def __init__(self, W: Any) -> None:
        self.W, self.Wt = W, W.T.tocsr()
        m, n = W.shape
        length = float(np.sqrt(W.multiply(W).sum(1)).max()) if W.nnz else 1.0
        self.small = _SMALL * length**2
        matrix = _scipy.sparse.eye(n, format="csc") + (self.Wt @ W) / self.small
        self.factor = None
        if m:
            self.factor = _scipy.sparse_linalg.splu(
                matrix.tocsc(),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )

    def solve(self, a: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For ``(n, k)`` and ``(rows, k)``."""
        u, mu = np.zeros_like(a), np.zeros_like(c)
        if self.factor is None:
            return a.copy(), mu
        size = np.abs(a).max(initial=0.0) + np.abs(c).max(initial=0.0)
        before = np.inf
        for _ in range(_REFINEMENTS):
            above, below = a - u - self.Wt @ mu, c - self.W @ u
            left = max(np.abs(above).max(initial=0.0), np.abs(below).max(initial=0.0))
            # The last digits are reached where the residual no longer falls.
            if left <= 1e-15 * size or left > 0.5 * before:
                break
            before = left
            change = self.factor.solve(above + self.Wt @ below / self.small)
            u = u + change
            mu = mu + (self.W @ change - below) / self.small
        return u, mu


def solve(tensors: Leaves, m: int, dtype: torch.dtype) -> tuple[Point, Tensor, Tensor, FreeRows]:
    """Solve for data in float64 on the CPU, with an answer to be rounded to ``dtype``.

    Parameters
    ----------
    tensors
        d, λ, and the values, rows and columns of D.
    m
        How many rows there are.
    dtype
        Of the answer.

    Returns
    -------
    point, done, weak, rows
        x and u; which samples are solved, ``(B,)``; where the solution has no derivative in the
        usual sense, ``(B,)``; and the factors for the adjoint.
    """
    d, weight, values, rows, columns = tensors
    n = d.shape[-1]
    entries = (values.numpy(), (rows.numpy(), columns.numpy()))
    D = _scipy.sparse.csr_matrix(entries, shape=(m, n))
    bound = weight.expand(len(d), m)
    x, u = torch.empty_like(d), torch.empty_like(bound)
    done, free = torch.zeros(len(d), dtype=torch.bool), torch.zeros_like(bound, dtype=torch.bool)
    systems = []
    for sample in range(len(d)):
        found = solve_one(d[sample].numpy(), bound[sample].numpy(), D)
        x[sample], u[sample] = torch.from_numpy(found.x), torch.from_numpy(found.u)
        free[sample], done[sample] = torch.from_numpy(found.free), found.done
        systems.append(found.system)
    u = torch.where(free, inside(u, bound, dtype), u)
    here = products(values, rows, columns, (m, n))
    weak = weak_rows(u, bound, here.forward(x), here.forward(d)).any(-1)
    factors = FreeRows(free, here, tuple(systems), torch.ones_like(done))
    return Point(x, u), done, weak, factors


def has_scipy() -> bool:
    """Whether scipy is installed, which is not needed otherwise."""
    return importlib.util.find_spec("scipy") is not None


class _One(NamedTuple):
    x: np.ndarray
    u: np.ndarray
    free: np.ndarray
    system: _System
    done: bool


@np.errstate(all="ignore")  # what overflows is not done
def solve_one(d: np.ndarray, bound: np.ndarray, D: Any) -> _One:
    """One sample: the free rows as interior points see them, corrected by Newton's method."""
    u, free = interior_point(d, bound, D)
    size = np.abs(D @ d).max(initial=0.0)
    found = _on(d, bound, D, u, free)
    for _ in range(_CORRECTIONS):
        against = ~found.free & (D @ found.x * found.u < -_TOLERANCE * size * bound)
        # What only just touches its bound stays free.
        over = found.free & (np.abs(found.u) > bound * (1 + _TOLERANCE))
        if not (over | against).any():
            return found._replace(done=bool(np.isfinite(found.x).all()))
        found = _on(d, bound, D, found.u, (found.free & ~over) | against)
    return found


def _on(d: np.ndarray, bound: np.ndarray, D: Any, u: np.ndarray, free: np.ndarray) -> _One:
    """The solution with the free rows held at zero, and u near a given one."""
    u = np.where(free, u, bound * np.sign(u))
    system = _System(D[free])
    x, change = system.solve((d - D.T @ u)[:, None], np.zeros((int(free.sum()), 1)))
    u[free] += change[:, 0]
    return _One(x[:, 0], u, free, system, False)
