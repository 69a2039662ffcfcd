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

__all__ = ["Spectrum", "spectra"]

_ROOT = 2.0**0.5


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
        The rows and the eigenvectors of all semidefinite cones, whose U is too large to be formed:
        ``(tri,)`` and ``(k, k)``. Its column for i ≥ j is that of (vᵢvⱼᵀ + vⱼvᵢᵀ)/√2, or of vᵢvᵢᵀ.
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

    def rotated_rows(self, A: Any) -> Any:
        """Uᵀ A for a sparse A (CSR)."""
        if not self.blocks and not self.matrices:
            return A
        small = self._basis.T @ A if self.blocks else A
        if not self.matrices:
            return small.tocsr()
        small = small.tocsr()
        parts, last = [], 0
        for rows, vectors in sorted(self.matrices, key=lambda pair: pair[0][0]):
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
    def _basis(self) -> Any:
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


def _second_order(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """λ = 1 along (1, u), 0 along (1, −u) and (1 + t/‖x‖)/2 across, u = x/‖x‖, on the surface.

    The reflection that takes the first unit vector of x to ∓u gives a basis of what is across.
    """
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
    u = x[on] / length[on, None]
    w = u.copy()
    sign = np.where(u[:, 0] >= 0, 1.0, -1.0)
    w[:, 0] += sign
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    reflection = np.eye(size - 1) - 2 * w[:, :, None] * w[:, None, :]  # its first column is ∓u
    turned = np.zeros((len(u), size, size))
    turned[:, 1:, 1:] = reflection
    turned[:, 0, 0] = turned[:, 0, 1] = 0.5**0.5
    turned[:, 1:, 0], turned[:, 1:, 1] = u * 0.5**0.5, -u * 0.5**0.5
    basis[on] = turned
    across = np.zeros((len(u), size))
    across[:, 0] = 1.0
    across[:, 2:] = ((1 + t[on] / length[on]) / 2)[:, None]
    values[on] = across
    return values, basis


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
    k = int((8 * len(v) + 1) ** 0.5 - 1) // 2
    eigen, vectors = np.linalg.eigh(_matrix(v[:, None], k)[..., 0])
    up = np.maximum(eigen, 0.0)
    total = np.abs(eigen)[:, None] + np.abs(eigen)[None, :]
    values = (up[:, None] + up[None, :]) / np.where(total == 0, 1, total)
    return values[np.tril_indices(k)], vectors


def _conjugated(turn: np.ndarray, h: np.ndarray) -> np.ndarray:
    """svec(T smat(h) Tᵀ) for h ``(tri,)`` or ``(tri, columns)``."""
    k = len(turn)
    X = _matrix(h.reshape(len(h), -1), k).transpose(2, 0, 1)
    turned = turn @ X @ turn.T
    row, column = np.tril_indices(k)
    out = turned[:, row, column] * np.where(row == column, 1.0, _ROOT)
    return out.T.reshape(h.shape)


def _matrix(h: np.ndarray, k: int) -> np.ndarray:
    """Symmetric matrices ``(k, k, columns)`` of vectors ``(tri, columns)``."""
    row, column = np.tril_indices(k)
    X = np.empty((k, k, h.shape[1]))
    X[row, column] = X[column, row] = h / np.where(row == column, 1.0, _ROOT)[:, None]
    return X
