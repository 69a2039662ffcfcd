"""The projection on self-dual cones made smooth: y and s with y·s = μ e, and y − s = v.

On a number it is y = (v + √(v² + 4μ))/2, and so on the eigenvalues of a matrix, and on those of a
second-order cone, t ± ‖x‖. Its derivative has the eigenvectors of the projection's, and strictly
between 0 and 1 the eigenvalues

    λᵢⱼ = (yᵢ + yⱼ) / (yᵢ + yⱼ + sᵢ + sⱼ)

(X. Chen, P. Tseng, Math. Programming 95 (2003); M. Fukushima, Z.-Q. Luo, P. Tseng, SIAM J. Optim.
12 (2002), for the second-order cone). With μ = 0 it is the projection.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from foldopt.cvxpy._cones import Cones
from foldopt.cvxpy._spectrum import Spectrum, frames, triangle_of, vectors_of

__all__ = ["SMOOTH", "Eigen"]

# The cones that have such eigenvalues.
# Instead of a division by zero.
_TINY = 1e-300
SMOOTH = frozenset(("zero", "nonnegative", "second_order", "semidefinite"))


@dataclasses.dataclass(frozen=True)
class Eigen:
    """v by its eigenvalues, which serve every μ.

    Attributes
    ----------
    matrices
        Of each semidefinite cone the rows, the eigenvalues and the eigenvectors.
    second_order
        Of all second-order cones of one size the rows, the two eigenvalues and the bases.
    """

    cones: Cones
    v: np.ndarray
    matrices: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    second_order: list[tuple[np.ndarray, np.ndarray, np.ndarray]]

    @staticmethod
    def of(cones: Cones, v: np.ndarray) -> Eigen:
        """Decompose v ``(m,)``."""
        matrices, second_order = [], []
        for group in cones.groups:
            if group.kind == "semidefinite":
                matrices += [(rows, *vectors_of(v[rows])) for rows in group.rows]
            elif group.kind == "second_order":
                part = v[group.rows]
                length = np.linalg.norm(part[:, 1:], axis=1)
                both = np.stack([part[:, 0] + length, part[:, 0] - length], 1)
                second_order.append((group.rows, both, frames(part[:, 1:])))
        matrices.sort(key=lambda one: one[0][0])
        return Eigen(cones, v, matrices, second_order)

    def smoothed(self, mu: float) -> tuple[np.ndarray, Spectrum]:
        """y, and its derivative at v."""
        linear = slice(self.cones.zero, self.cones.linear)
        y, values = self.v.copy(), np.ones(len(self.v))
        y[linear], total = _pair(self.v[linear], mu)
        values[linear] = y[linear] / total
        for rows, eigen, vectors in self.matrices:
            up, total = _pair(eigen, mu)
            y[rows] = triangle_of((vectors * up) @ vectors.T)
            values[rows] = triangle_of(
                (up[:, None] + up) / (total[:, None] + total), weighted=False
            )
        blocks = []
        for rows, eigen, basis in self.second_order:
            if rows.shape[1] == 1:
                y[rows], total = _pair(self.v[rows], mu)
                values[rows] = y[rows] / total
                continue
            up, total = _pair(eigen, mu)
            values[rows] = (up.sum(1) / total.sum(1))[:, None]
            values[rows[:, :2]] = up / total
            y[rows] = (basis[:, :, :2] @ (up * 0.5**0.5)[:, :, None])[..., 0]
            blocks.append((rows, basis))
        matrices = [(rows, vectors) for rows, _, vectors in self.matrices]
        return y, Spectrum(values, blocks, matrices)


def _pair(v: np.ndarray, mu: float) -> tuple[np.ndarray, np.ndarray]:
    """y and y + s, without a difference of nearly equal numbers."""
    total = np.maximum(np.sqrt(v * v + 4 * mu), _TINY)
    return np.where(v > 0, (v + total) / 2, 2 * mu / (total + np.abs(v))), total
