"""A call of the layer as a batch of cone programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt._arguments import OnFailure
from foldopt._calculus import transforms_active
from foldopt._call import prepare
from foldopt._problem import Problem
from foldopt._tree import Leaves
from foldopt.certify import Certify
from foldopt.cvxpy._adjoint import ConeKKT
from foldopt.cvxpy._canonical import Canonical
from foldopt.cvxpy._cones import Cones
from foldopt.cvxpy._engines.choose import Engine
from foldopt.cvxpy._forward import solve
from foldopt.cvxpy._layout import layout
from foldopt.cvxpy._program import Program
from foldopt.cvxpy._step import Point, Update, units
from foldopt.fold import run
from foldopt.solvers import _scipy
from foldopt.step import Step

__all__ = ["Conic"]


class Conic:
    """The cone programs of one layer, and the last solutions, for warm starts."""

    def __init__(self, form: Canonical, on_failure: OnFailure, certify: Certify) -> None:
        self._form = form
        self.layout = layout(form)
        self.on_failure: OnFailure = on_failure
        self.certify = certify
        self._updates: dict[torch.device, Update] = {}
        self._update(torch.device("cpu"))
        self._last: list[Any] = []

    def __call__(
        self, blocks: Leaves, count: int | None, engine: Engine, warm_start: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and the status, from the blocks P, q, A, b; ``count``: of samples, None for one."""
        P, q, A, b = blocks
        samples = 1 if count is None else count
        q, b = (part.expand(samples, part.shape[-1]) for part in (q, b))
        update = self._update(q.device)
        E, c = units(update, P, q, A, b)
        step = Step(update, name="cone KKT", bound=True)
        adjoint = ConeKKT()
        call = prepare(
            step, (P, q, A, b, E, c), adjoint, 1, self.on_failure, self.certify, lambda: False
        )
        starts = self._last if warm_start else []
        seen: list[Tensor] = []

        def by_engine(problem: Problem, _: Leaves, tensors: Leaves) -> tuple[Leaves, Tensor]:
            point, status = self._solve(problem, tensors, engine, starts, adjoint)
            seen[:] = [status]
            return call.take_solution(point), status

        x, v, gauge = run(call, by_engine, ())
        y = (E * gauge.detach().exp() / c) * update.cones.project(v)
        if count is None:
            return x[0], y[0], seen[0][0]
        return x, y, seen[0]

    def _update(self, device: torch.device) -> Update:
        if device in self._updates:
            return self._updates[device]
        made = Update(*self._form.patterns(device), self._form.cones)
        if not transforms_active():  # what is made inside one may not outlive it
            self._updates[device] = made
        return made

    def _solve(
        self, problem: Problem, tensors: Leaves, engine: Engine, starts: list[Any], adjoint: ConeKKT
    ) -> tuple[Point, Tensor]:
        """The forward pass on plain tensors."""
        form = self._form
        P, q, A, b, E, c = (tensor.detach().cpu().numpy() for tensor in tensors)
        programs = self._programs(P, q, A, b, E, c)
        begin: list[Any] = [None] * len(q)
        if len(starts) == len(q):
            begin = [_start(form.cones, *parts) for parts in zip(starts, E, c, strict=True)]
        samples = solve(programs, engine, begin)
        adjoint.samples += samples
        self._last = [
            None if one.program is None else (one.x, one.v, one.gauge, e, unit)
            for one, e, unit in zip(samples, E, c, strict=True)
        ]
        said = tuple(one.said for one in samples)
        problem.messages = said if any(said) else ()
        status = torch.tensor([int(one.status) for one in samples])
        like = tensors[1]

        def stacked(parts: list[np.ndarray | None], size: int) -> Tensor:
            rows = [np.full(size, np.nan) if part is None else part for part in parts]
            made = np.stack(rows) if rows else np.zeros((0, size))
            return torch.from_numpy(made).to(like)

        n, m = q.shape[-1], b.shape[-1]
        x = stacked([one.x for one in samples], n)
        v, gauge = (stacked([getattr(one, part) for one in samples], m) for part in ("v", "gauge"))
        return Point(x, v, gauge), status

    def _programs(self, *blocks: np.ndarray) -> list[Program | None]:
        form, q, b = self._form, blocks[1], blocks[3]
        n, m = q.shape[-1], b.shape[-1]
        made: list[Program | None] = []
        for i in range(len(q)):
            P, q_, A, b_, E, c = (part[i] if part.ndim == 2 else part for part in blocks)
            if not all(np.isfinite(part).all() for part in (P, q_, A, b_)):
                made.append(None)
                continue
            csc = _scipy.sparse.csc_matrix
            P = csc((c * P, *form.P_at), shape=(n, n))
            A = csc((E[form.A_at[0]] * A, *form.A_at), shape=(m, n))
            made.append(Program(P, c * q_, A, E * b_, form.cones, self.layout))
        return made


def _start(cones: Cones, last: Any, E: np.ndarray, c: np.ndarray) -> Any:
    """x and v of the last solution in the units of the next program; None: there is none."""
    if last is None:
        return None
    x, v, gauge, last_E, last_c = last
    y, unit = cones.project(torch.from_numpy(v)).numpy(), last_E * np.exp(gauge)
    return x, (y * unit / last_c) * (c / E) - (y - v) / unit * E
