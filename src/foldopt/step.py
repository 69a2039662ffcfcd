"""What a step may say of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

__all__ = ["Step"]


@dataclasses.dataclass(frozen=True)
class Step:
    r"""An update U(x, \*params) with what is known of its Φ = ∂U/∂x.

    Parameters
    ----------
    update
        ``update(x, *params) -> x``; with ``precompute``, ``update(x, *precomputed) -> x``.
    symmetric
        Φ is symmetric at the fixed point: :class:`~foldopt.Auto` may use conjugate gradients.
    name
        For messages.
    newton
        Φ = 0 at the fixed point, as for Newton's method: :class:`~foldopt.Auto` looks for that
        first, and is then done after one product.
    precompute
        ``precompute(*params) -> tuple``: what U needs of the params alone (the inverse of a matrix,
        say), in PyTorch and differentiable. A fold, and every loop of this library, calls it once
        and not at each step; its derivative joins by the chain rule.
    readout
        ``readout(x, *precomputed)``: the solution of the problem, where the state x that the step
        iterates is something else (a dual variable, say); see :meth:`solution`.
    params_vjp
        ``params_vjp(x, params, v, wanted)``: Ψᵀv in closed form, a tensor for each of the params,
        which must be plain tensors, and None for those not wanted. It spares an ordinary backward
        pass the graph of the step, and the look at that graph for mistakes: only for steps that
        are tested against autograd.
    bound
        Set by :meth:`bind`: the params are precomputed, and one that goes unused is no mistake.

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
    newton: bool = False
    precompute: Callable[..., tuple[Any, ...]] | None = None
    readout: Callable[..., Any] | None = None
    params_vjp: Callable[..., tuple[Any, ...]] | None = None
    bound: bool = False

    def __call__(self, x: Any, *params: Any) -> Any:
        step, prepared = self.bind(*params)
        return step.update(x, *prepared)

    def solution(self, x: Any, *params: Any) -> Any:
        """The solution that belongs to a state x: x itself, unless the step has a readout."""
        step, prepared = self.bind(*params)
        return x if step.readout is None else step.readout(x, *prepared)

    def bind(self, *params: Any) -> tuple[Step, tuple[Any, ...]]:
        """The same step without ``precompute``, and the params that it takes instead."""
        if self.precompute is None:
            return self, params
        bound = dataclasses.replace(self, precompute=None, params_vjp=None, bound=True)
        return bound, tuple(self.precompute(*params))


def bind(step: Callable[..., Any], params: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """:meth:`Step.bind` for a step of any kind: a plain function has nothing to precompute."""
    return step.bind(*params) if isinstance(step, Step) else (step, params)
