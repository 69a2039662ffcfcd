"""The adjoint system of total variation with an operator, solved with factors that are there."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from foldopt.linear import Dense, LinearOperator, LinearSolution
from foldopt.linear._common import finish, norm
from foldopt.nn._total_variation.step import Products
from foldopt.status import Status

__all__ = ["Adjoint", "Rows"]


class Rows(Protocol):
    """The free rows of each sample, with factors, on the CPU and in float64."""

    @property
    def free(self) -> Tensor:
        """Which rows are free, ``(B, m)``."""
        ...

    @property
    def least(self) -> Tensor:
        """The samples whose free rows depend on one another, ``(B,)``."""
        ...

    @property
    def products(self) -> Products:
        """With D."""
        ...

    def solve(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """u and μ of u + D_Fᵀμ = a, D_F u = c for ``(*lead, B, n)`` and ``(*lead, B, m)``.

        Of c only the free rows count, and μ is zero elsewhere. Where rows depend on one another, μ
        is of least norm.
        """
        ...


class Adjoint:
    """(I − Φᵀ) v = g for the step of total variation, with the factors of the forward pass."""

    def __init__(self) -> None:
        self.rows: Rows | None = None

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution:
        """v for right-hand sides ``(*lead, B, n + m)``."""
        rows = self.rows
        if rows is None or len(rows.free) != b.shape[-2]:
            # Under vmap many programs are differentiated together, of which this knows one.
            return Dense(least_squares=True).solve(operator, b)
        n = b.shape[-1] - rows.free.shape[-1]
        right = b.double().cpu()
        a, c = right[..., :n], right[..., n:]
        u, mu = rows.solve(a, c)
        products = rows.products
        back = torch.where(rows.free, products.forward(u), 0)
        asked = torch.where(rows.free, c, 0)
        residual = torch.cat([a - u - products.transposed(mu), asked - back], -1)
        eps = torch.finfo(b.dtype).eps
        reach = eps**0.7 * norm(right) + 64 * eps * n**0.5 * (norm(u) + norm(mu))
        found = finish(right, u, residual, reach, 1, Status.BREAKDOWN, "free rows")
        status = found.status
        # Where rows depend on one another, a part of a multiplier's cotangent is left that no v
        # can give.
        least = rows.least & Status.failed(status)
        status = torch.where(least, int(Status.LEAST_SQUARES), status)
        # A row that is held is its own equation.
        value = torch.cat([u, torch.where(rows.free, mu, c)], -1)
        return LinearSolution(
            value.to(b),
            status.to(b.device),
            found.iterations.to(b.device),
            found.residual.to(b),
            found.method,
            not bool(Status.failed(status).any()),
        )
