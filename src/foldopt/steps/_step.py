"""What the builders of steps share: checked arguments."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor

from foldopt._tree import flatten, unflatten


def positive_step_size(step_size: float | Tensor) -> None:
    """Raise unless the step size is finite and above zero; beyond that its choice is free."""
    if not isinstance(step_size, (numbers.Real, Tensor)):
        raise TypeError(f"step_size must be a number or a tensor, got {type(step_size).__name__}")
    alpha = torch.as_tensor(step_size)
    if not bool(((alpha > 0) & torch.isfinite(alpha)).all()):
        raise ValueError(f"step_size must be finite and above 0, got {step_size!r}")


def select(params: tuple[Any, ...], positions: tuple[int, ...], argument: str) -> tuple[Any, ...]:
    """The params at ``positions``."""
    for position in positions:
        if not -len(params) <= position < len(params):
            raise ValueError(
                f"{argument}={positions}: the step was called with {len(params)} param(s), "
                f"there is no number {position}"
            )
    return tuple(params[position] for position in positions)


def detached(tree: Any) -> Any:
    """A nested structure with every tensor cut from the graph."""
    leaves, spec = flatten(tree)
    return unflatten([leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)


def damping(step_size: float) -> float:
    """The step size of a Newton-type method: above 0, at most 1."""
    if not isinstance(step_size, numbers.Real) or isinstance(step_size, bool):
        raise TypeError(f"step_size must be a number, got {type(step_size).__name__}")
    if not 0 < step_size <= 1:
        raise ValueError(f"step_size must be above 0 and at most 1, got {step_size!r}")
    return float(step_size)


def check_state(name: str, z: Any) -> tuple[Tensor, Tensor, Tensor]:
    """x and both multipliers."""
    if not isinstance(z, (tuple, list)) or len(z) != 3:
        raise TypeError(
            f"{name}: the state is (x, inequality multipliers, equality multipliers), got "
            f"{type(z).__name__}; steps.multipliers finds them where only x is known"
        )
    return z[0], z[1], z[2]
