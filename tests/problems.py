"""Smooth fixed-point problems that several test files differentiate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

F64 = torch.float64


def network_step(m: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """U(x, c, W) = tanh(M x + Wᵀ c): contractive for ‖M‖ < 1, curved in everything."""

    def step(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(x @ m.T + c @ w)

    return step


def iterate(step: Callable[..., Any], n: int, iterations: int = 400) -> Callable[..., Tensor]:
    """The step run from zero to convergence: a solver, and (recorded) the oracle."""

    def solver(c: Tensor, *rest: Tensor) -> Tensor:
        x = torch.zeros(*c.shape[:-1], n, dtype=c.dtype, device=c.device)
        for _ in range(iterations):
            x = step(x, c, *rest)
        return x

    return solver


def contraction(n: int, norm: float = 0.6) -> Tensor:
    m = torch.randn(n, n, dtype=F64)
    return norm * m / torch.linalg.matrix_norm(m, 2)


def newton_root(x: Tensor, c: Tensor) -> Tensor:
    """Newton's step for √c: Φ = 0 at the root."""
    return 0.5 * (x + c / x)
