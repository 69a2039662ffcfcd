"""Conic programs with known solutions, and short ways to write tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foldopt.solvers._conic.cones import Cones

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=F64)


def disc(n: int) -> tuple[Tensor, Tensor, Cones]:
    """‖x‖ ≤ 1 as (1, x) in a cone: A, b, cones."""
    A = torch.cat([torch.zeros(1, n, dtype=F64), -torch.eye(n, dtype=F64)])
    return A, torch.eye(n + 1, dtype=F64)[0], Cones(second_order=(n + 1,))


def entropy(c: Tensor) -> tuple[Tensor, Tensor, Tensor, Cones]:
    """min cᵀx + Σ xᵢ log xᵢ, Σx = 1: (−tᵢ, xᵢ, 1) in the exponential cone; variables (x, t)."""
    n = c.shape[-1]
    A, b = torch.zeros(1 + 3 * n, 2 * n, dtype=F64), torch.zeros(1 + 3 * n, dtype=F64)
    A[0, :n] = b[0] = 1
    for i in range(n):
        A[1 + 3 * i, n + i], A[2 + 3 * i, i], b[3 + 3 * i] = 1, -1, 1
    return torch.cat([c, torch.ones_like(c)], -1), A, b, Cones(zero=1, exponential=n)
