"""The gradient of an objective of a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt._tree import flatten, unflatten

__all__ = ["objective_gradient"]


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
