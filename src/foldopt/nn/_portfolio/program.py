"""The data of a portfolio layer, looked at and brought to size one before anything is computed."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foldopt._operator import check_dense

__all__ = ["Units", "benign", "checked", "scaled", "unusable"]

NAMES = ("returns", "covariance", "risk")

# Of the scaled program: above this, products of two such numbers soon are no numbers any more.
_LARGE = 1e100
_BESIDE = {
    "returns": "their own range",
    "covariance": "the unit of risk",
    "risk": "the range of the returns over the covariance",
}


def checked(returns: Any, covariance: Any, risk: Any) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
    """Returns ``(B, n)``, the others shared or ``(B, …)``, and the batch shape.

    Raises
    ------
    TypeError
        If one is no tensor, or dtypes or devices differ.
    ValueError
        If shapes do not fit.
    """
    if not isinstance(returns, Tensor) or returns.dtype not in (torch.float32, torch.float64):
        seen = returns.dtype if isinstance(returns, Tensor) else type(returns).__name__
        raise TypeError(f"nn.Portfolio: returns must be a tensor of float32 or float64, got {seen}")
    if returns.dim() == 0 or returns.shape[-1] == 0:
        raise ValueError(
            "nn.Portfolio: returns must have shape (*batch, n) with n of 1 or more, got "
            f"{tuple(returns.shape)}"
        )
    number = isinstance(risk, int | float) and not isinstance(risk, bool)
    level: Any = risk
    if number:
        if abs(risk) > sys.float_info.max and abs(risk) != math.inf:
            raise ValueError("nn.Portfolio: risk must be a number that a float can hold")
        level = torch.tensor(float(risk), dtype=returns.dtype, device=returns.device)
    n, batch, first = returns.shape[-1], torch.Size(), ""
    events = {"returns": (n,), "covariance": (n, n), "risk": ()}
    for (name, event), block in zip(events.items(), (returns, covariance, level), strict=True):
        if not isinstance(block, Tensor):
            other = " or a number" if name == "risk" else ""
            raise TypeError(
                f"nn.Portfolio: {name} must be a tensor{other}, got {type(block).__name__}"
            )
        check_dense(f"nn.Portfolio: {name}", block)
        if (block.dtype, block.device) != (returns.dtype, returns.device):
            raise TypeError(
                f"nn.Portfolio: {name} is {block.dtype} on {block.device}, returns is "
                f"{returns.dtype} on {returns.device}: nothing is cast unasked"
            )
        lead = block.shape[: max(block.dim() - len(event), 0)]
        if tuple(block.shape[len(lead) :]) != event:
            raise ValueError(
                f"nn.Portfolio: {name} must have shape {event}, or that with the batch shape in "
                f"front, beside returns of shape {tuple(returns.shape)}; got {tuple(block.shape)}"
            )
        if lead and batch and lead != batch:
            raise ValueError(
                f"nn.Portfolio: the batch shapes differ: {first} has {tuple(batch)}, {name} "
                f"{tuple(lead)}. What all samples share has no batch dimension"
            )
        if lead:
            batch, first = lead, name
    count = batch.numel()
    return (
        returns.expand(*batch, n).reshape(count, n),
        covariance.reshape(count, n, n) if covariance.dim() > 2 else covariance,
        level.reshape(count) if level.dim() else level,
        batch,
    )


class Units(NamedTuple):
    """c, V and the risk are measured in these: x is the same in any, the multipliers follow."""

    top: Tensor  # (B, 1), the greatest return
    size: Tensor  # (B, 1), the range of returns
    risk: Tensor  # () or (B,)


def scaled(
    returns: Tensor, covariance: Tensor, risk: Tensor, bounded: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], Units]:
    """The same program with returns, covariance and risk of size one.

    That holds for any units, and so they count as constants: no derivative goes through them.
    """
    c, V, level = returns.detach(), covariance.detach(), risk.detach()
    top = c.amax(-1, keepdim=True)
    size = top - c.amin(-1, keepdim=True)
    size = torch.where(size > 0, size, 1)
    unit = level if bounded else V.diagonal(dim1=-2, dim2=-1).amax(-1)
    unit = torch.where((unit > 0) & torch.isfinite(unit), unit, 1)
    units = Units(top, size, unit)
    # Of a V that is not symmetric xᵀVx sees the symmetric part, which so gets the gradient.
    V = (covariance + covariance.mT) / (2 * unit[..., None, None])
    level = risk / unit if bounded else risk * unit / size.squeeze(-1)
    return ((returns - top) / size, V, level), units


def unusable(c: Tensor, V: Tensor, risk: Tensor) -> list[str]:
    """What is wrong with the numbers of each sample, "" for nothing."""
    said = [""] * len(c)
    # One sum says that all is finite; only if it is not, each entry is looked at.
    if bool(_size(c) + _size(V) + _size(risk) <= _LARGE):
        return said
    n = c.shape[-1]
    for name, block, events in zip(NAMES, (c, V, risk), ((n,), (n, n), ()), strict=True):
        shared = block.dim() == len(events)
        rows = block.reshape(1 if shared else len(block), math.prod(events))
        bad = ~(rows.abs() <= _LARGE).all(-1)
        for i in torch.nonzero(bad).flatten().tolist():
            text = f"{name}{'' if shared else f' of sample {i}'} "
            if bool(torch.isfinite(rows[i]).all()):
                text += (
                    f"is too large beside {_BESIDE[name]}: up to {float(rows[i].abs().max()):.1e} "
                    f"times as large, and no more than {_LARGE:.0e} can be computed with"
                )
            else:
                text += f"holds NaN or inf, or is too large beside {_BESIDE[name]}"
            for k in range(len(c)) if shared else (i,):
                said[k] = said[k] or text
    return said


def _size(block: Tensor) -> Tensor:
    return block.abs().amax() if block.numel() else block.new_zeros(())


def benign(c: Tensor, V: Tensor, risk: Tensor, bad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The program with the best of n equal risks in the place of some samples."""
    eye = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    ramp = -torch.arange(c.shape[-1]).to(c) / c.shape[-1]
    return (
        torch.where(bad.unsqueeze(-1), ramp, c),
        torch.where(bad[:, None, None], eye, V),
        torch.where(bad, 2.0, risk),
    )
