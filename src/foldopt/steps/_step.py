"""What a step may say of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt._tree import flatten, unflatten

__all__ = ["Step"]


@dataclasses.dataclass(frozen=True)
class Step:
    """An update U(x, *params) with what is known of its Φ = ∂U/∂x.

    Parameters
    ----------
    update
        ``update(x, *params) -> x``.
    symmetric
        Φ is symmetric at the fixed point: :class:`~foldopt.Auto` may use conjugate gradients.
    name
        For messages.

    Examples
    --------
    >>> from foldopt.steps import Step
    >>> halve = Step(lambda x, c: 0.5 * (x + c), symmetric=True, name="halve")
    >>> halve(2.0, 4.0)
    3.0
    """

    update: Callable[..., Any]
    symmetric: bool = False
    name: str = "step"

    def __call__(self, x: Any, *params: Any) -> Any:
        return self.update(x, *params)


def objective_gradient(objective: Callable[..., Tensor], x: Any, params: tuple[Any, ...]) -> Any:
    """∇ₓ f(x, *params), sample by sample, in the structure of x; differentiable.

    ``objective`` returns one value for each sample. Samples do not touch one another, so that the
    gradient of the sum of the values holds every sample's own gradient.
    """

    def total(state: Any) -> Tensor:
        values = objective(state, *params)
        if not isinstance(values, Tensor):
            raise TypeError(
                f"objective must return a tensor of values, got {type(values).__name__}"
            )
        first = flatten(state)[0][0]
        if values.shape != first.shape[: values.dim()] or values.dim() > first.dim():
            raise ValueError(
                "objective must return one value for each sample, a shape that x "
                f"{tuple(first.shape)} begins with, and returned {tuple(values.shape)}"
            )
        return values.sum()

    return torch.func.grad(total)(x)


def positive_step_size(step_size: float | Tensor) -> None:
    """Raise unless the step size is above zero; beyond that its choice is free."""
    if not bool(torch.as_tensor(step_size > 0).all()):
        raise ValueError(f"step_size must be above 0, got {step_size!r}")


def descend(x: Any, gradient: Any, step_size: float | Tensor) -> Any:
    """x − α ∇f, leaf by leaf."""
    leaves, spec = flatten(x)
    slopes, _ = flatten(gradient)
    return unflatten(
        [leaf - step_size * slope for leaf, slope in zip(leaves, slopes, strict=True)], spec
    )


def select(params: tuple[Any, ...], positions: tuple[int, ...], argument: str) -> tuple[Any, ...]:
    """The params at ``positions``."""
    for position in positions:
        if not -len(params) <= position < len(params):
            raise ValueError(
                f"{argument}={positions}: the step was called with {len(params)} param(s), "
                f"there is no number {position}"
            )
    return tuple(params[position] for position in positions)
