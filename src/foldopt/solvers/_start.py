"""Where a solver of ours begins."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt._arguments import to_tensor
from foldopt._tree import flatten, unflatten
from foldopt.solvers._run.arrays import check_params

__all__ = [
    "HALF",
    "StartLike",
    "batch_of",
    "check_dtypes",
    "check_params_real",
    "check_real",
    "check_size",
    "check_step_size",
    "picked",
    "point_of",
    "reference_of",
    "start_of",
]

StartLike = Tensor | np.ndarray | Callable[..., Any] | None


def reference_of(params: tuple[Any, ...]) -> Tensor | None:
    """The first floating tensor among the params: its dtype and device are those of x."""
    leaves = [leaf for leaf in flatten(params)[0] if isinstance(leaf, Tensor)]
    return next((leaf for leaf in leaves if leaf.is_floating_point()), None)


def point_of(name: str, start: StartLike, params: tuple[Any, ...], batched: bool = False) -> Tensor:
    """The start as a tensor ``(n,)`` or ``(B, n)``, in the params' dtype and on their device.

    ``batched``: more leading dimensions will do.
    """
    if callable(start) and not isinstance(start, Tensor):
        with torch.no_grad():
            start = start(*params)
    if not isinstance(start, (Tensor, np.ndarray)):
        raise TypeError(
            f"{name}: start must be a tensor or an array of shape (n,) or (B, n), or a function "
            f"start(*params) that returns one, got {type(start).__name__}"
        )
    check_real(name, {"start": start})
    like = reference_of(params)
    dtype, device = (None, None) if like is None else (like.dtype, like.device)
    x = to_tensor(start, dtype, device).detach()
    x = x if dtype is None else x.to(dtype)
    if x.dim() < 1 or (x.dim() > 2 and not batched) or not x.is_floating_point():
        raise ValueError(
            f"{name}: start must be floating and have shape (n,) or (B, n), got {x.dtype} of "
            f"shape {tuple(x.shape)}"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name}: start holds numbers that are not finite")
    return x


def check_real(name: str, values: dict[str, Any]) -> None:
    """Raise if a tensor or an array holds complex numbers, or is not dense."""
    for said, value in values.items():
        for leaf in flatten(value)[0]:
            if isinstance(leaf, complex):
                raise TypeError(f"{name}: {said} is {leaf!r}, and x is real: pass .real and .imag")
            array = isinstance(leaf, (Tensor, np.ndarray))
            if array and "complex" in str(leaf.dtype):
                raise TypeError(
                    f"{name}: {said} is {leaf.dtype} of shape {tuple(leaf.shape)}, and x is real: "
                    "pass its real and imaginary parts, torch.view_as_real"
                )
            if said == "start" and isinstance(leaf, Tensor) and leaf.layout != torch.strided:
                raise TypeError(f"{name}: start must be dense, got {leaf.layout}: .to_dense()")


HALF = (torch.float16, torch.bfloat16)


def check_params_real(name: str, params: tuple[Any, ...]) -> None:
    """:func:`check_real` for the params, by their numbers."""
    check_real(name, {f"param {i}": param for i, param in enumerate(params)})


def check_dtypes(
    name: str, params: tuple[Any, ...], refused: tuple[torch.dtype, ...] = HALF
) -> None:
    """Raise if a param holds complex numbers, or numbers that the loop cannot compute with."""
    check_params_real(name, params)
    for i, param in enumerate(params):
        for leaf in flatten(param)[0]:
            if isinstance(leaf, Tensor) and leaf.dtype in refused:
                raise TypeError(
                    f"{name}: param {i} is {leaf.dtype} of shape {tuple(leaf.shape)}. Its "
                    "iterations need float32 or float64, and nothing is cast unasked: pass "
                    ".float()"
                )


def check_size(name: str, n: int | None) -> None:
    """Raise unless n is a number of variables, or None."""
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
        raise ValueError(f"{name}: n must be an integer of 1 or more or None, got {n!r}")


def batch_of(
    name: str, params: tuple[Any, ...], shared: Sequence[int], batch_dims: int
) -> list[int | None]:
    """0 for each param that has a row for each sample, None for those that all share."""
    count = len(params)
    for position in shared:
        if not -count <= position < count:
            raise ValueError(
                f"{name}: shared={tuple(shared)}: there are {count} param(s), and none has number "
                f"{position}"
            )
    common = {position % count for position in shared} if count else set()
    return [None if batch_dims == 0 or i in common else 0 for i in range(count)]


def start_of(
    name: str,
    start: StartLike,
    params: tuple[Any, ...],
    refused: tuple[torch.dtype, ...] = (),
) -> tuple[Tensor, tuple[Any, ...]]:
    """The start of a batched loop in the shape of x, and the params cut from their graphs.

    Raises if a param holds NaN or inf, or numbers that the loop cannot compute with; ``refused``
    are the dtypes of these, beside complex ones.
    """
    check_params(params)
    check_dtypes(name, params, refused)
    leaves, spec = flatten(params)
    cut = unflatten([leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
    return point_of(name, start, cut, batched=True), cut


def picked(params: tuple[Any, ...], positions: Sequence[int], argument: str) -> tuple[Any, ...]:
    """The params at some positions."""
    for position in positions:
        if not -len(params) <= position < len(params):
            raise ValueError(
                f"{argument}={tuple(positions)}: there are {len(params)} param(s), and none has "
                f"number {position}"
            )
    return tuple(params[position] for position in positions)


def check_step_size(step_size: Any) -> None:
    """Raise unless it is "auto" or a positive number."""
    number = isinstance(step_size, numbers.Real) and not isinstance(step_size, bool)
    if step_size == "auto" or (number and 0 < float(step_size) < float("inf")):
        return
    raise ValueError(f"step_size must be 'auto' or a finite number above 0, got {step_size!r}")
