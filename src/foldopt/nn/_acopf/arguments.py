"""The arguments of a call, checked."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt.nn._acopf.engine import PARAMS
from foldopt.nn._acopf.grid import Grid

__all__ = ["checked"]


def checked(
    grid: Grid, *given: Tensor | None
) -> tuple[tuple[Tensor, ...], tuple[int, ...], torch.Size]:
    """The params with one batch dimension, which of them have none, and the batch shape."""
    defaults = grid.pd, grid.qd, grid.quadratic, grid.linear
    known = [(name, part) for name, part in zip(PARAMS, given, strict=True) if part is not None]
    for name, part in known:
        kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
        if not isinstance(part, Tensor) or part.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"nn.ACOPF: {name} must be a tensor of float32 or float64, got {kind}")
    like = known[0][1] if known else torch.zeros((), dtype=torch.float64)
    batch: torch.Size | None = None
    for (name, part), size in (
        (pair, len(own))
        for pair, own in zip(zip(PARAMS, given, strict=True), defaults, strict=True)
    ):
        if part is None:
            continue
        what = "generator" if name in PARAMS[2:] else "bus"
        if part.dim() == 0 or part.shape[-1] != size:
            raise ValueError(
                f"nn.ACOPF: {name} has shape {tuple(part.shape)}, and {grid.name} needs one number "
                f"for each {what}: ({size},) or (*batch, {size}). What is out of service does not "
                "count"
            )
        if (part.dtype, part.device) != (like.dtype, like.device):
            raise TypeError(
                f"nn.ACOPF: {name} is {part.dtype} on {part.device}, and {known[0][0]} is "
                f"{like.dtype} on {like.device}; all must agree"
            )
        if part.dim() > 1 and batch not in (None, part.shape[:-1]):
            raise ValueError(
                f"nn.ACOPF: {name} has shape {tuple(part.shape)}, and another argument the batch "
                f"shape {tuple(batch or ())}. What all samples share has no batch dimension"
            )
        batch = part.shape[:-1] if part.dim() > 1 else batch
    params = tuple(
        torch.tensor(own, dtype=like.dtype, device=like.device) if part is None else part
        for part, own in zip(given, defaults, strict=True)
    )
    shared = tuple(i for i, part in enumerate(params) if part.dim() == 1)
    flat = tuple(p if p.dim() == 1 else p.reshape(-1, p.shape[-1]) for p in params)
    return flat, shared, torch.Size() if batch is None else batch
