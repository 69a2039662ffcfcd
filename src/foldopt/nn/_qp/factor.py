"""The KKT matrix of a working set, factored once for every right-hand side.

With the rows W that are active, the optimality conditions of min ½xᵀQx + pᵀx are linear:

    [Q  Wᵀ] [x]   [−p]
    [W  0 ] [λ] = [ w ],

and the adjoint system of the layer has the same matrix. Where Q is positive definite, Q = LLᵀ and
Y = WL⁻ᵀ turn it into two small triangular systems (the range-space method): with S = YYᵀ,

    t = L⁻¹a,   Sμ = Yt − c,   u = L⁻ᵀ(t − Yᵀμ)      solve   Qu + Wᵀμ = a,  Wu = c.

Where Q has no such factor, or the active rows are dependent, the matrix itself is inverted, or its
pseudo-inverse taken: that gives the multipliers of least norm.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from foldopt.nn._qp.active import Active, active_rows
from foldopt.nn._qp.algebra import cholesky, product, squares, times, triangular
from foldopt.nn._qp.scaled import Scaled

__all__ = ["Factor", "factored"]

# Pivots of S (whose diagonal is 1) below this: the active rows are dependent.
_DEPENDENT = 1e-7
# Singular values of the scaled KKT matrix below this, relative to the largest, count as zero.
_SINGULAR = 1e-11
# A null vector with more than this share in x is a direction without curvature.
_FLAT = 1e-6


@dataclasses.dataclass(frozen=True)
class Factor:
    """See the head of this file.

    Attributes
    ----------
    scaled, mask, active
        The program, and its active rows, ``(B, M)`` and packed.
    Y, R
        WL⁻ᵀ with rows of length 1, and the Cholesky factor of YYᵀ; ``(B, r, n)`` and ``(B, r, r)``.
    other
        The samples that these do not serve, and the (pseudo-)inverses of their KKT matrices.
    least
        Which samples have a pseudo-inverse only because rows depend on one another, ``(B,)``.
    """

    scaled: Scaled
    mask: np.ndarray
    active: Active
    Y: np.ndarray
    R: np.ndarray
    other: tuple[np.ndarray, np.ndarray] | None
    least: np.ndarray

    def product(self, u: np.ndarray, mu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The reverse of :meth:`solve`: Qu + Wᵀμ and Wu."""
        Q, C = self.scaled.Q, self.scaled.rows.C
        return product(u, Q) + product(mu, C), self.mask * times(C, u)

    def solve(self, a: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """u and μ for a ``(*lead, B, n)`` and c ``(*lead, B, M)``.

        c must be zero where a row is not active, and μ is zero there.
        """
        L, Y, R = self.scaled.L, self.Y, self.R
        lead, inverse = a.shape[:-2], self.scaled.inverse
        a, packed = _columns(a), _columns(self.active.gather(c * inverse))
        t = triangular(L, a)
        mu = triangular(R, triangular(R, _apply(Y, t) - packed), transpose=True)
        u = triangular(L, t - _apply(Y.swapaxes(-1, -2), mu), transpose=True)
        if self.other is not None:
            where, inverses = self.other
            both = inverses @ np.concatenate([a[where], packed[where]], -2)
            u[where] = both[:, : u.shape[-2]]
            mu[where] = both[:, u.shape[-2] :] * self.active.valid[where, :, None]
        every = self.active.scatter(_rows(mu, lead), c.shape[-1])
        every *= inverse
        return _rows(u, lead), every


def _apply(matrix: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """M C, by the way that is fast for a single column, or for many."""
    if columns.shape[-1] == 1:
        return np.matmul(matrix, columns)
    return (torch.from_numpy(matrix) @ torch.from_numpy(columns)).numpy()


def _columns(vectors: np.ndarray) -> np.ndarray:
    """``(*lead, B, n)`` as ``(B, n, lead)``."""
    if vectors.ndim == 2:
        return vectors[..., None]
    count, n = vectors.shape[-2:]
    vectors = np.moveaxis(vectors, -2, 0)
    return vectors.reshape(count, math.prod(vectors.shape[1:-1]), n).swapaxes(-1, -2)


def _rows(columns: np.ndarray, lead: tuple[int, ...]) -> np.ndarray:
    """The reverse of :func:`_columns`."""
    if not lead:
        return columns[..., 0]
    rows = columns.swapaxes(-1, -2)
    return np.moveaxis(rows.reshape(len(rows), *lead, rows.shape[-1]), 0, -2)


def factored(scaled: Scaled, mask: np.ndarray) -> Factor:
    """Factor the KKT matrices of the active rows, a mask ``(B, M)``."""
    active = active_rows(mask)
    Y = active.rows(scaled.N)
    count, width = active.index.shape
    S = _gram(scaled, active) if "gram" in vars(scaled) else squares(Y)
    np.einsum("bii->bi", S)[...] += ~active.valid  # a view of the diagonals
    R, sound = cholesky(S)
    least = np.zeros(count, dtype=bool)
    # The rows of Y have length 1, so that the pivots need no scale.
    pivots = R.diagonal(axis1=-2, axis2=-1).min(-1, initial=1)
    sound = sound & (pivots > _DEPENDENT) & scaled.definite
    if sound.all():
        return Factor(scaled, mask, active, Y, R, None, least)
    (where,) = np.nonzero(~sound)
    R, Y = R.copy(), Y.copy()
    R[where], Y[where] = np.eye(width), 0
    inverses = _inverses(scaled, active, where, least)
    return Factor(scaled, mask, active, Y, R, (where, inverses), least)


def _gram(scaled: Scaled, active: Active) -> np.ndarray:
    """YYᵀ from NNᵀ."""
    gram = scaled.gram
    index = active.index % gram.shape[-1]
    sample = np.arange(len(index))[:, None, None] if len(gram) > 1 else 0
    S = gram[sample, index[..., None], index[:, None]]
    S *= active.valid[..., None] & active.valid[:, None]
    return S


def _inverses(scaled: Scaled, active: Active, where: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The (pseudo-)inverses of some KKT matrices; ``least`` is told which are pseudo.

    For rows of N of length 1, as the factors of the others are.
    """
    valid = active.valid[where]
    size = scaled.samples(scaled.size, where)
    Q = scaled.samples(scaled.Q, where) / size[..., None]
    # Of multipliers the least norm is meant that they have for the rows as they were given, and so
    # these are brought to size one together and not one by one.
    rows = active.rows(scaled.rows.C)[where]
    longest = np.linalg.norm(rows, axis=-1).max(-1, keepdims=True, initial=0)
    longest[~(longest > 0)] = 1
    rows = rows / longest[..., None]
    (count, width), n = valid.shape, rows.shape[-1]
    K = np.zeros((count, n + width, n + width))
    K[:, :n, :n], K[:, :n, n:], K[:, n:, :n] = Q, rows.swapaxes(-1, -2), rows
    np.einsum("bii->bi", K)[:, n:] = ~valid  # a view of the diagonals
    # K is symmetric, and so its pseudo-inverse comes from its eigenvectors. A value that is as
    # good as zero there belongs to multipliers that cancel, or to a direction without curvature.
    values, vectors = np.linalg.eigh(K)
    zero = np.abs(values) <= _SINGULAR * np.abs(values).max(-1, keepdims=True)
    inverses = ~zero / np.where(zero, 1, values)
    inverse = (vectors * inverses[:, None]) @ vectors.swapaxes(-1, -2)
    # In the second case x is not unique, and what a loss asks of it there has no derivative: the
    # residual of that part will say so. In the first the answer of least norm is the one meant.
    inside = np.square(vectors[:, :n]).sum(-2)
    flat = (zero & (inside > _FLAT)).any(-1)
    least[where] = zero.any(-1) & ~flat
    # K is that of u, μ longest / size and of a / size, c / longest; and the rows have length 1.
    lengths = np.broadcast_to(1 / scaled.inverse, (len(active.index), scaled.inverse.shape[-1]))
    shrunk = valid * active.gather(lengths)[where]
    into = np.concatenate([np.broadcast_to(1 / size, (count, n)), shrunk / longest], -1)
    back = np.concatenate([np.ones((count, n)), shrunk * (size / longest)], -1)
    return inverse * back[..., None] * into[:, None]
