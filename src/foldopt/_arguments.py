"""The arguments of a fold, looked at before anything is computed."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt._tree import Leaves, describe, flatten
from foldopt.certify import ON_FAILURE, Certify
from foldopt.linear import Auto, LinearSolver

Step = Callable[..., Any]
Adjoint = LinearSolver | Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
OnFailure = Literal["raise", "warn", "mask"]

# What a fold does unless told otherwise; both are immutable.
AUTO = Auto()
CERTIFY = Certify()

_EMPTY_CELL = types.CellType()


def check_arguments(
    step: Any, adjoint: Any, batch_dims: Any, on_failure: Any, certify: Any
) -> None:
    """Raise at once, with the argument's name, for what is not of its kind."""
    if not callable(step):
        raise TypeError(f"step must be callable, step(x, *params) -> x, got {type(step).__name__}")
    if isinstance(adjoint, type):
        raise TypeError(f"adjoint must be an instance: {adjoint.__name__}(), not the class")
    if not (hasattr(adjoint, "solve") or callable(adjoint)):
        raise TypeError(
            "adjoint must be one of Auto(), Dense(), GMRES(), BiCGSTAB(), CG(), LFPI() or a "
            f"callable (matvec, b) -> v, got {adjoint!r}"
        )
    if not isinstance(batch_dims, int) or isinstance(batch_dims, bool) or batch_dims < 0:
        raise ValueError(f"batch_dims must be an integer of 0 or more, got {batch_dims!r}")
    if on_failure not in ON_FAILURE:
        raise ValueError(f"on_failure must be one of {ON_FAILURE}, got {on_failure!r}")
    if not isinstance(certify, Certify):
        raise TypeError(f"certify must be a Certify(...), got {certify!r}")


def closed_over(function: Any, depth: int = 4) -> Tensor | None:
    """A tensor of an active ``torch.func`` transform that a step closes over, if one is found.

    Below the transforms, where the step is recorded, such a tensor looks like any constant; so it
    is looked for in the step's closure, defaults and partial arguments, and in those of the
    functions found there. A global variable escapes.
    """
    if isinstance(function, functools.partial):
        held = [function.func, *function.args, *function.keywords.values()]
    elif dataclasses.is_dataclass(function):
        held = list(vars(function).values())
    else:
        cells = getattr(function, "__closure__", None) or ()
        held = [cell.cell_contents for cell in cells if cell != _EMPTY_CELL]
        held += [*(getattr(function, "__defaults__", None) or ())]
        if hasattr(function, "__func__"):
            held.append(function.__func__)
    for item in held:
        for leaf in flatten(item)[0]:
            if isinstance(leaf, Tensor):
                if calculus.wrapped_by_a_transform(leaf):
                    return leaf
            elif callable(leaf) and depth > 0:
                found = closed_over(leaf, depth - 1)
                if found is not None:
                    return found
    return None


def names(count: int, n_weights: int, params: tuple[Any, ...], unknown: bool) -> tuple[str, ...]:
    """A name for each tensor among the params, "" for a module's weights."""
    if unknown:
        return ("",) * count
    names = [""] * n_weights
    for position, param in enumerate(params):
        leaves = [leaf for leaf in flatten(param)[0] if isinstance(leaf, Tensor)]
        many = len(leaves) > 1
        names += [
            f"param {position}" + (f" (leaf {i})" if many else "") for i in range(len(leaves))
        ]
    return tuple(names)


def to_tensor(leaf: Any, dtype: torch.dtype | None, device: torch.device | None) -> Tensor:
    """One leaf of a solution; numpy has no dtype of its own here, and takes that of the params."""
    if isinstance(leaf, Tensor):
        # Autograd cannot save what inference mode made.
        made_in_inference = leaf.is_inference() and not torch.is_inference_mode_enabled()
        return leaf.clone() if made_in_inference else leaf.detach()
    if isinstance(leaf, (np.ndarray, np.generic, float, int)):
        return torch.as_tensor(np.asarray(leaf), device=device).to(dtype or torch.float64)
    raise TypeError(
        f"x_star: a solution consists of tensors or numpy arrays, and here holds "
        f"{type(leaf).__name__} ({leaf!r:.60})"
    )


def check_solution(
    tensors: Leaves, batch_dims: int, dtypes: list[torch.dtype], device: torch.device | None
) -> None:
    first = tensors[0]
    for leaf in tensors:
        if not leaf.is_floating_point():
            raise TypeError(
                f"x_star must be a real floating-point tensor, got {describe([leaf])}; an integer "
                "solution has no derivative"
            )
        if leaf.layout != torch.strided:
            raise TypeError(f"x_star must be dense, got {leaf.layout}: pass x_star.to_dense()")
        if leaf.dim() < batch_dims or leaf.shape[:batch_dims] != first.shape[:batch_dims]:
            raise ValueError(
                f"x_star: with batch_dims={batch_dims} every leaf needs the same {batch_dims} "
                f"leading dimension(s), got {describe(tensors)}; batch_dims=0 means one "
                "unbatched instance"
            )
        if leaf.dtype != first.dtype or leaf.device != first.device:
            raise TypeError(f"x_star: leaves of one dtype and device, got {describe(tensors)}")
    if dtypes and first.dtype not in dtypes:
        raise TypeError(
            f"x_star is {first.dtype}, the params are {dtypes[0]}: nothing is cast unasked. Let "
            "the solver return the params' dtype, x.to(c.dtype) (numpy arrays are converted)"
        )
    if device is not None and first.device != device:
        raise TypeError(f"x_star is on {first.device}, the params are on {device}: x.to(c.device)")
