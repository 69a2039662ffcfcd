"""Nonconvex quadratic programs, and a solver of them in this process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foldopt.solvers.global_qp import GlobalQP
from tests import quadratic

F64 = torch.float64
INF = float("inf")


def here(engine: Any, **settings: Any) -> GlobalQP:
    """A solver that starts no processes, which takes longer than these programs."""
    return GlobalQP(engine, executor="serial", **settings)


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=F64)


def value(Q: Tensor, p: Tensor, x: Tensor) -> Tensor:
    return 0.5 * (x * quadratic.apply(Q, x)).sum(-1) + (p * x).sum(-1)


def bilinear(*seeds: int, n: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """max cᵀx + xᵀMy + dᵀy, 0 ≤ x, y ≤ 1, Σx = 1, Σy = 2, as (Q, p, A, b), with z = (x, y)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    data = torch.stack([torch.randn(n + 2, n, dtype=F64, generator=each) for each in generators])
    M, c, d = data[:, :n], data[:, n], data[:, n + 1]
    zero = torch.zeros_like(M)
    Q = -torch.cat([torch.cat([zero, M], -1), torch.cat([M.mT, zero], -1)], -2)
    A = torch.kron(torch.eye(2, dtype=F64), torch.ones(1, n, dtype=F64))
    return Q, -torch.cat([c, d], -1), A, tensor(1.0, 2.0)
