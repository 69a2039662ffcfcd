"""What the user gave: functions, bounds, and params with or without a row for each sample."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foldopt._program import Constraint, Function, Program
from foldopt._tree import flatten, unflatten

__all__ = ["Bound", "Model", "Point", "bounds_of", "flattened", "repeated", "sound_params"]

Bound = Callable[..., Any] | Tensor | float | None


class Point(NamedTuple):
    """x and the multipliers: λ ``(B, m)``, ν ``(B, k)``, μ ``(B, n)``, or ``(B, 0)`` unbounded."""

    x: Tensor
    inequality: Tensor
    equality: Tensor
    bounds: Tensor


@dataclasses.dataclass(frozen=True)
class Model:
    """min f(x) s.t. g(x) ≤ 0, h(x) = 0, lower ≤ x ≤ upper, all of them functions of the params.

    Attributes
    ----------
    program
        f, g and h.
    lower, upper
        None (none), a number, ``(n,)``, or a function of one sample's params.
    """

    program: Program
    lower: Bound = None
    upper: Bound = None

    @staticmethod
    def of(
        objective: Function,
        inequality: Constraint | None,
        equality: Constraint | None,
        bounds: tuple[Bound, Bound] | None,
        shared: Sequence[int],
    ) -> Model:
        """A model, its arguments checked."""
        program = Program.of(objective, inequality, equality, shared, "nn.NLP")
        if bounds is None:
            return Model(program)
        if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
            raise TypeError(
                "nn.NLP: bounds must be a pair (lower, upper), each None, a number, a tensor "
                f"(n,) or a function of the params; got {type(bounds).__name__}"
            )
        for name, bound in zip(("lower", "upper"), bounds, strict=True):
            _check_bound(name, bound)
        return Model(program, *bounds)

    @property
    def bounded(self) -> bool:
        return self.lower is not None or self.upper is not None

    def sharing(self, shared: tuple[int, ...]) -> Model:
        """The same with other shared params."""
        return dataclasses.replace(self, program=dataclasses.replace(self.program, shared=shared))

    def limits(self, x: Tensor, params: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds for x ``(B, n)``, of that shape, differentiable; ±inf: none."""
        return (
            self._limit("lower", self.lower, -math.inf, x, params),
            self._limit("upper", self.upper, math.inf, x, params),
        )

    def _limit(
        self, name: str, bound: Bound, none: float, x: Tensor, params: tuple[Any, ...]
    ) -> Tensor:
        if callable(bound) and not isinstance(bound, Tensor):
            of_params: Callable[..., Any] = bound
            bound = self.program.each(lambda y, *c: _row(name, of_params(*c), y), x, params)
        found = torch.as_tensor(none if bound is None else bound, dtype=x.dtype, device=x.device)
        if found.dim() and found.shape[-1] != x.shape[-1]:
            raise ValueError(
                f"nn.NLP: bounds: {name} has shape {tuple(found.shape)}, and x has "
                f"{x.shape[-1]} variables"
            )
        return found.expand_as(x)


def _check_bound(name: str, bound: Any) -> None:
    if isinstance(bound, Tensor):
        if bound.dim() > 1 or not bound.is_floating_point() or bool(bound.isnan().any()):
            raise ValueError(
                f"nn.NLP: bounds: {name} must be a floating tensor (n,) without NaN, got "
                f"{bound.dtype} of shape {tuple(bound.shape)}. One for each sample is a param: "
                f"bounds=(lambda *params: ..., ...)"
            )
        if bound.requires_grad:
            raise ValueError(
                f"nn.NLP: bounds: {name} requires grad, and would get none. Pass it as a param, "
                "and give a function of the params as the bound"
            )
    elif bound is not None and not callable(bound) and not isinstance(bound, (int, float)):
        raise TypeError(
            f"nn.NLP: bounds: {name} must be None, a number, a tensor (n,) or a function of the "
            f"params, got {type(bound).__name__}"
        )


def _row(name: str, bound: Any, x: Tensor) -> Tensor:
    """What a bound's function returned for one sample, in the shape of x."""
    found = torch.as_tensor(bound, dtype=x.dtype, device=x.device)
    if found.dim() and found.shape != x.shape:
        raise ValueError(
            f"nn.NLP: bounds: {name}(*params) gets one sample, and must return a number or shape "
            f"{tuple(x.shape)}; it returned {tuple(found.shape)}"
        )
    return found.expand_as(x)


