"""Derivatives and KKT matrices of a whole batch, dense: for programs of up to some fifty variables.

The matrix of the active rows W, brought to one scale by S = diag(s), is taken apart once:

    S [H Wᵀ; W 0] S = V Λ Vᵀ.

Λ tells all that there is to know: its smallest entry whether the matrix is singular, its signs
whether the second-order condition holds (n positive ones and one negative for each active row: N.
Gould, Math. Program. 32 (1985), 90–99), and the solution of every right-hand side is a product.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from foldopt.nn._nlp.model import Model, Point
from foldopt.operators._inverse import matvec

__all__ = ["DenseFactor", "DenseLocal", "dense_at"]

# Eigenvalues below this, relative to the largest, count as zero.
_SINGULAR = 1e-12
_SCALINGS = 6


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
    """Pack a mask ``(B, M)``, in order; what fills up are rows that are not active."""
    width = int(mask.sum(-1).max()) if mask.numel() else 0
    order = mask * torch.arange(mask.shape[-1], 0, -1, device=mask.device)
    entries, index = torch.topk(order, width, -1)
    return Active(index, entries != 0)


@dataclasses.dataclass(frozen=True)
class DenseLocal:
    """Values and derivatives at a point.

    Attributes
    ----------
    value, gradient, g, h
        f ``(B,)``, ∇f ``(B, n)``, g ``(B, m)`` and h ``(B, k)``.
    J, H
        The Jacobian of (g, h), ``(B, m + k, n)``, and the Hessian of the Lagrangian.
    bounded
        Whether the variables have bounds: then the rows of the identity stand below those of J.
    """

    value: Tensor
    gradient: Tensor
    g: Tensor
    h: Tensor
    J: Tensor
    H: Tensor
    bounded: bool

    @property
    def lengths(self) -> Tensor:
        """The length of each row of J, 1 for a row of zeros."""
        length = torch.linalg.vector_norm(self.J, dim=-1)
        return torch.where(length > 0, length, 1)

    @property
    def size(self) -> Tensor:
        """The largest entry of H, ``(B,)``."""
        return self.H.abs().amax((-2, -1))

    def pull(self, multipliers: Tensor) -> Tensor:
        """Jᵀ w."""
        return matvec(self.J.mT, multipliers)

    def change(self, other: DenseLocal, du: Tensor, dmu: Tensor) -> tuple[Tensor, Tensor]:
        """(K' − K) d, with K' from ``other`` and d a step in x and the multipliers."""
        J, count = other.J - self.J, self.J.shape[-2]
        rows = torch.cat([matvec(J, du), torch.zeros_like(dmu[..., count:])], -1)
        return matvec(other.H - self.H, du) + matvec(J.mT, dmu[..., :count]), rows

    def factor(self, held: Tensor) -> DenseFactor:
        """The KKT matrix with the rows ``held``, ``(B, m + k (+ n))``, factored."""
        rows = self.J
        samples, n = self.gradient.shape
        if self.bounded:
            eye = torch.eye(n, dtype=rows.dtype, device=rows.device).expand(samples, -1, -1)
            rows = torch.cat([rows, eye], -2)
        active = active_rows(held)
        index = active.index.unsqueeze(-1).expand(-1, -1, n)
        W = torch.where(active.valid.unsqueeze(-1), torch.gather(rows, 1, index), 0)
        return _factored(self.H, W, active)


@dataclasses.dataclass(frozen=True)
class DenseFactor:
    """See the head of this file."""

    n: int
    active: Active
    K: Tensor
    scale: Tensor
    values: Tensor
    vectors: Tensor

    @property
    def samples(self) -> int:
        return len(self.values)

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def singular(self) -> Tensor:
        """Where the matrix is singular to working precision, ``(B,)``."""
        size = self.values.abs()
        return ~(size.amin(-1) > _SINGULAR * size.amax(-1))

    @property
    def minimum(self) -> Tensor:
        """Where the second-order condition holds, if the matrix is not singular, ``(B,)``."""
        return (self.values > 0).sum(-1) == self.n

    @property
    def weakest(self) -> Tensor:
        """The least force that it takes to move a variable by 1, to first order; ``(B,)``."""
        inverse = (self.vectors.square() / self.values.abs().unsqueeze(-2)).sum(-1)
        inverse = (inverse * self.scale.square())[:, : self.n].amax(-1)
        return 1 / inverse

    def solve(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """u and μ with Hu + Wᵀμ = a, Wu = c: a ``(*lead, B, n)``, c and μ ``(*lead, B, M)``.

        Entries of rows that are not held are not looked at in c, and zero in μ. A singular matrix:
        by its pseudo-inverse.
        """
        size = self.values.abs()
        zero = ~(size > _SINGULAR * size.amax(-1, keepdim=True))
        inverse = torch.where(zero, 0, 1 / torch.where(zero, 1, self.values))
        right = torch.cat([a, self.active.gather(c)], -1)
        found = torch.zeros_like(right)
        for _ in range(2):  # the second takes out the rounding errors of the first
            rest = right - matvec(self.K, found)
            part = matvec(self.vectors.mT, rest * self.scale) * inverse
            found = found + matvec(self.vectors, part) * self.scale
        return found[..., : self.n], self._scattered(found, c)

    def product(self, u: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of :meth:`solve`."""
        found = matvec(self.K, torch.cat([u, self.active.gather(mu)], -1))
        return found[..., : self.n], self._scattered(found, mu)

    def _scattered(self, found: Tensor, like: Tensor) -> Tensor:
        return self.active.scatter(found[..., self.n :], torch.zeros_like(like))

    def one(self, sample: int) -> tuple[Tensor, Tensor, Tensor]:
        """H, W and the numbers of the rows of one sample."""
        valid, n = self.active.valid[sample], self.n
        K = self.K[sample]
        return K[:n, :n], K[n:, :n][valid], self.active.index[sample][valid]

    def held(self, like: Tensor) -> Tensor:
        """Which rows are held, in the shape of ``like``: ``(*lead, B, M)``."""
        none = torch.zeros_like(like, dtype=torch.bool)
        valid = self.active.valid.expand(*like.shape[:-2], -1, -1)
        return self.active.scatter(valid, none)


def _factored(H: Tensor, W: Tensor, active: Active) -> DenseFactor:
    # A row that is only there to fill up is a multiplier of its own, with −1 on the diagonal: of
    # the sign that a constraint's multiplier has among the eigenvalues.
    corner = -torch.diag_embed((~active.valid).to(H.dtype))
    K = torch.cat([torch.cat([H, W.mT], -1), torch.cat([W, corner], -1)], -2)
    finite = torch.isfinite(K).flatten(1).all(-1)[:, None, None]
    K = torch.where(finite, K, torch.eye(K.shape[-1], dtype=K.dtype, device=K.device))
    scaled, scale = K, torch.ones_like(K[..., 0])
    for _ in range(_SCALINGS):  # each halves the logarithms of the rows' sizes
        row = scaled.abs().amax(-1).sqrt()
        row = torch.where(row > 0, row, 1)
        scaled = scaled / row.unsqueeze(-1) / row.unsqueeze(-2)
        scale = scale / row
    values, vectors = torch.linalg.eigh(scaled)
    return DenseFactor(H.shape[-1], active, K, scale, values, vectors)


def dense_at(model: Model, point: Point, params: tuple[Any, ...]) -> DenseLocal:
    """Everything at a point: one vmapped pass for first derivatives and one for second ones."""
    program, (x, lam, nu, mu) = model.program, point

    def joined(y: Tensor, *c: Any) -> tuple[Tensor, Tensor]:
        f = program.checked_value(program.objective(y, *c)).reshape(1)
        found = torch.cat([f, program.inequalities(y, c), program.equalities(y, c)])
        return found, found

    J, values = program.each(torch.func.jacrev(joined, has_aux=True), x, params)
    J, values = J.detach(), values.detach()
    value, g, h = values.split([1, lam.shape[-1], nu.shape[-1]], -1)
    H = program.hessian(x, lam, nu, params).detach()
    return DenseLocal(value[:, 0], J[:, 0], g, h, J[:, 1:], H, mu.shape[-1] > 0)
