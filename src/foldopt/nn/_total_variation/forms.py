"""Which step, adjoint and solver serve which operator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt._tree import Leaves
from foldopt.nn._total_variation import dense, image, sequence, sparse
from foldopt.nn._total_variation.adjoint import Adjoint
from foldopt.nn._total_variation.data import Data
from foldopt.nn._total_variation.step import update
from foldopt.status import Status
from foldopt.step import Step

__all__ = ["Form", "form_of"]

Answer = tuple[Any, Tensor, Tensor]
"""x, or a :class:`~foldopt.nn._total_variation.step.Point`; the status; what is weakly active."""

_SEQUENCE = Step(sequence.update, symmetric=True, newton=True, name="averaging", bound=True)
_DENSE = Step(update, symmetric=True, name="total variation", bound=True)
_SPARSE = Step(sparse.update, symmetric=True, name="total variation, sparse", bound=True)


@dataclasses.dataclass(frozen=True)
class Form:
    """How one call of the layer is solved.

    Attributes
    ----------
    step, adjoint, params
        For the fold.
    solve
        ``solve(tensors, dtype)`` for the params in float64 on the CPU, to be rounded to ``dtype``.
    """

    step: Step
    adjoint: Any
    params: tuple[Tensor, ...]
    solve: Callable[[Leaves, torch.dtype], Answer]


def form_of(data: Data, event: tuple[int, ...]) -> Form:
    """The form for some data, with the shape of one signal."""
    params = (data.signal, data.weight)
    if data.operator is None:
        if len(event) == 2:
            return Form(image.step(event), sequence.Averaging(), params, image.solver(event))
        return Form(_SEQUENCE, sequence.Averaging(), params, _sequence)
    adjoint = Adjoint()
    if data.operator.layout == torch.strided:

        def by_newton(tensors: Leaves, dtype: torch.dtype) -> Answer:
            point, done, weak, adjoint.rows = dense.solve(tensors, dtype)
            return point, _status(done), weak

        return Form(_DENSE, adjoint, (*params, data.operator), by_newton)
    m = data.operator.shape[0]

    def by_interior_points(tensors: Leaves, dtype: torch.dtype) -> Answer:
        point, done, weak, adjoint.rows = sparse.solve(tensors, m, dtype)
        return point, _status(done), weak

    return Form(_SPARSE, adjoint, (*params, *sparse.taken_apart(data.operator)), by_interior_points)


def _sequence(tensors: Leaves, _dtype: torch.dtype) -> Answer:
    x, weak = sequence.solve(*tensors)
    return x, torch.zeros(len(x), dtype=torch.int64), weak


def _status(done: Tensor) -> Tensor:
    return torch.where(done, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
