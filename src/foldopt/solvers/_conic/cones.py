"""Products of cones, and symmetric matrices as vectors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from foldopt import projections

__all__ = ["Cones", "smat", "svec"]


@dataclasses.dataclass(frozen=True)
class Cones:
    r"""Which cone each row of a conic program lies in, always in this order.

    The rows of s ∈ K are those of

    1. zero: s = 0;
    2. nonnegative: s ≥ 0;
    3. second_order: (t, x) with \|x\| ≤ t, t first, as in ``projections.second_order_cone``;
    4. exponential: (a, b, c), the closure of b > 0, b exp(a/b) ≤ c, as in
       ``projections.exponential_cone``;
    5. semidefinite: :func:`svec` of a positive semidefinite matrix.

    Parameters
    ----------
    zero, nonnegative
        How many rows.
    second_order
        The number of rows of each cone, t included.
    exponential
        How many cones, of three rows each.
    semidefinite
        The order k of each matrix; it takes k(k + 1)/2 rows.

    Examples
    --------
    >>> from foldopt import solvers
    >>> solvers.Cones(zero=1, second_order=(3, 4), semidefinite=(2,)).rows
    11
    """

    zero: int = 0
    nonnegative: int = 0
    second_order: tuple[int, ...] = ()
    exponential: int = 0
    semidefinite: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("zero", "nonnegative", "exponential"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(
                    f"solvers.Cones: {name} must be an integer of 0 or more, got {value!r}"
                )
        for name in ("second_order", "semidefinite"):
            sizes = getattr(self, name)
            fits = isinstance(sizes, (tuple, list)) and all(
                isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in sizes
            )
            if not fits:
                raise ValueError(
                    f"solvers.Cones: {name} must be a tuple of integers of 1 or more, one for each "
                    f"cone, got {sizes!r}"
                )
            object.__setattr__(self, name, tuple(sizes))

    @property
    def rows(self) -> int:
        """How many rows all cones have together."""
        matrices = sum(k * (k + 1) // 2 for k in self.semidefinite)
        return (
            self.zero + self.nonnegative + sum(self.second_order) + 3 * self.exponential + matrices
        )

    def blocks(self) -> Iterator[tuple[str, int]]:
        """Kind and number of rows of each block: one for all linear rows of a kind, else a cone."""
        yield "zero", self.zero
        yield "nonnegative", self.nonnegative
        for size in self.second_order:
            yield "second_order", size
        for _ in range(self.exponential):
            yield "exponential", 3
        for k in self.semidefinite:
            yield "semidefinite", k * (k + 1) // 2

    def project(self, y: Tensor) -> Tensor:
        """The point of K next to y, ``(*batch, rows)``."""
        if not y.shape[-1]:
            return y
        kinds, sizes = zip(*self.blocks(), strict=True)
        parts = zip(kinds, y.split(list(sizes), -1), strict=True)
        return torch.cat(
            [_PROJECT[kind](part) if part.shape[-1] else part for kind, part in parts], -1
        )


def svec(X: Tensor) -> Tensor:
    r"""Write a symmetric matrix as the vector of its lower triangle, row by row.

    Entries beside the diagonal are multiplied by √2, so that ``svec(X) @ svec(Y)`` is
    :math:`\operatorname{tr} X Y` and lengths are kept: to project a vector on the semidefinite
    cone, ``svec(projections.positive_semidefinite(smat(y)))``.

    Parameters
    ----------
    X
        Symmetric, ``(*batch, k, k)``; only the lower triangle is read.

    Returns
    -------
    Tensor
        ``(*batch, k(k + 1)/2)``: :math:`X_{11}, \sqrt2 X_{21}, X_{22}, \sqrt2 X_{31}, \dots`

    Raises
    ------
    ValueError
        If X is not a square matrix.

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> solvers.svec(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
    tensor([1.0000, 2.8284, 3.0000])
    """
    if X.dim() < 2 or X.shape[-1] != X.shape[-2]:
        raise ValueError(f"solvers.svec: X must have shape (*batch, k, k), got {tuple(X.shape)}")
    row, column = torch.tril_indices(X.shape[-1], X.shape[-1], device=X.device)
    return X[..., row, column] * _weights(row, column, X.dtype)


def smat(y: Tensor) -> Tensor:
    """Make a symmetric matrix of a vector, as :func:`svec` wrote it.

    Parameters
    ----------
    y
        ``(*batch, k(k + 1)/2)``.

    Returns
    -------
    Tensor
        Symmetric, ``(*batch, k, k)``.

    Raises
    ------
    ValueError
        If no k has that many entries.

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> solvers.smat(torch.tensor([1.0, 2.0**1.5, 3.0]))
    tensor([[1., 2.],
            [2., 3.]])
    """
    length = y.shape[-1] if y.dim() else 0
    k = (math.isqrt(8 * length + 1) - 1) // 2
    if not length or k * (k + 1) // 2 != length:
        raise ValueError(
            f"solvers.smat: y must have shape (*batch, k(k + 1)/2), got {tuple(y.shape)}"
        )
    row, column = torch.tril_indices(k, k, device=y.device)
    place = torch.zeros(k, k, dtype=torch.int64, device=y.device)
    place[row, column] = place[column, row] = torch.arange(length, device=y.device)
    return (y / _weights(row, column, y.dtype))[..., place]


def _weights(row: Tensor, column: Tensor, dtype: torch.dtype) -> Tensor:
    ones = torch.ones(len(row), dtype=dtype, device=row.device)
    return torch.where(row == column, ones, math.sqrt(2.0) * ones)


_PROJECT = {
    "zero": torch.zeros_like,
    "nonnegative": torch.relu,
    "second_order": projections.second_order_cone,
    "exponential": projections.exponential_cone,
    "semidefinite": lambda y: svec(projections.positive_semidefinite(smat(y))),
}
