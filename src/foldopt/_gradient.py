"""The gradient of an objective of a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt._tree import flatten, unflatten

__all__ = ["objective_gradient", "ordinary"]


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

    compiling = torch.compiler.is_compiling()
    if not compiling and torch.is_inference_mode_enabled():  # in which nothing is recorded
        with torch.inference_mode(False):
            return objective_gradient(objective, ordinary(x), ordinary(params))
    # Autograd is twice as fast, but cannot be compiled.
    if compiling:
        slopes = torch.func.grad(lambda state: total(*state)[0])(tuple(leaves))
    else:
        slopes = calculus.vjp(total, tuple(leaves), (one,))
    return unflatten(slopes, spec)


def ordinary(tree: Any) -> Any:
    """A nested structure with a copy of each tensor that was made in inference mode."""
    leaves, spec = flatten(tree)
    inference = [isinstance(leaf, Tensor) and leaf.is_inference() for leaf in leaves]
    return unflatten(
        [leaf.clone() if one else leaf for leaf, one in zip(leaves, inference, strict=True)], spec
    )


def _check_values(values: Any, x: Tensor) -> None:
    """Raise unless an objective's values are such that their gradient is what is meant."""
    if not isinstance(values, Tensor):
        raise TypeError(f"objective must return a tensor of values, got {type(values).__name__}")
    if values.is_complex():
        raise TypeError(
            f"objective must return real values, got {values.dtype}: a param is complex, and a "
            "cast to real would drop its imaginary part. Pass torch.view_as_real(c) and take the "
            "square of the absolute value, or the real part, in the objective"
        )
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
