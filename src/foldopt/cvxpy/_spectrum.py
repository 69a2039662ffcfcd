"""The derivative of the projection on K*, by its eigenvalues and eigenvectors.

D = ∂Π(v) is symmetric with eigenvalues λ between 0 and 1: D = U diag(λ) Uᵀ, cone by cone. An
eigenvalue of 1 is a row that holds (an equality or an active inequality), 0 one that does not, and
what lies between is the curvature of the cone.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import torch

from foldopt.cvxpy._cones import Cones, Group, project_group
from foldopt.solvers import _scipy

__all__ = ["Spectrum", "columns_of", "frames", "spectra", "triangle_of", "vectors_of"]

_ROOT = 2.0**0.5
# Of a row with fewer than k/_FEW entries each is rotated alone.
_FEW = 30


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """U and λ at one v.

    Attributes
    ----------
    values
        λ, ``(m,)``.
    blocks
        The rows and the bases of all small cones: ``(count, size)`` and ``(count, size, size)``.
    matrices
        The rows and the eigenvectors of all semidefinite cones, in order, whose U is too large to
        be formed: ``(tri,)`` and ``(k, k)``. Its column for i ≥ j is that of (vᵢvⱼᵀ + vⱼvᵢᵀ)/√2, or
        of vᵢvᵢᵀ.
    """

    values: np.ndarray
    blocks: list[tuple[np.ndarray, np.ndarray]]
    matrices: list[tuple[np.ndarray, np.ndarray]]

    def rotate(self, h: np.ndarray) -> np.ndarray:
        """Uᵀ h for h ``(m, …)``."""
        return self._turned(h, False)

    def back(self, h: np.ndarray) -> np.ndarray:
        """U h."""
        return self._turned(h, True)

    def _turned(self, h: np.ndarray, back: bool) -> np.ndarray:
        out = h.copy()
        for rows, basis in self.blocks:
            turn = basis if back else basis.swapaxes(-1, -2)
            part = h[rows].reshape(*rows.shape, -1)
            out[rows] = (turn @ part).reshape(h[rows].shape)
        for rows, vectors in self.matrices:
            out[rows] = _conjugated(vectors if back else vectors.T, h[rows])
        return out

    def of_matrices(self, h: np.ndarray, *, back: bool) -> np.ndarray:
        """Uᵀ h, or U h, for the rows of the semidefinite cones alone, in order."""
        out, start = np.empty_like(h), 0
        for rows, vectors in self.matrices:
            here = slice(start, start + len(rows))
            out[here] = _conjugated(vectors if back else vectors.T, h[here])
            start = here.stop
        return out

    def rotated_rows(self, A: Any) -> Any:
        """Uᵀ A for a sparse A (CSR)."""
        if not self.blocks and not self.matrices:
            return A
        small = self.basis.T @ A if self.blocks else A
        if not self.matrices:
            return small.tocsr()
        small = small.tocsr()
        parts, last = [], 0
        for rows, vectors in self.matrices:
            parts.append(small[last : rows[0]])
            block = small[rows].tocsc()
            used = np.flatnonzero(np.diff(block.indptr))
            dense = _conjugated(vectors.T, block[:, used].toarray())
            spread = _scipy.sparse.csr_matrix(
                (np.ones(len(used)), (np.arange(len(used)), used)), shape=(len(used), A.shape[1])
            )
            parts.append(_scipy.sparse.csr_matrix(dense) @ spread)
            last = rows[-1] + 1
        parts.append(small[last:])
        return _scipy.sparse.vstack(parts, format="csr")

    @functools.cached_property
    def basis(self) -> Any:
        """U of the small cones, the identity elsewhere."""
        m = len(self.values)
        plain = np.ones(m, dtype=bool)
        at, to, entries = [], [], []
        for rows, basis in self.blocks:
            plain[rows] = False
            size = rows.shape[1]
            at.append(np.repeat(rows, size, axis=1).ravel())
            to.append(np.tile(rows, (1, size)).ravel())
            entries.append(basis.ravel())
        rest = np.flatnonzero(plain)
        at, to = np.concatenate([rest, *at]), np.concatenate([rest, *to])
        entries = np.concatenate([np.ones(len(rest)), *entries])
        return _scipy.sparse.csr_matrix((entries, (at, to)), shape=(m, m))


def spectra(cones: Cones, v: np.ndarray) -> list[Spectrum]:
    """D = U diag(λ) Uᵀ at each v of a batch, ``(B, m)``."""
    values = np.empty(v.shape)
    blocks: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in v]
    matrices: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in v]
    for group in cones.groups:
        part = v[:, group.rows]  # (B, count, size)
        if group.kind == "zero":
            values[:, group.rows] = 1.0
        elif group.kind == "nonnegative":
            values[:, group.rows] = part > 0
        elif group.kind == "semidefinite":
            for i in range(len(v)):
                for rows, one in zip(group.rows, part[i], strict=True):
                    values[i, rows], vectors = _semidefinite(one)
                    matrices[i].append((rows, vectors))
                matrices[i].sort(key=_first)
        else:
            if group.kind == "second_order":
                size = part.shape[-1]
                flat = _second_order(part.reshape(-1, size))
                found = flat[0].reshape(part.shape), flat[1].reshape(*part.shape, size)
            else:
                found = _three(group, part)
            values[:, group.rows] = found[0]
            for i, basis in enumerate(found[1]):
                blocks[i].append((group.rows, basis))
    return [Spectrum(*parts) for parts in zip(values, blocks, matrices, strict=True)]


def _first(pair: tuple[np.ndarray, np.ndarray]) -> int:
    return pair[0][0]


def _second_order(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """λ = 1 along (1, u), 0 along (1, −u) and (1 + t/‖x‖)/2 across, u = x/‖x‖, on the surface."""
    count, size = v.shape
    t, x = v[:, 0], v[:, 1:]
    length = np.linalg.norm(x, axis=1)
    inside, polar = length <= t, length <= -t
    values = np.zeros((count, size))
    values[inside] = 1.0
    basis = np.broadcast_to(np.eye(size), (count, size, size)).copy()
    on = ~inside & ~polar
    if size == 1 or not on.any():
        return values, basis
    basis[on] = frames(x[on])
    across = np.zeros((int(on.sum()), size))
    across[:, 0] = 1.0
    across[:, 2:] = ((1 + t[on] / length[on]) / 2)[:, None]
    values[on] = across
    return values, basis


def frames(x: np.ndarray) -> np.ndarray:
    """(1, u)/√2, (1, −u)/√2, and a basis of what is across them, ``(count, size, size)``.

    u = x/‖x‖, and any direction where x = 0. The reflection that takes the first unit vector to ∓u
    gives what is across.
    """
    count, size = len(x), x.shape[1] + 1
    if size == 1:
        return np.ones((count, 1, 1))
    length = np.linalg.norm(x, axis=1, keepdims=True)
    u = np.where(length > 0, x / np.where(length > 0, length, 1), np.eye(1, size - 1))
    w = u.copy()
    w[:, 0] += np.where(u[:, 0] >= 0, 1.0, -1.0)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    turned = np.zeros((count, size, size))
    turned[:, 1:, 1:] = np.eye(size - 1) - 2 * w[:, :, None] * w[:, None, :]  # first column: ∓u
    turned[:, 0, 0] = turned[:, 0, 1] = 0.5**0.5
    turned[:, 1:, 0], turned[:, 1:, 1] = u * 0.5**0.5, -u * 0.5**0.5
    return turned


def _three(group: Group, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exponential and power cones, ``(B, count, 3)``: the projection's own derivative."""
    with torch.enable_grad():
        at = torch.tensor(v, requires_grad=True)
        x = project_group(group, at)
        rows = [torch.autograd.grad(x[..., i].sum(), at, retain_graph=True)[0] for i in range(3)]
    D = torch.stack(rows, -2).numpy()
    values, basis = np.linalg.eigh((D + D.swapaxes(-1, -2)) / 2)
    # What is 0 or 1 but for rounding is that: a row that holds, or does not.
    values = np.where(values < 1e-13, 0.0, np.where(values > 1 - 1e-13, 1.0, values))
    return values, basis


