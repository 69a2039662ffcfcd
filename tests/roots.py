"""A batch whose square roots Newton's method finds."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.problems import F64

C = torch.tensor([[4.0, 9.0], [16.0, 25.0], [1.0, 2.0]], dtype=F64)


def leaf() -> Tensor:
    return C.clone().requires_grad_()
