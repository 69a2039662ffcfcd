"""A control: the exact derivative, a little off, to see how sensitive training itself is."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt.experiments.multilabel.layer import Layer, exact

__all__ = ["disturbed"]

_DISTURBANCE = 1e-5  # about what cvxpylayers' gradients are off by


def disturbed(k: int) -> Layer:
    """The layer with the closed form's derivative, every entry off by 1e-5 of itself.

    How far a training with it is from that with the exact derivative says how much of a difference
    between two trainings is not the methods' but the sensitivity of training itself.

    Parameters
    ----------
    k
        How many are selected.

    Returns
    -------
    layer
        ``layer(c) -> x``.

    Examples
    --------
    >>> c = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    >>> disturbed(1)(c)[0, 0].backward()
    >>> c.grad
    tensor([[ 0.1875, -0.0625, -0.0625, -0.0625]], dtype=torch.float64)
    """
    layer = exact(k)

    def off(gradient: Tensor) -> Tensor:
        place = torch.arange(gradient.shape[-1], device=gradient.device)
        return gradient * (1 + _DISTURBANCE * (1 - 2 * (place % 2)))

    def with_hook(c: Tensor) -> Tensor:
        own = c.clone()
        if own.requires_grad:
            own.register_hook(off)
        return layer(own)

    return with_hook