def _semidefinite(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """λᵢⱼ = 1 or 0 where both eigenvalues have the same sign, and λᵢ/(λᵢ + |λⱼ|) between."""
    eigen, vectors = vectors_of(v)
    up = np.maximum(eigen, 0.0)
    total = np.abs(eigen)[:, None] + np.abs(eigen)[None, :]
    values = (up[:, None] + up[None, :]) / np.where(total == 0, 1, total)
    return triangle_of(values, weighted=False), vectors


def vectors_of(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the matrix whose lower triangle is v."""
    k = int((8 * len(v) + 1) ** 0.5 - 1) // 2
    eigen, vectors = np.linalg.eigh(_matrix(v[:, None], k)[0])
    return eigen, vectors


def triangle_of(X: np.ndarray, *, weighted: bool = True) -> np.ndarray:
    """The lower triangle of a symmetric matrix by rows, with √2 beside the diagonal if weighted."""
    _, low, scale = _triangle(len(X))
    found = X.ravel()[low]
    return found * scale if weighted else found


def columns_of(turn: Spectrum, C: Any, kept: np.ndarray) -> np.ndarray:
    """C U dense, for the ``kept`` rows of a sparse C (COO).

    Its columns are the rows of the semidefinite cones, in order.
    """
    out, start = np.zeros((len(kept), C.shape[1])), 0
    place = np.full(C.shape[0], -1)
    place[kept] = np.arange(len(kept))
    for at, vectors in turn.matrices:
        k, end = len(vectors), start + len(at)
        here = np.flatnonzero((C.col >= start) & (C.col < end) & (place[C.row] >= 0))
        row, column, entry = place[C.row[here]], C.col[here] - start, C.data[here]
        if len(here) * _FEW > k * len(kept):
            block = np.zeros((len(at), len(kept)))
            block[column, row] = entry
            out[:, start:end] = _conjugated(vectors.T, block).T
        elif len(here):
            each = entry[:, None] * _rotated_entries(vectors, column)
            if len(np.unique(row)) == len(row):
                out[row, start:end] = each
            else:
                np.add.at(out[:, start:end], row, each)
        start = end
    return out


def _rotated_entries(vectors: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of U: (e_i e_jᵀ + e_j e_iᵀ)/√2 in the eigenbasis is (v_i v_jᵀ + v_j v_iᵀ)/√2."""
    (low, high), (_, _, scale) = np.tril_indices(len(vectors)), _triangle(len(vectors))
    i, j = low[places], high[places]
    rows, columns = np.take(vectors, low, axis=1), np.take(vectors, high, axis=1)
    found, beside = rows[i] * columns[j], i != j
    if beside.any():
        other = rows[j[beside]] * columns[i[beside]]
        found[beside] = (found[beside] + other) * 0.5**0.5
    return found * scale


def _conjugated(turn: np.ndarray, h: np.ndarray) -> np.ndarray:
    """svec(T smat(h) Tᵀ) for h ``(tri,)`` or ``(tri, columns)``."""
    k = len(turn)
    _, low, scale = _triangle(k)
    X = _matrix(h.reshape(len(h), -1), k)
    turned = (turn @ X @ turn.T).reshape(len(X), -1)
    return (turned[:, low] * scale).T.reshape(h.shape)


def _matrix(h: np.ndarray, k: int) -> np.ndarray:
    """Symmetric matrices ``(columns, k, k)`` of vectors ``(tri, columns)``."""
    full, _, scale = _triangle(k)
    return (h.T / scale)[:, full].reshape(-1, k, k)


@functools.lru_cache(maxsize=64)
def _triangle(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each entry of a symmetric matrix stands in its lower triangle; and where the entries
    of that stand in the matrix, and their factors: √2 beside the diagonal.
    """
    row, column = np.tril_indices(k)
    full = np.empty((k, k), dtype=np.int64)
    full[row, column] = full[column, row] = np.arange(len(row))
    return full.ravel(), row * k + column, np.where(row == column, 1.0, _ROOT)
