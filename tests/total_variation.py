"""Layers and operators of total variation, and the optimality conditions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foldopt.nn.total_variation import TotalVariation, TotalVariationSolution
from tests.closed_forms import F64

layer = TotalVariation()
solution = TotalVariation(multipliers=True)
FORMS = ["differences", "dense", "sparse"]


def x_and_u(*arguments: Any) -> tuple[Tensor, Tensor]:
    found = solution(*arguments)
    assert isinstance(found, TotalVariationSolution)
    return found.x, found.multipliers


def first_differences(n: int) -> Tensor:
    one = torch.eye(n, dtype=F64)
    return one[1:] - one[:-1]


def optimality(x: Tensor, u: Tensor, d: Tensor, weight: Any, D: Tensor) -> float:
    """How far x − d + Dᵀu = 0, |u| ≤ λ and u Dx = λ|Dx| are from holding."""
    slope = (D @ x.unsqueeze(-1)).squeeze(-1)
    gaps = [
        x - d + (D.mT @ u.unsqueeze(-1)).squeeze(-1),
        (u.abs() - weight).clamp_min(0),
        weight * slope.abs() - u * slope,
    ]
    return max(float(gap.abs().max()) for gap in gaps)


def operator_of(form: str, n: int = 6) -> Tensor | None:
    D = first_differences(n) + 0.1 * torch.sin(torch.arange((n - 1) * n, dtype=F64)).view(-1, n)
    return {"differences": None, "dense": D, "sparse": D.to_sparse()}[form]
