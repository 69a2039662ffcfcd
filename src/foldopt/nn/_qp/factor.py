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
import functools
import math

import torch
from torch import Tensor

from foldopt.nn._qp.scaled import Scaled, product, times
from foldopt.operators._inverse import matvec

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
        """The active rows of ``(B or 1, M, n)``, zeros in the place of those that are not."""
        count, width = self.index.shape
        index = self.index
        if len(of) > 1:
            index = index + of.shape[-2] * torch.arange(count, device=index.device).unsqueeze(-1)
        found = of.reshape(-1, of.shape[-1]).index_select(0, index.reshape(-1))
        found = found.reshape(count, width, of.shape[-1])
        return found.mul_(self.valid.unsqueeze(-1))

    def scatter(self, entries: Tensor, into: Tensor) -> Tensor:
        """``into`` with the active entries in their places."""
        index = self.index.expand(*entries.shape[:-2], *self.index.shape)
        kept = torch.where(self.valid, entries, torch.gather(into, -1, index))
        return into.scatter(-1, index, kept)


def active_rows(mask: Tensor) -> Active:
    """Pack a mask ``(B, M)``."""
    width = int(mask.sum(-1).max()) if mask.numel() else 0
    index = torch.argsort(mask.to(torch.int8), dim=-1, descending=True, stable=True)[:, :width]
    return Active(index, torch.gather(mask, -1, index))


@dataclasses.dataclass(frozen=True)
class Factor:
    """See the head of this file.

    Attributes
    ----------
    scaled, active
        The program, and its active rows.
    Y, R, shrunk
        WL⁻ᵀ with rows of length 1, the Cholesky factor of YYᵀ, and by what the rows have been
        divided; ``(B, r, n)``, ``(B, r, r)``, ``(B, r)``.
    other
        The samples that these do not serve, and the (pseudo-)inverses of their KKT matrices.
    least
        Which samples have a pseudo-inverse only because rows depend on one another, ``(B,)``.
    """

    scaled: Scaled
    active: Active
    Y: Tensor
    R: Tensor
    shrunk: Tensor
    other: tuple[Tensor, Tensor] | None
    least: Tensor

    @functools.cached_property
    def units(self) -> Tensor:
        """By what the rows of the KKT matrix are multiplied to have size 1, ``(B, n + r)``."""
        scaled, (count, n) = self.scaled, self.scaled.p.shape
        length = self.active.gather(scaled.rows.length.expand(count, -1))
        length = torch.where(self.active.valid, length, 1)
        return torch.cat([(1 / scaled.size).expand(count, n), 1 / length], -1)

    def product(self, u: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of :meth:`solve`: Qu + Wᵀμ and Wu."""
        Q, C = self.scaled.Q, self.scaled.rows.C
        every = self.active.scatter(mu, mu.new_zeros(*mu.shape[:-1], C.shape[-2]))
        values = self.active.gather(times(C, u))
        return product(u, Q) + product(every, C), values

    def solve(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """u and μ for a ``(*lead, B, n)`` and the active entries c ``(*lead, B, r)``.

        Entries of c that are not valid must be zero; those of μ are then.
        """
        L, Y, R = self.scaled.L, self.Y, self.R
        lead = a.shape[:-2]
        a, c = _columns(a), _columns(c)
        shrunk = self.shrunk.unsqueeze(-1)
        t = torch.linalg.solve_triangular(L, a, upper=False)
        mu = torch.cholesky_solve(_apply(Y, t) - c / shrunk, R)
        u = torch.linalg.solve_triangular(L.mT, t - _apply(Y.mT, mu), upper=True)
        mu = mu / shrunk
        if self.other is not None:
            where, inverse = self.other
            both = inverse @ torch.cat([a[where], c[where]], -2)
            u = u.index_copy(0, where, both[:, : u.shape[-2]])
            mu = mu.index_copy(0, where, both[:, u.shape[-2] :])
        return _rows(u, lead), _rows(mu, lead)


def _apply(matrix: Tensor, columns: Tensor) -> Tensor:
    """M C, by the way that is fast for a single column."""
    if columns.shape[-1] == 1:
        return matvec(matrix, columns.squeeze(-1)).unsqueeze(-1)
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


def factored(scaled: Scaled, active: Active) -> Factor:
    """Factor the KKT matrices of some active rows."""
    Y = active.rows(scaled.N)
    shrunk = active.gather(scaled.shrunk.expand(len(scaled.p), -1))
    shrunk = torch.where(active.valid, shrunk, 1)
    S = _gram(scaled, active) if "gram" in vars(scaled) else Y @ Y.mT
    S.diagonal(dim1=-2, dim2=-1).add_((~active.valid).to(S.dtype))
    R, info = torch.linalg.cholesky_ex(S)
    # The rows of Y have length 1, so that the pivots need no scale.
    sound = scaled.definite & (info == 0)
    if active.index.shape[-1]:
        sound = sound & (torch.diagonal(R, dim1=-2, dim2=-1).amin(-1) > _DEPENDENT)
    least = torch.zeros_like(sound)
    if bool(sound.all()):
        return Factor(scaled, active, Y, R, shrunk, None, least)
    where = torch.nonzero(~sound).squeeze(-1)
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    R = torch.where(sound[:, None, None], R, eye)
    Y = torch.where(sound[:, None, None], Y, 0)
    inverses = _inverses(scaled, active, where, least)
    return Factor(scaled, active, Y, R, shrunk, (where, inverses), least)


def _gram(scaled: Scaled, active: Active) -> Tensor:
    """YYᵀ from NNᵀ."""
    gram, index = scaled.gram, active.index
    sample = torch.arange(len(index)).reshape(-1, 1, 1) if len(gram) > 1 else 0
    S = gram[sample, index.unsqueeze(-1), index.unsqueeze(-2)]
    return S.mul_(active.valid.unsqueeze(-1) & active.valid.unsqueeze(-2))


def _inverses(scaled: Scaled, active: Active, where: Tensor, least: Tensor) -> Tensor:
    """The (pseudo-)inverses of some KKT matrices; ``least`` is told which are pseudo."""
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
    # K is that of u, μ longest / size and of a / size, c / longest.
    n = Q.shape[-1]
    into = torch.cat([(1 / size).expand(-1, n), (1 / longest).expand(-1, rows.shape[-2])], -1)
    back = torch.cat([torch.ones_like(Q[..., 0]), (size / longest).expand(-1, rows.shape[-2])], -1)
    return inverse * back.unsqueeze(-1) * into.unsqueeze(-2)