def bounds_of(model: Model, n: int | None) -> int | None:
    """The number of variables, if a fixed bound tells it and ``n`` does not."""
    for bound in (model.lower, model.upper):
        if n is None and isinstance(bound, Tensor) and bound.dim():
            n = bound.shape[-1]
    return n


def flattened(
    params: tuple[Any, ...], shared: tuple[int, ...], batch_dims: int
) -> tuple[tuple[Any, ...], torch.Size, tuple[int, ...]]:
    """The params with one batch dimension, the batch shape, and which of them have none.

    A param all of whose tensors are single numbers is shared, and without a batch all are.
    """
    count = len(params)
    for position in shared:
        if not -count <= position < count:
            raise ValueError(
                f"nn.NLP: shared={shared}: there are {count} param(s), and none has number "
                f"{position}"
            )
    if not batch_dims:
        return params, torch.Size(), tuple(range(count))
    common = {position % count for position in shared} if count else set()
    batch, found = None, []
    for index, param in enumerate(params):
        leaves, spec = flatten(param)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if index in common or all(leaf.dim() == 0 for leaf in tensors):
            common.add(index)
            found.append(param)
            continue
        for leaf in tensors:
            lead = leaf.shape[:batch_dims]
            batch = lead if batch is None else batch
            if len(lead) < batch_dims or lead != batch:
                raise ValueError(
                    f"nn.NLP: param {index} has shape {tuple(leaf.shape)}, which must begin with "
                    f"the batch shape {tuple(batch)} (batch_dims={batch_dims}). A param that all "
                    f"samples have in common is named by its position, shared=({index},); of one "
                    "sample alone, batch_dims=0"
                )
        flat = [
            leaf.flatten(0, batch_dims - 1) if isinstance(leaf, Tensor) else leaf for leaf in leaves
        ]
        found.append(unflatten(flat, spec))
    return tuple(found), torch.Size() if batch is None else batch, tuple(sorted(common))


def _on_rows(
    params: tuple[Any, ...], shared: tuple[int, ...], function: Callable[[Tensor], Tensor]
) -> tuple[Any, ...]:
    """``function`` of each tensor that has a row for each sample."""
    found = []
    for index, param in enumerate(params):
        leaves, spec = flatten(param)
        if index not in shared:
            leaves = [function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        found.append(unflatten(leaves, spec))
    return tuple(found)


def repeated(params: tuple[Any, ...], shared: tuple[int, ...], times: int) -> tuple[Any, ...]:
    """Every sample several times in a row."""
    if times == 1:
        return params
    return _on_rows(params, shared, lambda leaf: leaf.repeat_interleave(times, 0))


def sound_params(
    params: tuple[Any, ...], shared: tuple[int, ...], samples: int
) -> tuple[tuple[Any, ...], list[str]]:
    """The params in float64, a good sample's in the place of those with NaN or inf.

    Returns
    -------
    params, said
        What is wrong with each sample, "" mostly.
    """
    said = [""] * samples

    def look(index: int, leaf: Any) -> None:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return
        if leaf.layout != torch.strided:
            raise TypeError(f"nn.NLP: param {index} must be dense, got {leaf.layout}: .to_dense()")
        finite = torch.isfinite(leaf)
        if bool(finite.all()):
            return
        where = tuple(torch.nonzero(~finite)[0].tolist())
        rows = range(samples)
        if index not in shared:
            rows = torch.nonzero(~finite.reshape(samples, -1).all(-1)).flatten().tolist()
        for row in rows:
            said[row] = said[row] or f"param {index} holds {float(leaf[where])} at {where}"

    for index, param in enumerate(params):
        for leaf in flatten(param)[0]:
            look(index, leaf)
    leaves, spec = flatten(params)
    double = [
        leaf.detach().double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
        for leaf in leaves
    ]
    params = unflatten(double, spec)
    good = [row for row, text in enumerate(said) if not text]
    if len(good) < samples and good:
        pick = torch.tensor([row if not said[row] else good[0] for row in range(samples)])
        params = _on_rows(params, shared, lambda leaf: leaf[pick.to(leaf.device)])
    return params, said
