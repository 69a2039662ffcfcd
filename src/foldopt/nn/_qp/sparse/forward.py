"""The forward pass of the sparse layer: an engine's answer, then the exact one, for each sample."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt import solvers
from foldopt.nn._messages import NOT_CONVEX, WEAK
from foldopt.nn._qp.sparse.active import Found, exact, guessed
from foldopt.nn._qp.sparse.matrix import Pattern
from foldopt.nn._qp.sparse.program import Params
from foldopt.nn._qp.sparse.scaled import Scaled
from foldopt.solvers import _scipy
from foldopt.solvers._qp.arguments import convexity_of
from foldopt.solvers._qp.choose import Convexity, Traits, choose
from foldopt.solvers._qp.one import as_program, plain
from foldopt.solvers._qp.others import engine_called
from foldopt.solvers._qp.presolve import reduce
from foldopt.solvers._qp.program import Limits, Point, Program
from foldopt.status import Status

__all__ = ["Sample", "solve"]

UNCLEAR = (
    "the optimality conditions hold to the engine's accuracy only: which constraints are active "
    "is a guess"
)
# At this accuracy the active rows are clear, mostly; the rest of the digits comes from them. An
# iteration more of the engine costs far less than a factorization that shows a wrong row: at 1e-8 a
# total variation of 1e6 places had one.
_FIRST = 1e-9


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample's outcome; no point, no factors: it is not solved."""

    status: Status
    said: str = ""
    point: Point | None = None
    scaled: Scaled | None = None
    found: Found | None = None


def solve(
    params: Params,
    patterns: tuple[Pattern, Pattern, Pattern],
    regularization: float,
    engines: solvers.QP,
    usable: Tensor,
) -> list[Sample]:
    """Solve the samples of float64 params on the CPU; those not ``usable`` are NONFINITE."""
    bounded = bool(params.lower.shape[-1])
    program_at = _programs(params, patterns, regularization)
    outcomes, convexity = [], functools.cache(_convexity)
    for sample, fine in enumerate(usable.tolist()):
        if not fine:
            outcomes.append(Sample(Status.NONFINITE))
            continue
        program, Q = program_at(sample)
        outcomes.append(_solved(program, convexity(Q), engines, bounded))
    return outcomes


class _Matrix:
    """A sparse matrix that can be told from others by what it is, for a cache."""

    def __init__(self, values: Tensor, pattern: Pattern) -> None:
        places = (pattern.rows.cpu().numpy(), pattern.columns.cpu().numpy())
        self.csc: Any = _scipy.sparse.csc_matrix((values.numpy(), places), shape=pattern.shape)


def _programs(
    params: Params, patterns: tuple[Pattern, Pattern, Pattern], regularization: float
) -> Callable[[int], tuple[Program, _Matrix]]:
    """A sample's program, and its Q. What all samples share is made once."""

    @functools.cache
    def matrix(name: str, sample: int | None) -> _Matrix:
        pattern, values = patterns["QGA".index(name)], getattr(params, name)
        if sample is not None:
            values = values if values.dim() == 1 else values[sample]
            if pattern.rows.dim() == 2:
                pattern = Pattern(pattern.rows[sample], pattern.columns[sample], pattern.shape)
        made = _Matrix(values, pattern)
        if name == "Q" and regularization:
            made.csc = made.csc + regularization * _scipy.sparse.eye(made.csc.shape[0])
        return made

    def vector(
        block: Tensor, sample: int, far: Tensor | None = None, at: float = 0.0
    ) -> np.ndarray:
        if far is not None:
            block = torch.where(far, at, block)
        return (block if block.dim() == 1 else block[sample]).numpy()

    def program(sample: int) -> tuple[Program, _Matrix]:
        which = {
            name: matrix(name, None if getattr(params, name).dim() == 1 else sample)
            for name in ("Q", "G", "A")
        }
        lower = vector(params.lower, sample, params.far_lower, -np.inf)
        upper = vector(params.upper, sample, params.far_upper, np.inf)
        made = as_program(
            which["Q"].csc, vector(params.p, sample), which["G"].csc,
            vector(params.h, sample, params.far_h, np.inf), which["A"].csc,
            vector(params.b, sample), lower if len(lower) else None, upper if len(upper) else None,
        )  # fmt: skip
        return made, which["Q"]

    return program


def _convexity(Q: _Matrix) -> Convexity | None:
    """None: it is not convex."""
    entries = Q.csc.tocoo()
    if (entries.row == entries.col).all():  # no factorization is needed to see it
        diagonal = Q.csc.diagonal()
        if not diagonal.any():
            return "linear"
        least = diagonal.min()
        if least < -1e-9 * diagonal.max():
            return None
        return "strong" if least > 1e-9 * diagonal.max() else "semidefinite"
    try:
        return convexity_of(Q.csc, None)
    except ValueError:
        return None


def _solved(
    program: Program, convexity: Convexity | None, engines: solvers.QP, bounded: bool
) -> Sample:
    if convexity is None:
        return Sample(Status.FAILED, NOT_CONVEX)
    scaled = Scaled.of(program, bounded)
    near = _first(program, convexity, engines)
    if near is not None:
        found = exact(scaled, guessed(scaled, near), near)
        if found.good:
            return _sample(program, scaled, found, "")
    # The engines by their own means: several of them, tighter tolerances, proofs.
    Q = None if convexity == "linear" else program.hessian()
    solution = engines(
        Q, program.p, program.G, program.h, program.A, program.b, program.lower, program.upper
    )
    status, said = Status(int(solution.status)), "".join(solution.messages or ())
    if status != Status.CONVERGED:
        return Sample(status, said)
    point = Point(*(np.asarray(part) for part in (solution.x, *solution.multipliers)))
    sides = guessed(scaled, point)
    found = exact(scaled, sides, point)
    if found.good:
        return _sample(program, scaled, found, said)
    y = np.where(sides != 0, scaled.multipliers(point), 0)
    found = Found(scaled.system(sides), sides, point.x, y, False)
    return _sample(program, scaled, found, said or UNCLEAR)


def _sample(program: Program, scaled: Scaled, found: Found, said: str) -> Sample:
    point = scaled.point(found.x, found.y, len(program.h), len(program.b))
    said = said or (WEAK if found.weak else "")
    return Sample(Status.CONVERGED, said, point, scaled, found)


def _first(program: Program, convexity: Convexity, engines: solvers.QP) -> Point | None:
    """An approximate solution by the first engine that suits, if it finds one."""
    limits = Limits(
        **{field.name: getattr(engines, field.name) for field in dataclasses.fields(Limits)}
    )
    name = engines.engine
    if name == "auto":
        n, rows = len(program.p), len(program.h) + len(program.b)
        filled = sum(matrix.nnz for matrix in (program.hessian(), program.G, program.A))
        name = choose(Traits(n, rows, filled / (n * (n + rows)), convexity), limits)[0]
    engine = engine_called(name)
    if limits.rtol is limits.atol is None and "rtol" in engine.settings:
        limits = dataclasses.replace(limits, rtol=_FIRST, atol=_FIRST)
    reduced = reduce(program)
    answer = plain(reduced)
    if answer is None:
        engine.check_installed()
        try:
            answer = engine.solve(reduced.program, limits, None)
        except Exception:  # what an engine says of it, its second call will say
            return None
    if answer.status != Status.CONVERGED or answer.point is None:
        return None
    point = reduced.restore(answer.point)
    return point if all(np.isfinite(part).all() for part in point) else None
