"""Programs with linear constraints alone, as the quadratic programs of ``nn.QP``.

CVXPY writes ‖Fx − g‖² as ‖t‖² with new variables t and rows t = Fx − g. What such a row defines is
put back in its place: with t = β + E x,

    Q = P_xx + EᵀP_tt E,    p = q_x + Eᵀ(q_t + P_tt β),    y of the rows: −(P_tt t + q_t)/a,

where a is the coefficient of t. That halves the program, and makes Q positive definite where F has
full rank.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from foldopt import solvers
from foldopt.cvxpy._canonical import Canonical

__all__ = ["Blocks", "Quadratic", "defined", "places", "quadratic"]

# Beyond, or with fewer entries than this share, sparse factorizations are the faster ones.
_LARGEST, _FILLED, _SMALL = 600, 0.03, 60


@dataclasses.dataclass(frozen=True)
class Block:
    """Which entries of a sparse matrix make up a dense block, and where they stand in it."""

    entries: Tensor
    places: Tensor
    shape: tuple[int, int]

    def __call__(self, values: Tensor) -> Tensor:
        """``(*batch, nnz)`` to ``(*batch, *shape)``."""
        taken = values.index_select(-1, self.entries.to(values.device))
        zeros = taken.new_zeros(*taken.shape[:-1], self.shape[0] * self.shape[1])
        places = self.places.to(values.device).expand(taken.shape)
        return zeros.scatter(-1, places, taken).unflatten(-1, self.shape)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The quadratic program, and what brings its solution back."""

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor
    beta: Tensor
    E: Tensor
    curvature: Tensor
    linear: Tensor


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """Which variables and rows go where.

    Attributes
    ----------
    x, t
        The columns that stay, and those that rows define.
    rows
        Those rows, in the order of t; ``a`` their coefficients of t.
    equal, above
        The other rows in the zero cone, and those in the nonnegative cone.
    """

    x: Tensor
    t: Tensor
    rows: Tensor
    equal: Tensor
    above: Tensor
    a: Tensor
    P_xx: Block
    P_tt: Block
    A_rx: Block
    A_ex: Block
    A_nx: Block

    def blocks(self, P: Tensor, q: Tensor, A: Tensor, b: Tensor) -> Blocks:
        """The program for values of the data, shared ones without a batch dimension."""
        x, t, rows, equal, above = (
            part.to(q.device) for part in (self.x, self.t, self.rows, self.equal, self.above)
        )
        a = self.a.to(q.device)
        E = -self.A_rx(A) / a.unsqueeze(-1)
        curvature = self.P_tt(P).squeeze(-2)
        beta, linear = b.index_select(-1, rows) / a, q.index_select(-1, t)
        Q, p = self.P_xx(P), q.index_select(-1, x)
        if len(t):
            Q = Q + E.mT @ (curvature.unsqueeze(-1) * E)
            pull = linear + curvature * beta
            p = p + (E.mT @ pull.unsqueeze(-1)).squeeze(-1)
        return Blocks(
            Q, p, self.A_nx(A), b.index_select(-1, above), self.A_ex(A), b.index_select(-1, equal),
            beta, E, curvature, linear,
        )  # fmt: skip

    def restore(
        self, blocks: Blocks, x: Tensor, multipliers: solvers.Multipliers
    ) -> tuple[Tensor, Tensor]:
        """x and y of the cone program."""
        t = blocks.beta + (blocks.E @ x.unsqueeze(-1)).squeeze(-1)
        y = -(blocks.curvature * t + blocks.linear) / self.a.to(x.device)
        lead = x.shape[:-1]
        parts = (multipliers.equality, multipliers.inequality, y)
        order = torch.cat([self.equal, self.above, self.rows]).argsort().to(x.device)
        rows = torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)
        order_x = torch.cat([self.x, self.t]).argsort().to(x.device)
        both = torch.cat([x, t.expand(*lead, t.shape[-1])], -1)
        return both.index_select(-1, order_x), rows.index_select(-1, order)


def quadratic(form: Canonical) -> Quadratic | None:
    """How a family of programs becomes dense quadratic ones; None: it does not, or should not."""
    cones = form.cones
    n = len(form.q.constant)
    if cones.rows > cones.linear or not n:
        return None
    A_row, A_column = places(form.A_at)
    P_row, P_column = places(form.P_at)
    t, rows, a = defined(form, A_row, A_column, P_row, P_column)
    left = np.ones(n, dtype=bool)
    left[t] = False
    x = np.flatnonzero(left)
    rest = np.ones(cones.rows, dtype=bool)
    rest[rows] = False
    equal = np.flatnonzero(rest[: cones.zero])
    above = np.arange(cones.zero, cones.linear)
    entries = int(left[A_column].sum() + left[P_column].sum())
    size = len(x) * (len(x) + cones.rows)
    if len(x) > _LARGEST or len(x) + cones.rows > 4 * _LARGEST or not len(x):
        return None
    if len(x) > _SMALL and entries < _FILLED * size:
        return None
    tensors = [torch.from_numpy(part.astype(np.int64)) for part in (x, t, rows, equal, above)]
    inner = _block(P_row, P_column, t, t)
    diagonal = Block(inner.entries, inner.places // max(len(t), 1), (1, len(t)))
    return Quadratic(
        tensors[0],
        tensors[1],
        tensors[2],
        tensors[3],
        tensors[4],
        torch.from_numpy(a),
        _block(P_row, P_column, x, x),
        diagonal,
        _block(A_row, A_column, rows, x),
        _block(A_row, A_column, equal, x),
        _block(A_row, A_column, above, x),
    )


def defined(
    form: Canonical,
    A_row: np.ndarray,
    A_column: np.ndarray,
    P_row: np.ndarray,
    P_column: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns with one entry in A, a constant in an equality, and nothing beside P's diagonal."""
    n = len(form.q.constant)
    counts = np.bincount(A_column, minlength=n)
    constant = np.diff(form.A.matrix.indptr) == 0
    value = form.A.constant.numpy()
    beside = np.zeros(n, dtype=bool)
    off = P_row != P_column
    beside[P_row[off]] = beside[P_column[off]] = True
    fits = (counts[A_column] == 1) & constant & (value != 0) & (A_row < form.cones.zero)
    fits &= ~beside[A_column]
    # Where the objective does not curve, a variable is no square's: it is left alone.
    curved = np.zeros(n, dtype=bool)
    curved[P_row] = True
    chosen = np.flatnonzero(fits & curved[A_column])
    rows, first = np.unique(A_row[chosen], return_index=True)
    chosen = chosen[first]
    return A_column[chosen], rows, value[chosen]


def places(at: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows, starts = at
    return np.asarray(rows), np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _block(row: np.ndarray, column: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Block:
    height, width = len(rows), len(columns)
    row_at = np.full(int(max(row.max(initial=-1), rows.max(initial=-1))) + 1, -1)
    column_at = np.full(int(max(column.max(initial=-1), columns.max(initial=-1))) + 1, -1)
    row_at[rows], column_at[columns] = np.arange(height), np.arange(width)
    entries = np.flatnonzero((row_at[row] >= 0) & (column_at[column] >= 0))
    places = row_at[row[entries]] * width + column_at[column[entries]]
    return Block(
        torch.from_numpy(entries), torch.from_numpy(places.astype(np.int64)), (height, width)
    )
