"""Vectors and an objective for the nonlinear program layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

F64 = torch.float64


def rows(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=F64)


def distance(x: Tensor, p: Tensor) -> Tensor:
    return (x - p).square().sum()
