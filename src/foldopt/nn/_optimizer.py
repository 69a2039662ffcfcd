"""A folded optimizer as a module: a step, a solver, and the way from one's answer to the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foldopt._arguments import AUTO, CERTIFY, Adjoint, OnFailure, check_arguments
from foldopt._tree import flatten, unflatten
from foldopt.certify import Certify
from foldopt.layer import folded
from foldopt.solvers._start import check_params_real
from foldopt.status import Solution
from foldopt.step import Step
from foldopt.unroll import fixed_point

__all__ = ["DEFAULT", "FoldedOptimizer", "Options", "check_options", "like", "point_of", "start_of"]

Solver = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a folded optimizer folds, and how it iterates where it has no solver.

    Parameters
    ----------
    adjoint, on_failure, certify
        As for :func:`~foldopt.fold`.
    batch_dims
        1 for x of shape ``(B, n)``, 0 for one instance ``(n,)``.
    rtol, max_iterations
        Of the loop that stands in for a solver: see :func:`~foldopt.fixed_point`.

    Examples
    --------
    >>> import foldopt as fo
    >>> fo.nn.Options(adjoint=fo.GMRES(), on_failure="warn").on_failure
    'warn'
    """

    adjoint: Adjoint = AUTO
    on_failure: OnFailure = "raise"
    certify: Certify = CERTIFY
    batch_dims: int = 1
    rtol: float | None = None
    max_iterations: int = 1000


DEFAULT = Options()


class FoldedOptimizer(nn.Module):
    """An optimization problem as a layer: what ``f_pgd_a`` and its kin return.

    Parameters
    ----------
    step
        The update that is folded, with a readout where its state is not x.
    to_state
        ``to_state(found, *params)``: from what a solver returns, or from a starting point, to the
        state of the step.
    solver
        ``solver(*params)``: any code that returns x, or the state of the step; None: the step is
        iterated, from the x0 that the call then needs.
    options
        See :class:`Options`.
    name
        For messages.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> layer = fo.nn.f_sqp(lambda x, c: ((x - c) ** 2).sum(), equality=lambda x, c: x.sum() - 1)
    >>> c = torch.tensor([[0.5, 1.0]], requires_grad=True)
    >>> x = layer(c, x0=torch.zeros(1, 2))
    >>> x
    tensor([[0.2500, 0.7500]], grad_fn=...)
    """

    def __init__(
        self,
        step: Step,
        to_state: Callable[..., Any],
        solver: Solver | None,
        options: Options,
        name: str,
    ) -> None:
        super().__init__()
        if solver is not None and not callable(solver):
            raise TypeError(f"{name}: solver must be callable, got {type(solver).__name__}")
        check_options(name, options)
        check_arguments(
            step, options.adjoint, options.batch_dims, options.on_failure, options.certify
        )
        self.step = step
        self.to_state = to_state
        self.solver = solver
        self.options = options
        self.name = name

    def forward(self, *params: Any, x0: Tensor | None = None) -> Any:
        """The solution x, differentiable in every param.

        Parameters
        ----------
        *params
            What objective and constraints take after x.
        x0
            Where to start, ``(B, n)``, if there is no solver.
        """
        check_params_real(self.name, params)
        step, prepared = self.step.bind(*params)
        if self.solver is None:
            state = self._iterate(step, prepared, params, x0)
        else:
            state = self._fold(step, prepared, params, self.solver)
        return state if step.readout is None else step.readout(state, *prepared)

    def fold(self, x_star: Any, *params: Any) -> Any:
        """Give a solution that is already there its derivative.

        Parameters
        ----------
        x_star
            x, ``(B, n)``, or the state of the step.
        *params
            What objective and constraints take after x.
        """
        check_params_real(self.name, params)
        step, prepared = self.step.bind(*params)
        state = self._fold(step, prepared, params, lambda *_: x_star)
        return state if step.readout is None else step.readout(state, *prepared)

    def extra_repr(self) -> str:
        solver = getattr(self.solver, "__name__", type(self.solver).__name__)
        return f"{self.name}, solver={'the step itself' if self.solver is None else solver}"

    def _fold(
        self, step: Step, prepared: tuple[Any, ...], params: tuple[Any, ...], solver: Solver
    ) -> Any:
        """Fold with the params at the solver's side, cut from the graph, and the prepared ones."""
        leaves, spec = flatten(params)
        held = unflatten([_cut(leaf) for leaf in leaves], spec)

        def solve(held: tuple[Any, ...], _prepared: Any) -> Any:
            found = solver(*held)
            if isinstance(found, Solution):
                return found._replace(x=self.to_state(found.x, *held))
            return Solution(self.to_state(found, *held))

        def update(state: Any, _held: Any, prepared: tuple[Any, ...]) -> Any:
            return step.update(state, *prepared)

        inner = dataclasses.replace(step, update=update, bound=True)
        options = self.options
        return folded(
            inner,
            adjoint=options.adjoint,
            batch_dims=options.batch_dims,
            on_failure=options.on_failure,
            certify=options.certify,
        )(solve)(held, prepared)

    def _iterate(
        self,
        step: Step,
        prepared: tuple[Any, ...],
        params: tuple[Any, ...],
        x0: Tensor | None,
    ) -> Any:
        options = self.options
        with torch.no_grad():
            start = self.to_state(x0, *params)
        return fixed_point(
            dataclasses.replace(step, bound=True),
            start,
            *prepared,
            rtol=options.rtol,
            max_iterations=options.max_iterations,
            adjoint=options.adjoint,
            batch_dims=options.batch_dims,
            on_failure=options.on_failure,
            certify=options.certify,
        )


