"""Random markets, and a small one, for the portfolio layer."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt.nn.portfolio import Form

F64 = torch.float64
FORMS: tuple[Form, ...] = ("risk-bound", "mean-variance")
I3 = 1e-4 * torch.eye(3, dtype=F64)
RETURNS = torch.tensor([0.03, 0.02, 0.01], dtype=F64)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def market(
    B: int, n: int, form: Form = "risk-bound", seed: int = 0, scale: float = 1e-4
) -> list[Tensor]:
    """Returns, covariances of size ``scale``, and a risk that binds with several assets held."""
    g = torch.Generator().manual_seed(seed)
    L = torch.randn(B, n, n, generator=g, dtype=F64)
    V = scale * (L @ L.mT / n + 0.3 * torch.eye(n, dtype=F64))
    c = 0.05 + 0.02 * torch.randn(B, n, generator=g, dtype=F64)
    level = V.mean((-2, -1)) * 2 if form == "risk-bound" else 0.02 / V.mean((-2, -1)) / n
    return [c, V, level]


def wanting(data: list[Tensor]) -> list[Tensor]:
    return [block.clone().requires_grad_() for block in data]
