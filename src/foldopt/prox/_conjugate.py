"""Moreau's identity: the proximal operator of a conjugate function."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt._operator import check_point, operand, valid


def conjugate(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    r"""Turn the proximal operator of g into that of its conjugate g*, by Moreau's identity.

    :math:`\operatorname{prox}_{\sigma g^*}(y) = y - \sigma\,
    \operatorname{prox}_{g/\sigma}(y/\sigma)`, with :math:`g^*(z) = \sup_x z^\top x - g(x)`, for a
    convex, closed g. The conjugate of a norm is the indicator of the unit ball of the dual norm,
    and that of the indicator of a cone is the indicator of the polar cone.

    Parameters
    ----------
    operator
        ``operator(y, weight, *params)``: the proximal operator of ``weight`` times g, such as
        :func:`l1`. For a projection, which no weight changes, ``lambda y, weight: projection(y)``.

    Returns
    -------
    Callable
        ``conjugated(y, weight=1.0, *params)``: the proximal operator of ``weight`` times g*. The
        weight σ > 0 is a number or a tensor of shape (); it is differentiable too.

    Raises
    ------
    TypeError
        If ``operator`` is not callable.

    References
    ----------
    J. J. Moreau, Bull. Soc. Math. France 93 (1965), 273–299.

    Examples
    --------
    The conjugate of ‖·‖₁ is the indicator of a cube, for every weight:

    >>> import torch
    >>> from foldopt import prox
    >>> project = prox.conjugate(prox.l1)
    >>> project(torch.tensor([3.0, -0.5]), 2.0)
    tensor([ 1.0000, -0.5000])
    """
    if not callable(operator):
        raise TypeError(
            "prox.conjugate: operator must be callable, operator(y, weight), got "
            f"{type(operator).__name__}"
        )

    def conjugated(y: Tensor, weight: Tensor | float = 1.0, *params: Any) -> Tensor:
        check_point("prox.conjugate", y)
        sigma = operand("prox.conjugate: weight", weight, y, ())
        if isinstance(weight, numbers.Real) and not weight > 0:
            raise ValueError(f"prox.conjugate: weight must be above 0, got {weight!r}")
        # The inner where keeps a division by zero out of what the outer where discards.
        safe = torch.where(sigma > 0, sigma, 1)
        x = y - safe * operator(y / safe, 1 / safe, *params)
        return valid(weight, sigma > 0, x)

    return conjugated
