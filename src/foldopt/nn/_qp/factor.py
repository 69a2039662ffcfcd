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
from torch import Tensor

from foldopt.nn._qp.scaled import Scaled, product, times

__all__ = ["Active", "Factor", "active_rows", "factored"]

# Pivots of S (whose diagonal is 1) below this: the active rows are dependent.
_DEPENDENT = 1e-7
# Singular values of the scaled KKT matrix below this, relative to the largest, count as zero.
_SINGULAR = 1e-11
# A null vector with more than this share in x is a direction without curvature.
_FLAT = 1e-6


@dataclasses.dataclass(frozen=True)
class Active:
    """Which rows are active, packed: ``index`` ``(B, r)`` into all rows, ``valid`` of the same."""

    index: Tensor
    valid: Tensor

    def gather(self, rows: Tensor) -> Tensor:
        """The active entries of ``(*lead, B, M)``, zeros in the place of those that are not."""
        index = self.index.expand(*rows.shape[:-2], *self.index.shape)
        return torch.where(self.valid, torch.gather(rows, -1, index), 0)

    def rows(self, of: Tensor) -> Tensor:
        """The active rows of ``(B or 1, M, n)`` on the CPU, zeros in the place of the others."""
        sample = np.arange(len(self.index))[:, None] if len(of) > 1 else 0
        found = of.numpy()[sample, self.index.numpy()]
        return torch.from_numpy(np.multiply(found, self.valid.numpy()[..., None], out=found))

    def scatter(self, entries: Tensor, into: Tensor) -> Tensor:
        """``into`` with the active entries in their places."""
        index = self.index.expand(*entries.shape[:-2], *self.index.shape)
        kept = torch.where(self.valid, entries, torch.gather(into, -1, index))
        return into.scatter(-1, index, kept)


