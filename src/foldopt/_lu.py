"""LU factors of a batch, also where PyTorch's own are wrong or never come.

PyTorch shares a batch among its threads. MKL's factorization of 150 rows and more is not safe there
once ``torch.set_num_threads`` has been called, with whatever number above one: it answers with
pivots of zero, or never (pytorch/pytorch, issues 141358 and 142815; seen in 2.13). Matrix by matrix
it is right, and takes 1.3 to 2.3 times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt import _calculus as calculus

__all__ = ["one_by_one"]

# Up to 140 rows were right in float32 and float64; from 150 on none were.
_SAFE = 128


def one_by_one(function: Callable[..., Any], *batches: Tensor) -> Any:
    """A function of ``torch.linalg`` that factors: of the whole batch, if that is safe.

    Parameters
    ----------
    function
        ``function(*batches)``: ``lu_factor_ex``, ``inv_ex`` or ``solve_ex``, which return tuples.
    *batches
        Each ``(*batch, n, k)``, of one batch shape; the first has the matrices that are factored.
    """
    matrices = batches[0]
    if (
        matrices.shape[-1] <= _SAFE
        or matrices.dim() == 2
        or matrices.device.type != "cpu"
        or torch.compiler.is_compiling()
        or torch.get_num_threads() == 1
        or calculus.transforms_active()
    ):
        return function(*batches)
    batch = matrices.shape[:-2]
    rows = zip(*(block.reshape(-1, *block.shape[-2:]) for block in batches), strict=True)
    found = [function(*row) for row in rows]
    if not found:
        return function(*batches)
    parts = (torch.stack(part) for part in zip(*found, strict=True))
    return tuple(part.reshape(*batch, *part.shape[1:]) for part in parts)
