"""Products of the cones that CVXPY knows, in the order of its rows."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor

from foldopt import projections
from foldopt.projections import power_cone
from foldopt.solvers._conic.cones import smat, svec

__all__ = ["Cones", "Group", "scs_order"]


@dataclasses.dataclass(frozen=True)
class Group:
    """Cones of one kind and size.

    Attributes
    ----------
    kind
        ``"zero"``, ``"nonnegative"``, ``"second_order"``, ``"semidefinite"``, ``"exponential"`` or
        ``"power"``.
    rows
        Which rows they have, ``(count, size)``; linear rows are cones of size 1.
    alpha
        The exponents of power cones, ``(count,)``.
    """

    kind: str
    rows: np.ndarray
    alpha: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cones:
    """Which cone each row of Ax + s = b lies in, always in this order.

    Attributes
    ----------
    zero, nonnegative
        How many rows.
    second_order
        The size of each cone, its first entry included.
    semidefinite
        The order k of each matrix, of which the lower triangle stands there row by row, with the
        entries beside the diagonal multiplied by √2.
    exponential
        How many cones, of three rows each.
    power
        The exponent α of each cone of three rows.
    """

    zero: int = 0
    nonnegative: int = 0
    second_order: tuple[int, ...] = ()
    semidefinite: tuple[int, ...] = ()
    exponential: int = 0
    power: tuple[float, ...] = ()

    @property
    def linear(self) -> int:
        """How many rows are in the zero cone and the nonnegative cone."""
        return self.zero + self.nonnegative

    @functools.cached_property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(group.rows.size for group in self.groups)

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """All cones, those of one kind and size together."""
        found = [
            Group("zero", np.arange(self.zero)[:, None]),
            Group("nonnegative", np.arange(self.zero, self.linear)[:, None]),
        ]
        start = self.linear
        sizes = np.array(self.second_order, dtype=np.int64)
        found += _by_size("second_order", sizes, start)
        start += int(sizes.sum())
        orders = np.array(self.semidefinite, dtype=np.int64)
        sizes = orders * (orders + 1) // 2
        found += _by_size("semidefinite", sizes, start)
        start += int(sizes.sum())
        found.append(Group("exponential", start + np.arange(3 * self.exponential).reshape(-1, 3)))
        start += 3 * self.exponential
        three = start + np.arange(3 * len(self.power)).reshape(-1, 3)
        found.append(Group("power", three, self.power))
        return tuple(group for group in found if group.rows.size)

    @property
    def kinds(self) -> set[str]:
        """The kinds of cones that are there."""
        return {group.kind for group in self.groups}

    def __post_init__(self) -> None:
        # Tensors are made here, and not when they are first used: that may be inside a transform of
        # torch.func, which they may not outlive.
        _ = self.largest, self._order

    @functools.cached_property
    def _order(self) -> Tensor:
        """Where each row stands among the rows of all groups, one group after the other."""
        rows = [group.rows.ravel() for group in self.groups]
        return torch.from_numpy(np.argsort(np.concatenate([*rows, np.zeros(0, dtype=np.int64)])))

    @functools.cached_property
    def largest(self) -> Tensor:
        """For each row the first row of its cone, ``(m,)``."""
        found = np.empty(self.rows, dtype=np.int64)
        for group in self.groups:
            found[group.rows] = group.rows[:, :1]
        return torch.from_numpy(found)

    def project(self, v: Tensor) -> Tensor:
        """The point of the dual cone K* next to v, ``(*batch, m)``."""
        if not self.groups:
            return v
        parts = []
        for group in self.groups:
            rows = torch.from_numpy(group.rows)
            part = v[..., rows.flatten().to(v.device)].unflatten(-1, rows.shape)
            parts.append(project_group(group, part).flatten(-2))
        return torch.cat(parts, -1)[..., self._order.to(v.device)]


def project_group(group: Group, v: Tensor) -> Tensor:
    """The point of the dual cones of a group next to v, ``(*batch, count, size)``.

    Those cones that are not self-dual come by Moreau's decomposition v = Π_K*(v) − Π_K(−v).
    """
    if group.kind == "zero":
        return v
    if group.kind == "nonnegative":
        return torch.relu(v)
    if group.kind == "second_order":
        return projections.second_order_cone(v)
    if group.kind == "semidefinite":
        return svec(projections.positive_semidefinite(smat(v)))
    if group.kind == "exponential":
        return v + projections.exponential_cone(-v)
    alpha = torch.tensor(group.alpha, dtype=v.dtype, device=v.device)
    return v + power_cone(-v, alpha)


def _by_size(kind: str, sizes: np.ndarray, start: int) -> list[Group]:
    starts = start + np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return [
        Group(kind, starts[sizes == size][:, None] + np.arange(size)) for size in np.unique(sizes)
    ]


def scs_order(cones: Cones) -> np.ndarray:
    """Our rows in SCS's order: its lower triangles go by columns, ours by rows."""
    found = np.arange(cones.rows)
    for group in cones.groups:
        if group.kind == "semidefinite":
            k = int((8 * group.rows.shape[1] + 1) ** 0.5 - 1) // 2
            place = np.zeros((k, k), dtype=np.int64)
            place[np.tril_indices(k)] = np.arange(group.rows.shape[1])
            found[group.rows] = group.rows[:, place.T[np.triu_indices(k)]]
    return found
