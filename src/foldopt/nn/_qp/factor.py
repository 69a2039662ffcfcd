"""The KKT matrix of a working set, factored once for every right-hand side.

With the rows W that are active, the optimality conditions of min ½xᵀQx + pᵀx are linear:

    [Q  Wᵀ] [x]   [−p]
    [W  0 ] [λ] = [ w ],

and the adjoint system of the layer has the same matrix. Where Q is positive definite, Q = LLᵀ and
Y = L⁻¹Wᵀ turn it into two small triangular systems (the range-space method): with S = YᵀY,

    t = L⁻¹a,   Sμ = Yᵀt − c,   u = L⁻ᵀ(t − Yμ)      solve   Qu + Wᵀμ = a,  Wu = c.

Where Q has no such factor, or the active rows are dependent, the matrix itself is inverted, or its
pseudo-inverse taken: that gives the multipliers of least norm.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

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
    active
        The rows.
    Q, W
        The matrix, ``(B, n, n)`` or ``(1, n, n)``, and the active rows, ``(B, r, n)``.
    L, Y, R
        Factors of Q, L⁻¹Wᵀ, and those of S; ``(B or 1, n, n)``, ``(B, n, r)``, ``(B, r, r)``.
    other
        The samples that this does not serve, and the (pseudo-)inverses of their KKT matrices.
    least
        Which samples have a pseudo-inverse only because rows depend on one another, ``(B,)``.
    """

    active: Active
    Q: Tensor
    W: Tensor
    L: Tensor
    Y: Tensor
    R: Tensor
    other: tuple[Tensor, Tensor] | None
    least: Tensor

    def product(self, u: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of :meth:`solve`."""
        return matvec(self.Q, u) + matvec(self.W.mT, mu), matvec(self.W, u)

    def solve(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """u and μ for a ``(*lead, B, n)`` and the active entries c ``(*lead, B, r)``.

        Entries of c that are not valid must be zero; those of μ are then.
        """
        lead = a.shape[:-2]
        width = math.prod(lead)
        a = a.movedim(-2, 0).reshape(len(self.Y), width, a.shape[-1]).mT  # (B, n, lead)
        c = c.movedim(-2, 0).reshape(len(self.Y), width, c.shape[-1]).mT
        t = torch.linalg.solve_triangular(self.L, a, upper=False)
        mu = torch.cholesky_solve(self.Y.mT @ t - c, self.R)
        u = torch.linalg.solve_triangular(self.L.mT, t - self.Y @ mu, upper=True)
        if self.other is not None:
            where, inverse = self.other
            both = inverse @ torch.cat([a[where], c[where]], -2)
            u = u.index_copy(0, where, both[:, : u.shape[-2]])
            mu = mu.index_copy(0, where, both[:, u.shape[-2] :])

        def restored(found: Tensor) -> Tensor:
            return found.mT.reshape(len(found), *lead, found.shape[-2]).movedim(0, -2)

        return restored(u), restored(mu)


def factored(
    Q: Tensor,
    L: Tensor,
    definite: Tensor,
    W: Tensor,
    Y: Tensor,
    active: Active,
    length: Tensor,
) -> Factor:
    """Factor the KKT matrices of some active rows.

    Parameters
    ----------
    Q
        ``(B, n, n)`` or ``(1, n, n)``, symmetric, of size 1 or so.
    L
        Its Cholesky factor, or the identity where there is none.
    definite
        Where there is one, ``(B,)``.
    W, Y
        The active rows ``(B, r, n)`` and L⁻¹Wᵀ ``(B, n, r)``, zeros where not valid.
    active
        Where they come from.
    length
        What the rows have been divided by, ``(B, r)``.
    """
    count = active.index.shape[-1]
    S = Y.mT @ Y
    one = (~active.valid).to(S.dtype)
    size = torch.diagonal(S, dim1=-2, dim2=-1).clamp_min(torch.finfo(S.dtype).tiny).sqrt()
    R, info = torch.linalg.cholesky_ex(S + torch.diag_embed(one))
    pivots = torch.diagonal(R, dim1=-2, dim2=-1) / torch.where(active.valid, size, 1)
    sound = definite & (info == 0)
    if count:
        sound = sound & (pivots.amin(-1) > _DEPENDENT)
    least = torch.zeros_like(definite)
    if bool(sound.all()):
        return Factor(active, Q, W, L, Y, R, None, least)
    where = torch.nonzero(~sound).squeeze(-1)
    eye = torch.eye(count, dtype=R.dtype, device=R.device)
    R = torch.where(sound[:, None, None], R, eye)
    Y = torch.where(sound[:, None, None], Y, 0)
    inverses = _inverses(Q, W, active, length, where, least)
    return Factor(active, Q, W, L, Y, R, (where, inverses), least)


def _inverses(
    Q: Tensor, W: Tensor, active: Active, length: Tensor, where: Tensor, least: Tensor
) -> Tensor:
    """The (pseudo-)inverses of some KKT matrices; ``least`` is told which are pseudo."""
    # Of multipliers the least norm is meant that they have for the rows as they were given, and so
    # these are brought to size one together and not one by one.
    valid = active.valid[where]
    ratio = torch.where(valid, length[where], 0)
    if ratio.shape[-1]:
        ratio = ratio / ratio.amax(-1, keepdim=True).clamp_min(torch.finfo(W.dtype).tiny)
    ratio = torch.where(valid, ratio, 1)
    rows = W[where] * ratio.unsqueeze(-1)
    Q = Q.expand(len(W), -1, -1)[where]
    corner = torch.diag_embed((~valid).to(Q.dtype))
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
    scale = torch.cat([torch.ones_like(Q[..., 0]), ratio], -1)
    return inverse * scale.unsqueeze(-1) * scale.unsqueeze(-2)
