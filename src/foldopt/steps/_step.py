"""What the builders of steps share: gradients, checked arguments."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt._tree import flatten, unflatten


def objective_gradient(objective: Callable[..., Tensor], x: Any, params: tuple[Any, ...]) -> Any:
    """∇ₓ f(x, *params), sample by sample, in the structure of x; differentiable.

    ``objective`` returns one value for each sample. Samples do not touch one another, so that the
    gradient of the sum of the values holds every sample's own gradient.
    """
    leaves, spec = flatten(x)
    one = torch.ones((), dtype=leaves[0].dtype, device=leaves[0].device)

    def total(*state: Tensor) -> tuple[Tensor]:
        values = objective(unflatten(state, spec), *params)
        _check_values(values, leaves[0])
        return (values.sum().to(one.dtype),)  # computed in more digits, perhaps

    # Autograd is twice as fast, but records nothing in inference mode, and cannot be compiled.
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        slopes = torch.func.grad(lambda state: total(*state)[0])(tuple(leaves))
    else:
        slopes = calculus.vjp(total, tuple(leaves), (one,))
    return unflatten(slopes, spec)


def _check_values(values: Any, x: Tensor) -> None:
    """Raise unless an objective's values are such that their gradient is what is meant."""
    if not isinstance(values, Tensor):
        raise TypeError(f"objective must return a tensor of values, got {type(values).__name__}")
    if values.shape != x.shape[: values.dim()]:
        raise ValueError(
            "objective must return one value for each sample, a shape that x "
            f"{tuple(x.shape)} begins with, and returned {tuple(values.shape)}"
        )
    if not values.requires_grad:
        raise ValueError(
            "objective: its values do not depend on x as far as autograd can see. Likely causes: "
            "detach(), no_grad(), item() or numpy inside the objective"
        )


def check_functions(**functions: Any) -> None:
    """Raise unless every argument is callable."""
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} must be callable, got {type(function).__name__}")


def positive_step_size(step_size: float | Tensor) -> None:
    """Raise unless the step size is finite and above zero; beyond that its choice is free."""
    if not isinstance(step_size, (numbers.Real, Tensor)):
        raise TypeError(f"step_size must be a number or a tensor, got {type(step_size).__name__}")
    alpha = torch.as_tensor(step_size)
    if not bool(((alpha > 0) & torch.isfinite(alpha)).all()):
        raise ValueError(f"step_size must be finite and above 0, got {step_size!r}")


def positions_of(argument: str, positions: Sequence[int]) -> tuple[int, ...]:
    """The positions of some params, checked."""
    if not isinstance(positions, Sequence) or not all(isinstance(p, int) for p in positions):
        raise TypeError(
            f"{argument} must be a sequence of positions such as (1,), got {positions!r}"
        )
    return tuple(positions)


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
