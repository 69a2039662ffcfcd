"""From a user's arguments to tensors and back: structure, dtypes, modules, checks of the step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from foldopt import _calculus as calculus
from foldopt._arguments import (
    Adjoint,
    Step,
    check_arguments,
    check_solution,
    closed_over,
    names,
    to_tensor,
)
from foldopt._problem import Closed, Forward, Options, Problem
from foldopt._tree import Leaves, Spec, describe, flatten, unflatten
from foldopt.certify import Certify, captured_message
from foldopt.status import FoldError, active_record, inside_step

F = TypeVar("F", bound=Callable[..., Any])

_HALF = (torch.float16, torch.bfloat16)


def graph_break(function: F) -> F:
    """Make a function a graph break for ``torch.compile``: its Krylov loops are data-dependent.

    ``torch.compiler.disable`` alone would do; it costs 45 µs a call, also where nothing compiles.
    """
    outside = torch.compiler.disable(function)

    @functools.wraps(function)
    def entry(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return outside(*args, **kwargs)
        return function(*args, **kwargs)

    return cast(F, entry)


@dataclasses.dataclass
class Call:
    """One call's arguments, taken apart.

    Attributes
    ----------
    tensors
        The tensors among the module's weights and the params, half precision raised to float32.
    x_spec, x_dtype
        The structure and dtype of the solution, once it is known.
    """

    step: Step
    tensors: Leaves
    options: Options
    _leaves: list[Any]
    _spec: Spec | None  # None: the params are plain tensors
    _where: list[int]
    _given_dtypes: list[torch.dtype]
    x_spec: Spec | None = None
    x_dtype: torch.dtype | None = None

    def arrange(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """One value for each tensor, in the structure of the params; None for other leaves."""
        leaves: list[Any] = [None] * len(self._leaves)
        for index, value in zip(self._where, values, strict=True):
            leaves[index] = value
        return tuple(leaves) if self._spec is None else unflatten(leaves, self._spec)[1]

    def params(self, tensors: Sequence[Tensor]) -> tuple[Any, tuple[Any, ...]]:
        """The module's weights (or None) and the params, rebuilt around other tensors."""
        if self._spec is None:
            return None, tuple(tensors)
        leaves = list(self._leaves)
        for index, tensor in zip(self._where, tensors, strict=True):
            leaves[index] = tensor
        return unflatten(leaves, self._spec)

    def solver_params(self, tensors: Leaves) -> tuple[Any, ...]:
        """The params as the user gave them: detached, and in their own dtypes."""
        own = [
            leaf.detach().to(dtype) for leaf, dtype in zip(tensors, self._given_dtypes, strict=True)
        ]
        return self.params(own)[1]

    def take_solution(self, x: Any) -> Leaves:
        """A solution as the user's solver returns it, to leaves that the step can take."""
        leaves, spec = flatten(x)
        reference = next((t for t in self._dtypes_seen()), None)
        device = next((t.device for t in self.tensors), None)
        tensors = tuple(to_tensor(leaf, reference, device) for leaf in leaves)
        if not tensors:
            raise TypeError("x_star: the solution holds no tensor")
        check_solution(tensors, self.options.batch_dims, self._dtypes_seen(), device)
        self.x_spec = spec
        self.x_dtype = tensors[0].dtype
        return tuple(leaf.float() if leaf.dtype in _HALF else leaf for leaf in tensors)

    def take_own(self, x: Any) -> Leaves:
        """A solution that one of our own layers has made: new tensors, as they ought to be."""
        leaves, self.x_spec = flatten(x)
        self.x_dtype = leaves[0].dtype
        return tuple(leaves)

    def give(self, leaves: Leaves) -> Any:
        """Leaves of x to the user's structure and dtype."""
        assert self.x_spec is not None
        if self.x_dtype in _HALF:
            leaves = tuple(leaf.to(self.x_dtype) for leaf in leaves)
        return unflatten(leaves, self.x_spec)

    def problem(self, forward: Forward) -> Problem:
        """The problem that this call poses, solved by ``forward``."""
        options = self.options._replace(x_dtype=lambda: self.x_dtype, closed=self._closed())
        return Problem(self.update, forward, options)

    def update(self, x: Leaves, tensors: Leaves) -> Leaves:
        """The user's step on leaves, its result checked."""
        assert self.x_spec is not None
        weights, params = self.params(tensors)
        state = unflatten(x, self.x_spec)
        outside = inside_step.set(True)
        try:
            if torch.is_autocast_enabled(x[0].device.type):
                with torch.autocast(x[0].device.type, enabled=False):
                    result = self._step(weights, state, params)
            else:
                result = self._step(weights, state, params)
        except RuntimeError as error:
            if "numpy" not in str(error) and ".item()" not in str(error):
                raise
            raise FoldError(
                f"fold: the step is not PyTorch throughout ({error}). numpy and Python numbers "
                "have no derivative: write the step in PyTorch operations."
            ) from error
        finally:
            inside_step.reset(outside)
        leaves, spec = flatten(result)
        self._check_result(x, leaves, spec)
        return tuple(leaves)

    def _closed(self) -> Closed | None:
        """The step's own Ψᵀv, on leaves."""
        function = getattr(self.step, "params_vjp", None)
        if function is None or self._spec is not None:
            return None

        def closed(x: Leaves, tensors: Leaves, v: Leaves) -> Sequence[Tensor | None]:
            assert self.x_spec is not None
            state, cotangent = unflatten(x, self.x_spec), unflatten(v, self.x_spec)
            return function(state, tensors, cotangent, self.options.wanted)

        return closed

    def _step(self, weights: dict[str, Tensor] | None, state: Any, params: tuple[Any, ...]) -> Any:
        if weights is None:
            return self.step(state, *params)
        assert isinstance(self.step, nn.Module)
        return torch.func.functional_call(self.step, weights, (state, *params))

    def _check_result(self, x: Leaves, leaves: list[Any], spec: Spec) -> None:
        if not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise FoldError(
                f"fold: the step returned {describe(leaves)}: every leaf must be a tensor. Write "
                "the step in PyTorch operations (no numpy)."
            )
        if spec is not self.x_spec and spec != self.x_spec:
            raise FoldError(
                f"fold: the step must return x's structure {self.x_spec}, and returned {spec}."
            )
        for old, new in zip(x, leaves, strict=True):
            if (new.shape, new.dtype, new.device) != (old.shape, old.dtype, old.device):
                raise FoldError(
                    f"fold: the step must return what it was given, {describe(x)}, and returned "
                    f"{describe(leaves)}. A shape that grew comes from broadcasting against a "
                    "param of another batch shape; another dtype, from a constant or param of "
                    "that dtype: convert it with .to(x)."
                )
            if calculus.wrapped_by_a_transform(new) and not calculus.transforms_active():
                raise FoldError(captured_message(tuple(new.shape)))

    def _dtypes_seen(self) -> list[torch.dtype]:
        return [dtype for dtype in self._given_dtypes if dtype.is_floating_point]