def active_rows(mask: Tensor) -> Active:
    """Pack a mask ``(B, M)``, in order; what fills up are rows that are not active."""
    width = int(mask.sum(-1).max()) if mask.numel() else 0
    order = mask * torch.arange(mask.shape[-1], 0, -1, device=mask.device)
    entries, index = torch.topk(order, width, -1)
    return Active(index, entries != 0)


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
    mask: Tensor
    active: Active
    Y: Tensor
    R: Tensor
    other: tuple[Tensor, Tensor] | None
    least: Tensor

    def product(self, u: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of :meth:`solve`: Qu + Wᵀμ and Wu."""
        Q, C = self.scaled.Q, self.scaled.rows.C
        return product(u, Q) + product(mu, C), self.mask * times(C, u)

    def solve(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """u and μ for a ``(*lead, B, n)`` and c ``(*lead, B, M)``.

        c must be zero where a row is not active, and μ is zero there.
        """
        L, Y, R = self.scaled.L, self.Y, self.R
        lead, inverse = a.shape[:-2], self.scaled.inverse
        index = self.active.index.expand(*lead, -1, -1) if lead else self.active.index
        a, packed = _columns(a), _columns(torch.gather(c * inverse, -1, index))
        t = torch.linalg.solve_triangular(L, a, upper=False)
        mu = torch.linalg.solve_triangular(R, _apply(Y, t) - packed, upper=False)
        mu = torch.linalg.solve_triangular(R.mT, mu, upper=True)
        u = torch.linalg.solve_triangular(L.mT, t - _apply(Y.mT, mu), upper=True)
        if self.other is not None:
            where, inverses = self.other
            both = inverses @ torch.cat([a[where], packed[where]], -2)
            u = u.index_copy(0, where, both[:, : u.shape[-2]])
            rows = both[:, u.shape[-2] :] * self.active.valid[where].unsqueeze(-1)
            mu = mu.index_copy(0, where, rows)
        every = torch.zeros_like(c).scatter_(-1, index, _rows(mu, lead)).mul_(inverse)
        return _rows(u, lead), every


def _apply(matrix: Tensor, columns: Tensor) -> Tensor:
    """M C, by the way that is fast for a single column."""
    if columns.shape[-1] == 1:
        return torch.from_numpy(np.matmul(matrix.numpy(), columns.numpy()))
    return matrix @ columns


def _columns(vectors: Tensor) -> Tensor:
    """``(*lead, B, n)`` as ``(B, n, lead)``."""
    if vectors.dim() == 2:
        return vectors.unsqueeze(-1)
    count, n = vectors.shape[-2:]
    return vectors.movedim(-2, 0).reshape(count, math.prod(vectors.shape[:-2]), n).mT


def _rows(columns: Tensor, lead: torch.Size) -> Tensor:
    """The reverse of :func:`_columns`."""
    if not lead:
        return columns.squeeze(-1)
    return columns.mT.reshape(len(columns), *lead, columns.shape[-2]).movedim(0, -2)


def factored(scaled: Scaled, mask: Tensor) -> Factor:
    """Factor the KKT matrices of the active rows, a mask ``(B, M)``."""
    active = active_rows(mask)
    Y = active.rows(scaled.N)
    S = _gram(scaled, active) if "gram" in vars(scaled) else torch.bmm(Y, Y.mT)
    count, width = active.index.shape
    S.numpy().reshape(count, -1)[:, :: width + 1] += ~active.valid.numpy()
    R, info = torch.linalg.cholesky_ex(S)
    least = torch.zeros(count, dtype=torch.bool)
    # The rows of Y have length 1, so that the pivots need no scale.
    pivots = torch.diagonal(R, dim1=-2, dim2=-1)
    usual = bool(scaled.definite.all()) and not bool(info.any())
    if usual and (not width or float(pivots.amin()) > _DEPENDENT):
        return Factor(scaled, mask, active, Y, R, None, least)
    sound = scaled.definite & (info == 0)
    if width:
        sound &= pivots.amin(-1) > _DEPENDENT
    where = torch.nonzero(~sound).squeeze(-1)
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    R = torch.where(sound[:, None, None], R, eye)
    Y = torch.where(sound[:, None, None], Y, 0)
    inverses = _inverses(scaled, active, where, least)
    return Factor(scaled, mask, active, Y, R, (where, inverses), least)


def _gram(scaled: Scaled, active: Active) -> Tensor:
    """YYᵀ from NNᵀ."""
    gram, index = scaled.gram, active.index
    sample = torch.arange(len(index)).reshape(-1, 1, 1) if len(gram) > 1 else 0
    S = gram[sample, index.unsqueeze(-1), index.unsqueeze(-2)]
    return S.mul_(active.valid.unsqueeze(-1) & active.valid.unsqueeze(-2))


def _inverses(scaled: Scaled, active: Active, where: Tensor, least: Tensor) -> Tensor:
    """The (pseudo-)inverses of some KKT matrices; ``least`` is told which are pseudo.

    For rows of N of length 1, as the factors of the others are.
    """
    some = Active(active.index[where], active.valid[where])
    C = scaled.rows.C if len(scaled.rows.C) == 1 else scaled.rows.C[where]
    size = scaled.size.expand(len(active.index), 1)[where]
    Q = scaled.Q.expand(len(active.index), -1, -1)[where] / size.unsqueeze(-1)
    # Of multipliers the least norm is meant that they have for the rows as they were given, and so
    # these are brought to size one together and not one by one.
    rows = some.rows(C)
    longest = torch.ones_like(size)
    if rows.shape[-2]:
        longest = torch.linalg.vector_norm(rows, dim=-1).amax(-1, keepdim=True)
        longest = torch.where(longest > 0, longest, 1)
    rows = rows / longest.unsqueeze(-1)
    corner = torch.diag_embed((~some.valid).to(Q.dtype))
    K = torch.cat([torch.cat([Q, rows.mT], -1), torch.cat([rows, corner], -1)], -2)
    # K is symmetric, and so its pseudo-inverse comes from its eigenvectors. A value that is as
    # good as zero there belongs to multipliers that cancel, or to a direction without curvature.
    values, vectors = torch.linalg.eigh(K)
    zero = values.abs() <= _SINGULAR * values.abs().amax(-1, keepdim=True)
    inverse = (vectors * torch.where(zero, 0, 1 / values).unsqueeze(-2)) @ vectors.mT
    # In the second case x is not unique, and what a loss asks of it there has no derivative: the
    # residual of that part will say so. In the first the answer of least norm is the one meant.
    inside = vectors[..., : Q.shape[-1], :].square().sum(-2)
    flat = (zero & (inside > _FLAT)).any(-1)
    least[where] = zero.any(-1) & ~flat
    # K is that of u, μ longest / size and of a / size, c / longest; and the rows have length 1.
    n = Q.shape[-1]
    shrunk = active.gather(1 / scaled.inverse.expand(len(active.index), -1))[where]
    into = torch.cat([(1 / size).expand(-1, n), shrunk / longest], -1)
    back = torch.cat([torch.ones_like(Q[..., 0]), shrunk * (size / longest)], -1)
    return inverse * back.unsqueeze(-1) * into.unsqueeze(-2)
