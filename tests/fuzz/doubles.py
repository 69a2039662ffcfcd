"""Short ways to write tensors of float64."""

from __future__ import annotations

import torch

DOUBLE = torch.float64


def double(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=DOUBLE)