def check_options(name: str, options: Any) -> None:
    if not isinstance(options, Options):
        raise TypeError(f"{name}: options must be nn.Options(...), got {options!r}")


def _cut(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def start_of(
    name: str, x0: Any, params: tuple[Any, ...], dims: tuple[int, ...] | None = (1, 2)
) -> Tensor:
    """A starting point, or a given solution: a tensor or an array, of so many dimensions."""
    if not isinstance(x0, (Tensor, np.ndarray)):
        raise ValueError(
            f"{name}: there is no solver, and so a call needs a tensor to start from: "
            f"layer(*params, x0=…), got {x0!r}"
        )
    if isinstance(x0, np.ndarray) and x0.dtype.kind not in "fiu":
        raise TypeError(f"{name}: x0 must hold real numbers, got an array of {x0.dtype}")
    if isinstance(x0, Tensor) and x0.layout != torch.strided:
        raise TypeError(f"{name}: x0 must be dense, got {x0.layout}: pass .to_dense()")
    x = like(x0, params)
    if not x.is_floating_point():
        raise TypeError(
            f"{name}: x0 must be a real floating-point tensor, got {x.dtype} of shape "
            f"{tuple(x.shape)}: pass x0.double(), or the params' dtype"
        )
    if dims is not None and x.dim() not in dims:
        raise ValueError(
            f"{name}: x0 must have shape (n,) or (B, n), got {tuple(x.shape)}. Of a number, make a "
            "vector of n entries: x0.expand(B, n)"
        )
    return x


def point_of(name: str, x0: Any, params: tuple[Any, ...]) -> Tensor:
    """:func:`start_of` for x, which has an entry or more, in one of the params' dtypes."""
    x = start_of(name, x0, params)
    if x.shape[-1] == 0:
        raise ValueError(
            f"{name}: x0 must have shape (n,) or (B, n) with n of 1 or more, got {tuple(x.shape)}"
        )
    leaves = [leaf for leaf in flatten(params)[0] if isinstance(leaf, Tensor)]
    dtypes = {leaf.dtype for leaf in leaves if leaf.is_floating_point()}
    if dtypes and x.dtype not in dtypes:
        raise TypeError(
            f"{name}: x0 is {x.dtype}, the params are {', '.join(sorted(map(str, dtypes)))}: "
            "nothing is cast unasked. Pass x0.to(param.dtype)"
        )
    return x


def like(found: Any, params: tuple[Any, ...]) -> Tensor:
    """What a solver returned, numpy in the dtype of the params."""
    if isinstance(found, Tensor):
        return found.detach()
    leaves = [leaf for leaf in flatten(params)[0] if isinstance(leaf, Tensor)]
    floating = [leaf for leaf in leaves if leaf.is_floating_point()]
    like = floating[0] if floating else torch.zeros((), dtype=torch.float64)
    return torch.as_tensor(found, dtype=like.dtype, device=like.device)
