"""Conic programs by Clarabel: interior points, in Rust."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._conic.program import (
    ConicAnswer,
    ConicLimits,
    ConicPoint,
    ConicProgram,
    residual,
)
from foldopt.status import Status

__all__ = ["solve_clarabel"]

# A gap of 1e-9 leaves an x that is wrong by 1e-5 where the objective is flat. Near the solution,
# iterations bring many digits each: three more than promised cost one or two. But where they cannot
# be had, the last iterations spoil what there was (Ax + s = b went from 1e-9 to 1e-6 in one program
# of eight): then it is solved again, to what was promised, and the better point is kept.
_MORE = 1e-3

_STATUS = {
    "Solved": Status.CONVERGED,
    "AlmostSolved": Status.INACCURATE,
    "InsufficientProgress": Status.INACCURATE,
    "NumericalError": Status.INACCURATE,
    "PrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "MaxIterations": Status.MAX_ITERATIONS,
    "MaxTime": Status.TIME_LIMIT,
}


def solve_clarabel(
    program: ConicProgram, limits: ConicLimits, start: ConicPoint | None
) -> ConicAnswer:
    """Solve one program; interior points make no use of a start."""
    try:
        clarabel: Any = importlib.import_module("clarabel")
    except ImportError as error:
        raise ImportError(
            "solvers.Conic: engine 'clarabel' needs the package clarabel: pip install clarabel"
        ) from error
    begin = time.perf_counter()
    first = _solve(clarabel, program, limits, _MORE)
    if first.point is None or first.status != Status.INACCURATE:
        return first
    error = residual(program, first.point, limits)
    if error <= 1:
        return first
    if limits.seconds is not None:
        left = limits.seconds - (time.perf_counter() - begin)
        if left <= 0:
            return first
        limits = limits._replace(seconds=left)
    second = _solve(clarabel, program, limits, 1.0)
    better = second.point is not None and residual(program, second.point, limits) <= error
    return second if better else first


def _solve(clarabel: Any, program: ConicProgram, limits: ConicLimits, factor: float) -> ConicAnswer:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_rel = settings.tol_feas = factor * limits.rtol
    settings.tol_gap_abs = factor * limits.atol
    settings.max_threads = limits.threads
    if limits.max_iterations is not None:
        settings.max_iter = limits.max_iterations
    if limits.seconds is not None:
        settings.time_limit = limits.seconds
    upper = _scipy.sparse.triu(program.P, format="csc")  # all that Clarabel reads
    kinds: list[Any] = _cones(clarabel, program)
    solver = clarabel.DefaultSolver(upper, program.q, program.A, program.b, kinds, settings)
    found = solver.solve()
    said = str(found.status)
    # Reduced accuracy also has names of its own for certificates, which are not proofs then.
    status = _STATUS.get(said, Status.INACCURATE if said.startswith("Almost") else Status.FAILED)
    if "Infeasible" in said:
        return ConicAnswer(status, None, f"Clarabel: {said}")
    point = ConicPoint(*(np.array(part, dtype=float) for part in (found.x, found.z, found.s)))
    return ConicAnswer(status, point, f"Clarabel: {said}")


def _cones(clarabel: Any, program: ConicProgram) -> list[Any]:
    """Our order of rows and of triangles is also Clarabel's."""
    cones = program.cones
    return [
        *([clarabel.ZeroConeT(cones.zero)] if cones.zero else []),
        *([clarabel.NonnegativeConeT(cones.nonnegative)] if cones.nonnegative else []),
        *(clarabel.SecondOrderConeT(size) for size in cones.second_order),
        *(clarabel.ExponentialConeT() for _ in range(cones.exponential)),
        *(clarabel.PSDTriangleConeT(order) for order in cones.semidefinite),
    ]
