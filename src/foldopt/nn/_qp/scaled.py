"""A quadratic program with all its rows in one matrix, and as a least distance problem.

With Q = LLᵀ, t = L⁻¹p and u = Lᵀx + t, the program min ½xᵀQx + pᵀx over low ≤ Cx ≤ high is

    min ½‖u‖²  s.t.  low + Nt ≤ Nu ≤ high + Nt,      N = CL⁻ᵀ,

the rows of N divided by their lengths: no threshold then has a unit.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from foldopt.nn._qp.algebra import cholesky, lengths, squares, triangular
from foldopt.nn._qp.conditions import Rows, rows_of
from foldopt.nn._qp.program import Program

__all__ = ["Scaled"]

# A Q of size 1 whose least eigenvalue is about this, times √n, counts as singular.
_SINGULAR = 1e3 * np.finfo(float).eps
# Squares of pivots above this part of the size leave no doubt.
_PIVOT = 1e-3
_GENERIC = (0.7548776662466927, 0.5698402909980532, 0.8191725133961645, 0.6710436067037893)


@functools.cache
def _generic(n: int) -> np.ndarray:
    """A few vectors ``(4, n)`` of length 1 that no structure is orthogonal to all of.

    Not affine in the index over any stretch: second differences, say, would not see them.
    """
    found = np.cos(8 * np.arange(1.0, n + 1) ** 2 * np.array(_GENERIC)[:, None])
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """See the head of this file. What all samples share has a first dimension of 1.

    Attributes
    ----------
    Q, L
        ``(B or 1, n, n)``: the symmetric part of Q, which is all that xᵀQx sees, and its Cholesky
        factor (the identity if there is none).
    definite
        Which samples have one, ``(B,)``.
    size
        The largest diagonal entry of Q, or 1, ``(B or 1, 1)``.
    p, t
        p and L⁻¹p, ``(B, n)``.
    rows
        The constraints.
    N, inverse
        The rows of the least distance problem, of length 1, and one over what that was before,
        ``(B or 1, M, n)`` and ``(B or 1, M)``.
    sizes
        n, m, k, and the number of bounds.
    """

    Q: np.ndarray
    L: np.ndarray
    definite: np.ndarray
    size: np.ndarray
    p: np.ndarray
    t: np.ndarray
    rows: Rows
    N: np.ndarray
    inverse: np.ndarray
    sizes: tuple[int, int, int, int]

    @staticmethod
    def of(program: Program) -> Scaled:
        """Take a float64 program on the CPU apart."""
        Q, p = program.Q.numpy(), program.p.numpy()
        count = len(p)
        Q = Q if Q.ndim == 3 else Q[None]
        Q = Q + Q.swapaxes(-1, -2)
        Q *= 0.5
        L, sound = cholesky(Q)
        diagonal = Q.diagonal(axis1=-2, axis2=-1)
        greatest = diagonal.max(-1)
        definite = sound & (L.diagonal(axis1=-2, axis2=-1).min(-1) ** 2 > _PIVOT * greatest)
        if not definite.all():
            greatest = np.abs(diagonal).max(-1)
            greatest[greatest == 0] = 1
            definite = sound & _regular(L, greatest)
            L = np.where(definite[:, None, None], L, np.eye(L.shape[-1]))
        rows = rows_of(program)
        N = _inverse_times(L, rows.C)
        inverse = 1 / lengths(N)
        N *= inverse[..., None]
        return Scaled(
            Q=Q,
            L=L,
            definite=definite if len(definite) == count else np.repeat(definite, count),
            size=greatest[:, None],
            p=p,
            t=_inverse_times(L[0], p) if len(L) == 1 else triangular(L, p[..., None])[..., 0],
            rows=rows,
            N=N,
            inverse=inverse,
            sizes=program.sizes,
        )

    @functools.cached_property
    def gram(self) -> np.ndarray:
        """NNᵀ, ``(B or 1, M, M)``."""
        return squares(self.N)

    def sample(self, block: np.ndarray, index: int) -> np.ndarray:
        """A block of one sample."""
        return block[index if len(block) > 1 else 0]

    def samples(self, block: np.ndarray, where: np.ndarray) -> np.ndarray:
        """A block of some samples, their numbers in ``where``; all in one if they share it."""
        return block[where] if len(block) > 1 else block


def _inverse_times(L: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows r as L⁻¹r. Row by row is how LAPACK leaves the columns that it solves for."""
    return triangular(L, rows.swapaxes(-1, -2)).swapaxes(-1, -2)


def _regular(L: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Whether Q = LLᵀ is far from singular, ``(B or 1,)``; ``size`` is that of Q.

    The pivots leave it open, where they are not all large: the last one of a singular matrix may be
    far above rounding. Its inverse tells: with generic g of length 1, ‖L⁻¹g‖² = gᵀQ⁻¹g is about 1/n
    of its largest eigenvalue, and of four such g hardly all are far below that.
    """
    n = L.shape[-1]
    probes = _inverse_times(L, _generic(n)[None])
    reach = np.square(probes).sum((-2, -1)) * size
    return reach < 4 / (n**1.5 * _SINGULAR)
