"""Random convex quadratic programs for the layer on dense matrices."""

from __future__ import annotations

import torch
from torch import Tensor

F64 = torch.float64


def programs(
    samples: int, n: int, m: int, k: int, bounds: bool = False, seed: int = 0
) -> list[Tensor | None]:
    """Strictly convex, feasible, with some constraints active."""
    g = torch.Generator().manual_seed(seed)
    L = torch.randn(samples, n, n, generator=g, dtype=F64)
    Q = L @ L.mT / n + 0.1 * torch.eye(n, dtype=F64)
    p = 2 * torch.randn(samples, n, generator=g, dtype=F64)
    G = torch.randn(samples, m, n, generator=g, dtype=F64)
    A = torch.randn(samples, k, n, generator=g, dtype=F64)
    inside = torch.randn(samples, n, generator=g, dtype=F64)
    h = (G @ inside.unsqueeze(-1)).squeeze(-1) + torch.rand(samples, m, generator=g, dtype=F64)
    b = (A @ inside.unsqueeze(-1)).squeeze(-1)
    width = 0.1 + torch.rand(2, samples, n, generator=g, dtype=F64)
    return [
        Q, p, *((G, h) if m else (None, None)), *((A, b) if k else (None, None)),
        *((inside - width[0], inside + width[1]) if bounds else (None, None)),
    ]  # fmt: skip


def wanting(blocks: list[Tensor | None]) -> list[Tensor | None]:
    return [None if block is None else block.clone().requires_grad_() for block in blocks]


def given(blocks: list[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(block for block in blocks if block is not None)
