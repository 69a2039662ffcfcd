"""``folded`` and ``FoldedLayer``: a solver and a step, joined once and called often."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foldopt._arguments import AUTO, CERTIFY, Adjoint, OnFailure, Step, check_arguments
from foldopt._call import Call, graph_break, prepare
from foldopt._problem import Forward, Problem
from foldopt._tree import Leaves, flatten, unflatten
from foldopt.certify import Certify
from foldopt.fold import run
from foldopt.status import FoldError, Solution
from foldopt.step import bind

__all__ = ["FoldedLayer", "folded"]

Solver = Callable[..., Any]


def folded(
    step: Step,
    *,
    adjoint: Adjoint = AUTO,
    batch_dims: int = 1,
    on_failure: OnFailure = "raise",
    certify: Certify = CERTIFY,
) -> Callable[[Solver], Callable[..., Any]]:
    """Decorate a solver, so that its answer has a derivative.

    Parameters
    ----------
    step
        One update ``step(x, *params) -> x`` in PyTorch that leaves the solver's answer fixed; see
        :func:`~foldopt.fold`.
    adjoint, batch_dims, on_failure, certify
        As for :func:`~foldopt.fold`.

    Returns
    -------
    decorator
        Turns ``solver(*params) -> x`` into a differentiable function of the same signature.
        The solver gets detached tensors, in a ``no_grad`` block, and may return numpy or a
        :class:`~foldopt.Solution` with a status for each sample. Under ``torch.func.vmap`` it is
        called once for each entry.

    Raises
    ------
    FoldError, TypeError, ValueError
        As for :func:`~foldopt.fold`; also if the solver changes a param in place.

    Examples
    --------
    >>> import numpy as np, torch, foldopt as fo
    >>> @fo.folded(lambda x, c: 0.5 * (x + c / x))
    ... def square_root(c):
    ...     return np.sqrt(c.numpy())  # any code at all
    >>> c = torch.tensor([[4.0]], requires_grad=True)
    >>> square_root(c).sum().backward()
    >>> c.grad
    tensor([[0.2500]])
    """
    check_arguments(step, adjoint, batch_dims, on_failure, certify)

    def decorate(solver: Solver) -> Callable[..., Any]:
        if not callable(solver):
            raise TypeError(f"folded: expected a solver(*params), got {type(solver).__name__}")
        once = _Once()

        @functools.wraps(solver)
        def differentiable(*params: Any) -> Any:
            return _solve_and_fold(
                solver, step, params, adjoint, batch_dims, on_failure, certify, once
            )

        return differentiable

    return decorate


class FoldedLayer(nn.Module):
    """A solver with a derivative, as a module.

    Parameters
    ----------
    solver
        ``solver(*params) -> x``: any code; see :func:`~foldopt.folded`.
    step
        ``step(x, *params) -> x`` in PyTorch. If it is an ``nn.Module``, its parameters are this
        layer's, and get their gradients.
    adjoint, batch_dims, on_failure, certify
        As for :func:`~foldopt.fold`.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> layer = fo.FoldedLayer(torch.sqrt, lambda x, c: 0.5 * (x + c / x))
    >>> c = torch.tensor([[4.0]], requires_grad=True)
    >>> layer(c).sum().backward()
    >>> c.grad
    tensor([[0.2500]])
    """

    def __init__(
        self,
        solver: Solver,
        step: Step,
        *,
        adjoint: Adjoint = AUTO,
        batch_dims: int = 1,
        on_failure: OnFailure = "raise",
        certify: Certify = CERTIFY,
    ) -> None:
        super().__init__()
        check_arguments(step, adjoint, batch_dims, on_failure, certify)
        if not callable(solver):
            raise TypeError(f"solver must be callable, got {type(solver).__name__}")
        self.solver = solver
        self.step = step
        self.adjoint = adjoint
        self.batch_dims = batch_dims
        self.on_failure: OnFailure = on_failure
        self.certify = certify
        self._once = _Once()

    def forward(self, *params: Any) -> Any:
        """The solution, differentiable in every param and in the step's own parameters."""
        return _solve_and_fold(
            self.solver,
            self.step,
            params,
            self.adjoint,
            self.batch_dims,
            self.on_failure,
            self.certify,
            self._once,
        )

    def extra_repr(self) -> str:
        return f"adjoint={self.adjoint!r}, batch_dims={self.batch_dims}"


class _Once:
    """True at the first call, then False: the look for mixed samples needs no repetition."""

    def __init__(self) -> None:
        self.due = True

    def __call__(self) -> bool:
        due, self.due = self.due, False
        return due


@graph_break
def _solve_and_fold(
    solver: Solver,
    step: Step,
    params: tuple[Any, ...],
    adjoint: Adjoint,
    batch_dims: int,
    on_failure: OnFailure,
    certify: Certify,
    once: _Once,
) -> Any:
    solver, step, params = _bind(solver, step, params)
    call = prepare(step, params, adjoint, batch_dims, on_failure, certify, once)
    return run(call, _by_solver(solver, call), ())


def _bind(solver: Solver, step: Step, params: tuple[Any, ...]) -> tuple[Solver, Step, tuple]:
    """Precompute what the step asks for; the solver goes on with the params as they were given.

    Both kinds then travel side by side, the solver's cut from the graph: their derivative is zero.
    """
    bound, prepared = bind(step, params)
    if bound is step:
        return solver, step, params
    leaves, spec = flatten(params)
    held = unflatten([leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)

    def update(x: Any, _held: Any, prepared: Any) -> Any:
        return bound.update(x, *prepared)

    return (
        functools.wraps(solver)(lambda held, _prepared: solver(*held)),
        dataclasses.replace(bound, update=update),
        (held, prepared),
    )


def _by_solver(solver: Solver, call: Call) -> Forward:
    """The forward pass by a blackbox."""

    def forward(problem: Problem, starts: Leaves, tensors: Leaves) -> tuple[Leaves, Tensor | None]:
        before = [_version(leaf) for leaf in tensors]
        with torch.no_grad():
            x = solver(*call.solver_params(tensors))
        if before != [_version(leaf) for leaf in tensors]:
            raise FoldError(
                "fold: the solver changed one of its params in place; every gradient after that "
                "would be wrong. Clone inside the solver before writing."
            )
        status = None
        if isinstance(x, Solution):
            problem.messages = _messages(x)
            x, status = x.x, x.status
        leaves = call.take_solution(x)
        if status is not None:
            status = torch.as_tensor(status).reshape(-1)
        return leaves, status

    return forward


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _messages(solution: Solution) -> tuple[str, ...]:
    said = solution.messages
    return (said,) if isinstance(said, str) else tuple(said or ())