def prepare(
    step: Step,
    params: tuple[Any, ...],
    adjoint: Adjoint,
    batch_dims: int,
    on_failure: str,
    certify: Certify,
    look_for_mixing: Callable[[], bool] = lambda: True,
) -> Call:
    """Check the arguments of a fold and take them apart."""
    check_arguments(step, adjoint, batch_dims, on_failure, certify)
    if calculus.nested_forward_mode():
        raise FoldError(
            "fold: forward mode inside forward mode (jvp of jvp, jacfwd of jacfwd) loses the "
            "outer derivative in PyTorch's custom functions. Use jacfwd(jacrev(f)), which is "
            "torch.func.hessian, or jacrev(jacfwd(f))."
        )
    if calculus.transforms_active():
        stranger = closed_over(step)
        if stranger is not None:
            raise FoldError(captured_message(tuple(stranger.shape)))
    # A module's parameters are params of the step like any other; the solver does not see them.
    weights = dict(step.named_parameters()) if isinstance(step, nn.Module) else None
    if weights is None and all(isinstance(leaf, Tensor) for leaf in params):
        leaves, spec = list(params), None
    else:
        leaves, spec = flatten((weights, params))
    where = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    given = [leaves[index] for index in where]
    for leaf in given:
        if leaf.is_complex():
            raise TypeError(
                f"params: complex tensors ({describe([leaf])}) are not supported; pass "
                "torch.view_as_real(c) and rebuild the complex number inside the step"
            )
    tensors = tuple(leaf.float() if leaf.dtype in _HALF else leaf for leaf in given)
    # Inside a transform a plain tensor's requires_grad says nothing of the levels above it.
    unknown = calculus.transforms_active() or calculus.forward_mode_active()
    wanted = tuple(leaf.is_floating_point() and (unknown or leaf.requires_grad) for leaf in tensors)
    n_weights = 0 if weights is None else len(weights)
    options = Options(
        adjoint=adjoint,
        batch_dims=batch_dims,
        on_failure=on_failure,
        certify=certify,
        record=active_record(),
        symmetric=bool(getattr(step, "symmetric", False)),
        newton=bool(getattr(step, "newton", False)),
        names=names(len(given), n_weights, params, unknown or getattr(step, "bound", False)),
        wanted=wanted,
        recording=torch.is_grad_enabled(),
        look_for_mixing=look_for_mixing,
        closed=None,
        nested=inside_step.get(),
        x_dtype=lambda: None,
    )
    return Call(step, tensors, options, leaves, spec, where, [leaf.dtype for leaf in given])
