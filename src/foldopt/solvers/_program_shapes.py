"""The blocks of a program: of the right kind and shape, and which have a row for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Block", "in_dims", "need", "need_both", "size_of"]


class Block(NamedTuple):
    """An argument, and the shape that one sample's has; ``scalar``: a number stands for all."""

    name: str
    value: Any
    shape: tuple[int, ...]
    scalar: bool = False


def need(owner: str, **values: Any) -> None:
    """Raise for None."""
    for name, value in values.items():
        if value is None:
            raise TypeError(f"{owner}: {name} is None, and must be a tensor or an array")


def need_both(owner: str, **pair: Any) -> None:
    """Raise if one of two is None and the other is not."""
    if len({value is None for value in pair.values()}) == 2:
        raise ValueError(f"{owner}: {' and '.join(pair)} go together, one of them is None")


def size_of(owner: str, name: str, value: Any, least: int = 1) -> int:
    """The last dimension of a vector, which says how many variables or rows there are."""
    shape = _shape_of(owner, name, value)
    if len(shape) not in (1, 2) or shape[-1] < least:
        raise ValueError(
            f"{owner}: {name} must be a vector for each sample, of shape (n,) or (B, n) with n ≥ "
            f"{least}, got {tuple(shape)}"
        )
    return int(shape[-1])


def in_dims(owner: str, blocks: Sequence[Block]) -> list[int | None]:
    """0 for blocks with a row for each sample, None for those that all share."""
    _check_kinds(owner, blocks)
    found: list[int | None] = []
    for name, value, wanted, scalar in blocks:
        shape = () if value is None else _shape_of(owner, name, value)
        if value is None or shape == wanted or (scalar and shape == ()):
            found.append(None)
        elif len(shape) == len(wanted) + 1 and shape[1:] == wanted:
            found.append(0)
        else:
            batched = "(B, " + ", ".join(map(str, wanted)) + ")"
            raise ValueError(f"{owner}: {name} must have shape {wanted} or {batched}, got {shape}")
    return found


def _shape_of(owner: str, name: str, value: Any) -> tuple[int, ...]:
    known = isinstance(value, (Tensor, np.ndarray, float, int)) or hasattr(value, "tocsc")
    if not known or isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be a tensor or an array, got {type(value).__name__}")
    return tuple(getattr(value, "shape", ()))


def _check_kinds(owner: str, blocks: Sequence[Block]) -> None:
    first: tuple[str, torch.dtype, torch.device] | None = None
    for name, value, _, _ in blocks:
        if value is None:
            continue
        _shape_of(owner, name, value)
        if isinstance(value, np.ndarray) or hasattr(value, "tocsc"):
            if value.dtype.kind != "f":
                raise TypeError(f"{owner}: {name} is {value.dtype}, and must be floating-point")
            continue
        if not isinstance(value, Tensor):
            continue
        if not value.is_floating_point():
            raise TypeError(f"{owner}: {name} is {value.dtype}, and must be floating-point")
        if first is None:
            first = (name, value.dtype, value.device)
        elif (value.dtype, value.device) != first[1:]:
            raise TypeError(
                f"{owner}: {name} is {value.dtype} on {value.device}, {first[0]} is {first[1]} on "
                f"{first[2]}: nothing is cast unasked"
            )
