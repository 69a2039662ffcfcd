"""A call of the layer with sparse Q, G and A."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt import solvers
from foldopt._arguments import OnFailure
from foldopt._call import prepare
from foldopt._problem import Problem
from foldopt._tree import Leaves
from foldopt.certify import Certify
from foldopt.fold import run
from foldopt.nn._qp.program import Program, unusable
from foldopt.nn._qp.sparse.adjoint import SparseKKT
from foldopt.nn._qp.sparse.forward import Sample, solve
from foldopt.nn._qp.sparse.program import Params, params_of
from foldopt.nn._qp.sparse.step import Point, Update
from foldopt.status import Status
from foldopt.step import Step

__all__ = ["solve_sparse"]


def solve_sparse(
    given: tuple[Any, ...],
    *,
    regularization: float,
    engines: solvers.QP,
    on_failure: OnFailure,
    certify: Certify,
) -> tuple[Point, Tensor]:
    """x and the multipliers ``(*batch, …)``, differentiable, and the status of each sample.

    ``given`` holds Q, p, G, h, A, b, lower, upper as :class:`~foldopt.nn.QP` takes them.
    """
    return _outside(given, regularization, engines, on_failure, certify)


def _solve(
    given: tuple[Any, ...],
    regularization: float,
    engines: solvers.QP,
    on_failure: OnFailure,
    certify: Certify,
) -> tuple[Point, Tensor]:
    params, patterns, batch = params_of(*given)
    step = Step(Update(*patterns, regularization), symmetric=True, name="sparse KKT", bound=True)
    adjoint = SparseKKT()
    call = prepare(step, tuple(params), adjoint, 1, on_failure, certify, lambda: False)
    status: list[Tensor] = []

    def by_engine(problem: Problem, _starts: Leaves, tensors: Leaves) -> tuple[Leaves, Tensor]:
        at = Params(*(tensor.detach() for tensor in tensors))
        bad, holds = _unusable(at, on_failure)
        samples = solve(_plain(at), patterns, regularization, engines, ~bad)
        adjoint.samples += samples
        said = tuple(holds if one.status == Status.NONFINITE else one.said for one in samples)
        problem.messages = said if any(said) else ()
        status[:] = [torch.tensor([int(one.status) for one in samples])]
        return call.take_solution(_together(samples, at)), status[0]

    point = Point(*run(call, by_engine, ()))
    parts = (part.reshape(*batch, part.shape[-1]) for part in point)
    return Point(*parts), status[0].reshape(batch).to(params.p.device)


# The layer breaks the graph of torch.compile already; but where an argument is sparse dynamo (2.13)
# gives its call up before that, and then tries whatever is called from there.
_outside: Any = torch.compiler.disable(_solve)


def _plain(params: Params) -> Params:
    def moved(block: Tensor) -> Tensor:
        return (block.double() if block.is_floating_point() else block).cpu()

    return Params(*(moved(block) for block in params))


def _unusable(params: Params, on_failure: OnFailure) -> tuple[Tensor, str]:
    def as_matrix(values: Tensor) -> Tensor:
        return values.unsqueeze(-2)

    Q, p, G, h, A, b, lower, upper = params[:8]
    shown = Program(as_matrix(Q), p, as_matrix(G), h, as_matrix(A), b, lower, upper)
    bad, holds = unusable(shown)
    if holds and (on_failure == "raise" or bool(bad.all())):
        raise ValueError(
            f"nn.QP: {holds}. Look at where it comes from: a network that has diverged, or "
            "missing data"
        )
    return bad, holds


def _together(samples: list[Sample], like: Params) -> Point:
    """All samples' points, NaN where there is none."""
    sizes = [block.shape[-1] for block in (like.p, like.h, like.b, like.lower)]

    def stacked(part: int, size: int) -> Tensor:
        rows = [np.full(size, np.nan) if one.point is None else one.point[part] for one in samples]
        return torch.from_numpy(np.stack(rows)).to(like.p)

    return Point(*(stacked(part, size) for part, size in enumerate(sizes)))
