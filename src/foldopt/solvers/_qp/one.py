"""One sample: an engine's answer, looked at, improved, and called what it is."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers._qp.diagnose import diagnose
from foldopt.solvers._qp.others import engine_called
from foldopt.solvers._qp.polish import polish
from foldopt.solvers._qp.presolve import Reduced, reduce
from foldopt.solvers._qp.program import Answer, Limits, Point, Program, quality
from foldopt.status import Solution, Status

__all__ = ["as_program", "finish", "judged", "plain", "point_of", "solve_one"]

_PROOFS = (Status.INFEASIBLE, Status.UNBOUNDED)
# What the next engine may do better.
_TRY_AGAIN = (Status.FAILED, Status.INACCURATE, Status.MAX_ITERATIONS)
# With default tolerances: polish what is worse than the first, doubt what is worse than the second.
_GOOD, _BOUND = 1e-9, 1e-7


def solve_one(
    *blocks: Any, engines: tuple[str, ...], limits: Limits, start: Solution | None = None
) -> Solution:
    """Solve (Q, p, G, h, A, b, lower, upper) by the first of ``engines`` that can."""
    begin = time.perf_counter()
    program = as_program(*blocks)
    reduced = reduce(program)
    known = plain(reduced)
    if known is not None:
        return finish(reduced, known)
    near = None if start is None else reduced.shrink(point_of(start))
    said: list[str] = []
    answer = Answer(Status.FAILED, None, "no engine")
    for name in engines:
        left = limits
        if limits.time_limit is not None and said:
            seconds = limits.time_limit - (time.perf_counter() - begin)
            if seconds <= 0:
                answer = answer._replace(status=Status.TIME_LIMIT)
                break
            left = dataclasses.replace(limits, time_limit=seconds)
        try:
            answer = engine_called(name).solve(reduced.program, left, near)
        except ImportError:
            raise
        except Exception as error:
            if len(engines) == 1:
                raise
            answer = Answer(Status.FAILED, None, f"{type(error).__name__}: {error}")
        answer = judged(reduced.program, answer, left, name)
        said += [answer.said] if answer.said else []
        if answer.status not in _TRY_AGAIN:
            said += [f"{name}: solved"] if said and answer.status == Status.CONVERGED else []
            break
    answer = answer._replace(said="; then ".join(said))
    return finish(reduced, answer)


def as_program(Q: Any, p: Any, G: Any, h: Any, A: Any, b: Any, lower: Any, upper: Any) -> Program:
    """All blocks there, matrices all sparse if any is, Q symmetric."""
    n = len(p)
    matrices = {"Q": Q, "G": G, "A": A}
    form: Any = np.asarray
    if any(_scipy.sparse.issparse(matrix) for matrix in matrices.values()):
        form = _scipy.sparse.csc_matrix
    Q = None if Q is None else form((Q + Q.T) / 2)  # all that xᵀQx sees
    G, h = (np.zeros((0, n)), np.zeros(0)) if G is None else (G, h)
    A, b = (np.zeros((0, n)), np.zeros(0)) if A is None else (A, b)
    lower = np.full(n, -np.inf) if lower is None else lower
    upper = np.full(n, np.inf) if upper is None else upper
    return Program(Q, p, form(G), h, form(A), b, lower, upper)


def point_of(solution: Solution) -> Point:
    """One sample's solution in numpy, as a point."""
    return Point(np.asarray(solution.x), *map(np.asarray, solution.multipliers))


def judged(program: Program, answer: Answer, limits: Limits, name: str) -> Answer:
    """The answer with the status that it deserves, whatever its engine thinks of it.

    The residual of the optimality conditions decides what is solved. Proofs of infeasibility and
    of unboundedness are looked into by another engine.
    """
    tolerances = [value for value in (limits.rtol, limits.atol) if value is not None]
    good = max(tolerances, default=_GOOD)
    bound = max(10 * good, 1e-13) if tolerances else _BOUND
    status, point, said, _ = answer
    said = f"{name}: {said}"
    claims = status in _PROOFS
    if claims or point is None or not all(np.isfinite(part).all() for part in point):
        point = None
    else:
        found = quality(program, point)
        if found.worst > good or found.pairs > 10 * good:
            point = polish(program, point)
            found = quality(program, point)
        if found.worst <= bound:
            return Answer(Status.CONVERGED, point, "", found.gap)
        if status == Status.CONVERGED:
            status = Status.INACCURATE
        said = f"{said}; relative KKT residual {found.worst:.1e}"
    if status == Status.TIME_LIMIT:
        return Answer(status, point, said)
    truth = diagnose(program, limits)
    if truth.proof is not None:
        return Answer(truth.proof, None, f"{said}; {truth.said}")
    if claims and truth.refutes:
        return Answer(Status.FAILED, None, f"{said}, yet {truth.said}")
    if status == Status.CONVERGED:  # without a finite point
        status = Status.FAILED
    return Answer(status, None if status == Status.FAILED else point, said)


def finish(reduced: Reduced, answer: Answer) -> Solution:
    """The answer for the whole program, NaN where there is none."""
    whole = reduced.whole
    if answer.point is None:
        blank = [np.full(len(part), np.nan) for part in (whole.p, whole.h, whole.b, whole.p)]
        status = answer.status
        return Solution(blank[0], int(status), Multipliers(*blank[1:]), None, answer.said)
    point = reduced.restore(answer.point)
    return Solution(point.x, int(answer.status), Multipliers(*point[1:]), answer.gap, answer.said)


def plain(reduced: Reduced) -> Answer | None:
    """The answer, where the presolve has it already."""
    if reduced.infeasible:
        return Answer(Status.INFEASIBLE, None, reduced.infeasible)
    program = reduced.program
    if not len(program.p):
        none = np.zeros(0)
        point = Point(none, np.zeros(len(program.h)), np.zeros(len(program.b)), none)
        return Answer(Status.CONVERGED, point, "", 0.0)
    return None
