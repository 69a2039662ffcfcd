"""The data of a total variation layer, looked at before anything is computed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foldopt import _calculus as calculus

__all__ = ["Data", "benign", "check_sign", "data_of", "unusable"]

_NAME = "nn.TotalVariation"
_SPARSE = (torch.sparse_coo, torch.sparse_csr)


class Data(NamedTuple):
    """Signals with one batch dimension, and what goes with them.

    Attributes
    ----------
    signal
        d, ``(B, n)``.
    weight
        λ, ``(B, 1)`` or ``(B, m)``.
    operator
        D, ``(m, n)`` or ``(B, m, n)``, or sparse ``(m, n)``; None: differences.
    batch
        The batch shape that was given.
    """

    signal: Tensor
    weight: Tensor
    operator: Tensor | None
    batch: torch.Size


def data_of(signal: Any, weight: Any, operator: Any, dimensions: int) -> Data:
    """The data with one batch dimension.

    Raises
    ------
    TypeError
        If something is no tensor, or dtypes or devices differ.
    ValueError
        If shapes do not fit, or a weight is negative.
    """
    if not isinstance(signal, Tensor) or signal.dtype not in (torch.float32, torch.float64):
        seen = signal.dtype if isinstance(signal, Tensor) else type(signal).__name__
        raise TypeError(f"{_NAME}: signal must be a tensor of float32 or float64, got {seen}")
    if signal.layout != torch.strided:
        raise TypeError(f"{_NAME}: signal must be dense, got {signal.layout}: signal.to_dense()")
    wanted = "(*batch, n) with n of 1 or more"
    if dimensions == 2:
        wanted = "(*batch, H, W) with H and W of 1 or more"
    if signal.dim() < dimensions or 0 in signal.shape[-dimensions:]:
        raise ValueError(
            f"{_NAME}: signal must have shape {wanted}, with dimensions={dimensions}; got "
            f"{tuple(signal.shape)}"
        )
    batch = signal.shape[: signal.dim() - dimensions]
    event = signal.shape[len(batch) :]
    n, count = event.numel(), math.prod(batch)
    rows: int | None = None  # images have no such order of rows that a user could count on
    if operator is not None:
        operator = _operator(operator, signal, batch, dimensions)
        rows = operator.shape[-2]
    elif dimensions == 1:
        rows = n - 1
    return Data(signal.reshape(count, n), _weight(weight, signal, batch, rows), operator, batch)


def _operator(D: Any, signal: Tensor, batch: torch.Size, dimensions: int) -> Tensor:
    if dimensions != 1:
        raise ValueError(
            f"{_NAME}: an operator acts on signals (*batch, n), and this layer has dimensions=2. "
            "Use dimensions=1, and images flattened to n = H W"
        )
    if not isinstance(D, Tensor):
        raise TypeError(f"{_NAME}: operator must be a tensor or None, got {type(D).__name__}")
    if (D.dtype, D.device) != (signal.dtype, signal.device):
        raise TypeError(
            f"{_NAME}: operator is {D.dtype} on {D.device}, signal is {signal.dtype} on "
            f"{signal.device}: nothing is cast unasked"
        )
    sparse = D.layout in _SPARSE
    if not sparse and D.layout != torch.strided:
        raise TypeError(
            f"{_NAME}: operator is {D.layout}; give it dense, sparse COO or sparse CSR (to_sparse)"
        )
    shared = D.dim() == 2
    if D.dim() < 2 or D.shape[-1] != signal.shape[-1] or not (shared or D.shape[:-2] == batch):
        raise ValueError(
            f"{_NAME}: operator must have shape (m, n) or (*batch, m, n) beside signal of shape "
            f"{tuple(signal.shape)}; got {tuple(D.shape)}"
        )
    if sparse and not shared:
        raise ValueError(
            f"{_NAME}: a sparse operator must have shape (m, n), the same for all samples; got "
            f"{tuple(D.shape)}"
        )
    return D if shared else D.reshape(math.prod(batch), *D.shape[-2:])


def _weight(weight: Any, signal: Tensor, batch: torch.Size, rows: int | None) -> Tensor:
    """λ as ``(B, 1)`` or ``(B, m)``."""
    count = math.prod(batch)
    if not isinstance(weight, Tensor):
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise TypeError(
                f"{_NAME}: weight must be a number or a tensor, got {type(weight).__name__}"
            )
        if not 0 <= weight < math.inf:
            raise ValueError(f"{_NAME}: weight must be 0 or more, and finite; got {weight}")
        return signal.new_full((1, 1), weight).expand(count, 1)
    if (weight.dtype, weight.device) != (signal.dtype, signal.device):
        raise TypeError(
            f"{_NAME}: weight is {weight.dtype} on {weight.device}, signal is {signal.dtype} on "
            f"{signal.device}: nothing is cast unasked"
        )
    shape = weight.shape
    of_samples = shape in (batch, (*batch, 1)) and len(shape) > 0
    of_rows = rows is not None and shape == (rows,)
    if of_samples and of_rows and len(shape) == 1 and shape != (1,) and shape == batch:
        raise ValueError(
            f"{_NAME}: weight of shape {tuple(shape)} fits both the batch and the rows: give it as "
            f"{(*batch, 1)} for one number a sample, or as {(*batch, rows)} for one a row"
        )
    if shape == ():
        found = weight.expand(count, 1)
    elif of_rows:
        found = weight.expand(count, *shape)
    elif of_samples:
        found = weight.reshape(count, 1)
    elif rows is not None and shape == (*batch, rows):
        found = weight.reshape(count, rows)
    else:
        by_row = "" if rows is None else f", {(rows,)} or {(*batch, rows)}"
        raise ValueError(
            f"{_NAME}: weight must have shape (), {tuple(batch)}{by_row} beside signal of shape "
            f"{tuple(signal.shape)}; got {tuple(shape)}"
        )
    if not calculus.wrapped_by_a_transform(weight):
        check_sign(weight)
    return found


def check_sign(weight: Tensor) -> None:
    """Raise if a weight is negative; under a transform, where it is seen on the way forward."""
    weight = weight.detach()
    if bool((weight < 0).any()):
        where = tuple(torch.nonzero(weight < 0)[0].tolist())
        raise ValueError(
            f"{_NAME}: weight must be 0 or more, got {float(weight[where])}"
            + (f" at {where}" if where else "")
            + ". A learned weight stays positive as softplus or exp of a free number"
        )


def unusable(tensors: tuple[Tensor, ...]) -> tuple[Tensor, str]:
    """The samples whose signal, weight or operator is not finite, ``(B,)``, and what it holds."""
    signal = tensors[0]
    bad = torch.zeros(len(signal), dtype=torch.bool, device=signal.device)
    message = ""
    for name, block in zip(("signal", "weight", "operator"), tensors, strict=False):
        # One sum says that all is finite; only if it is not, each entry is looked at.
        if not block.numel() or bool(torch.isfinite(block.sum())):
            continue
        whole = torch.isfinite(block)
        if bool(whole.all()):
            continue
        shared = name == "operator" and block.dim() < 3
        where = tuple(int(i) for i in torch.nonzero(~whole)[0])
        bad |= ~(whole.all() if shared else whole.flatten(1).all(-1))
        of = "" if shared else f" of sample {where[0]}"
        message = message or f"{name}{of} holds {float(block[where])}"
    return bad, message


def benign(tensors: tuple[Tensor, ...], bad: Tensor) -> tuple[Tensor, ...]:
    """The data with zeros in the place of some samples."""
    found = []
    for place, block in enumerate(tensors):
        if not block.is_floating_point():
            found.append(block)
        elif place == 2 and block.dim() < 3:  # shared by all: if it is bad, nothing is solved
            found.append(torch.nan_to_num(block, 0.0, 0.0, 0.0))
        else:
            found.append(torch.where(bad.reshape(-1, *[1] * (block.dim() - 1)), 0, block))
    return tuple(found)
