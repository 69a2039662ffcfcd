"""Active-set and simplex engines: DAQP and HiGHS."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._qp.forms import as_ranged, from_ranged
from foldopt.solvers._qp.program import Answer, Limits, Point, Program
from foldopt.status import Status

__all__ = ["daqp", "highs"]

# HiGHS adds 1e-7 to the diagonal of Q unless told otherwise, which moves x by as much; polishing
# takes out what this leaves. With nothing added it does not end on some semidefinite programs.
_REGULARIZATION = 1e-8
_EQUALITY = 5  # DAQP's code: active, and stays so


def daqp(program: Program, limits: Limits, start: Point | None) -> Answer:
    """DAQP: dual active set, dense; strongly convex programs, others by proximal steps."""
    import daqp as engine

    program = program.as_dense()
    form = as_ranged(program, bounds=False)
    n, m, k = len(program.p), len(program.h), len(program.b)
    sense = np.zeros(n + m + k, dtype=np.intc)
    sense[n + m :] = _EQUALITY
    atol = limits.tolerances(0, 1e-9)[1]
    options: dict[str, Any] = {"primal_tol": atol}
    if limits.max_iterations is not None:
        options["iter_limit"] = limits.max_iterations
    if limits.time_limit is not None:
        options["time_limit"] = limits.time_limit
    big = 1e30  # infinity, for DAQP
    high = np.clip(np.concatenate([program.upper, form.high]), -big, big)
    low = np.clip(np.concatenate([program.lower, form.low]), -big, big)
    if start is not None:
        options["primal_start"] = start.x
    H = np.ascontiguousarray(program.hessian())
    C = np.ascontiguousarray(form.C)
    x, _, flag, info = engine.solve(H, program.p, C, high, low, sense, **options)
    status = {
        1: Status.CONVERGED,
        2: Status.CONVERGED,
        -1: Status.INFEASIBLE,
        -3: Status.UNBOUNDED,
        -4: Status.MAX_ITERATIONS,
        -7: Status.TIME_LIMIT,
    }.get(flag, Status.FAILED)
    y = np.asarray(info["lam"])
    point = from_ranged(program, np.asarray(x), np.concatenate([y[n:], y[:n]]))
    return Answer(status, point, f"exit flag {flag}")


def highs(program: Program, limits: Limits, start: Point | None) -> Answer:
    """HiGHS: simplex for linear programs, null-space active set for quadratic ones."""
    import highspy

    program = program.as_sparse()
    form = as_ranged(program, bounds=False)
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    atol = limits.tolerances(0, 1e-9)[1]
    options: dict[str, Any] = {
        "primal_feasibility_tolerance": atol,
        "dual_feasibility_tolerance": atol,
        # Of one thread we say nothing more: its scheduler is one for the whole process, and
        # refuses another number than it began with.
        "parallel": "off" if limits.threads == 1 else "on",
    }
    if limits.threads > 1:
        options["threads"] = limits.threads
    if limits.max_iterations is not None:
        for name in ("simplex", "ipm", "qp"):
            options[f"{name}_iteration_limit"] = limits.max_iterations
    if limits.time_limit is not None:
        options["time_limit"] = limits.time_limit
    if program.Q is not None:
        options["qp_regularization_value"] = _REGULARIZATION
    for name, value in options.items():
        if solver.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise ValueError(f"HiGHS does not take {name} = {value}")
    solver.passModel(_model(highspy, program, form))
    if solver.run() == highspy.HighsStatus.kError:
        return Answer(Status.FAILED, None, "HiGHS stopped with an error")
    verdict = solver.getModelStatus()
    names = highspy.HighsModelStatus
    status = {
        names.kOptimal: Status.CONVERGED,
        names.kModelEmpty: Status.CONVERGED,
        names.kInfeasible: Status.INFEASIBLE,
        names.kUnbounded: Status.UNBOUNDED,
        names.kIterationLimit: Status.MAX_ITERATIONS,
        names.kTimeLimit: Status.TIME_LIMIT,
    }.get(verdict, Status.FAILED)
    found = solver.getSolution()
    said = solver.modelStatusToString(verdict)
    if not found.value_valid:
        return Answer(status, None, said)
    # Its duals are those of a minimization, ∇f = Cᵀy + w: ours with the other sign.
    y, w = -np.array(found.row_dual), -np.array(found.col_dual)
    if not found.dual_valid:
        y, w = np.full(len(form.high), np.nan), np.full(len(program.p), np.nan)
    return Answer(
        status, from_ranged(program, np.array(found.col_value), np.concatenate([y, w])), said
    )


def _model(highspy: Any, program: Program, form: Any) -> Any:
    model = highspy.HighsModel()
    lp = model.lp_
    lp.num_col_, lp.num_row_ = len(program.p), len(form.high)
    lp.col_cost_ = program.p
    lp.col_lower_, lp.col_upper_ = program.lower, program.upper
    lp.row_lower_, lp.row_upper_ = form.low, form.high
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.num_row_, lp.a_matrix_.num_col_ = form.C.shape
    lp.a_matrix_.start_ = form.C.indptr
    lp.a_matrix_.index_ = form.C.indices
    lp.a_matrix_.value_ = form.C.data
    if program.Q is not None:
        triangle: Any = _scipy.sparse.tril(program.Q, format="csc")
        model.hessian_.dim_ = len(program.p)
        model.hessian_.format_ = highspy.HessianFormat.kTriangular
        model.hessian_.start_ = triangle.indptr
        model.hessian_.index_ = triangle.indices
        model.hessian_.value_ = triangle.data
    return model
