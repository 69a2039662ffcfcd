"""Augmented Lagrangian and operator splitting engines: ProxQP, OSQP and SCS."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._qp.forms import (
    as_conic,
    as_ranged,
    from_conic,
    from_ranged,
    to_conic,
    to_ranged,
)
from foldopt.solvers._qp.program import Answer, Limits, Point, Program
from foldopt.status import Status

__all__ = ["osqp", "proxqp", "scs"]


def proxqp(program: Program, limits: Limits, start: Point | None) -> Answer:
    """ProxQP: primal-dual proximal augmented Lagrangian, dense and sparse."""
    engine: Any = importlib.import_module("proxsuite").proxqp

    n, m, k = len(program.p), len(program.h), len(program.b)
    rtol, atol = limits.tolerances(1e-9, 1e-9)
    low = np.full(m, -np.inf)
    data = [program.hessian(), program.p, program.A, program.b, program.G, low, program.h]
    if program.bounded and (program.sparse or start is not None):
        # Its sparse form has no bounds, and its dense one no start for their multipliers.
        eye = _scipy.sparse.eye(n, format="csc") if program.sparse else np.eye(n)
        stack: Any = _scipy.sparse.vstack if program.sparse else np.concatenate
        rows = stack([program.G, eye])
        data[4] = _scipy.sparse.csc_matrix(rows) if program.sparse else rows
        data[5] = np.concatenate([low, program.lower])
        data[6] = np.concatenate([program.h, program.upper])
    elif program.bounded:
        data += [program.lower, program.upper]
    if program.sparse:
        solver: Any = engine.sparse.QP(n, k, len(data[6]))
    else:
        solver = engine.dense.QP(n, k, len(data[6]), box_constraints=len(data) > 7)
    settings = solver.settings
    settings.eps_abs = settings.eps_duality_gap_abs = atol
    settings.eps_rel = settings.eps_duality_gap_rel = rtol
    settings.check_duality_gap = True
    settings.eps_primal_inf = settings.eps_dual_inf = 1e-9  # at its own 1e-4 it gives up too soon
    settings.verbose = False
    if limits.max_iterations is not None:
        settings.max_iter = limits.max_iterations
    solver.init(*data)
    if start is None:
        solver.solve()
    else:
        settings.initial_guess = engine.WARM_START
        mu = [start.bounds] if program.bounded else []
        solver.solve(start.x, start.equality, np.concatenate([start.inequality, *mu]))
    found = solver.results
    verdict = found.info.status
    status = {
        engine.PROXQP_SOLVED: Status.CONVERGED,
        engine.PROXQP_MAX_ITER_REACHED: Status.MAX_ITERATIONS,
        engine.PROXQP_PRIMAL_INFEASIBLE: Status.INFEASIBLE,
        engine.PROXQP_SOLVED_CLOSEST_PRIMAL_FEASIBLE: Status.INFEASIBLE,
        engine.PROXQP_DUAL_INFEASIBLE: Status.UNBOUNDED,
    }.get(verdict, Status.FAILED)
    z = np.array(found.z)
    mu = z[m:] if program.bounded else np.zeros(n)
    point = Point(np.array(found.x), np.maximum(z[:m], 0), np.array(found.y), mu)
    return Answer(status, point, verdict.name)


def osqp(program: Program, limits: Limits, start: Point | None) -> Answer:
    """OSQP: ADMM with a polishing step, sparse."""
    import osqp as engine

    program = program.as_sparse()
    form = as_ranged(program, bounds=True)
    rtol, atol = limits.tolerances(1e-8, 1e-8)
    solver = engine.OSQP()
    solver.setup(
        P=_scipy.sparse.triu(program.hessian(), format="csc"),
        q=program.p,
        A=form.C,
        l=form.low,
        u=form.high,
        verbose=False,
        eps_abs=atol,
        eps_rel=rtol,
        max_iter=100_000 if limits.max_iterations is None else limits.max_iterations,
        time_limit=1e10 if limits.time_limit is None else limits.time_limit,
        polishing=False,  # ours serves every engine, and does not write to stdout
    )
    if start is not None:
        solver.warm_start(x=start.x, y=to_ranged(program, start))
    found = solver.solve(raise_error=False)
    names: Any = engine.SolverStatus
    status = {
        names.OSQP_SOLVED: Status.CONVERGED,
        names.OSQP_SOLVED_INACCURATE: Status.INACCURATE,
        names.OSQP_PRIMAL_INFEASIBLE: Status.INFEASIBLE,
        names.OSQP_PRIMAL_INFEASIBLE_INACCURATE: Status.INFEASIBLE,
        names.OSQP_DUAL_INFEASIBLE: Status.UNBOUNDED,
        names.OSQP_DUAL_INFEASIBLE_INACCURATE: Status.UNBOUNDED,
        names.OSQP_MAX_ITER_REACHED: Status.MAX_ITERATIONS,
        names.OSQP_TIME_LIMIT_REACHED: Status.TIME_LIMIT,
    }.get(names(found.info.status_val), Status.FAILED)
    if found.x is None or found.y is None:
        return Answer(status, None, found.info.status)
    point = from_ranged(program, np.array(found.x), np.array(found.y))
    return Answer(status, point, found.info.status)


def scs(program: Program, limits: Limits, start: Point | None) -> Answer:
    """SCS: ADMM on the homogeneous embedding, sparse."""
    import scs as engine

    program = program.as_sparse()
    form = as_conic(program)
    if not program.constrained:  # it wants a constraint: 0 ≤ 1
        form = form._replace(C=_scipy.sparse.csc_matrix((1, len(program.p))), d=np.ones(1))
    rtol, atol = limits.tolerances(1e-9, 1e-9)
    data: dict[str, Any] = {"A": form.C, "b": form.d, "c": program.p}
    if program.Q is not None:
        data["P"] = _scipy.sparse.triu(program.Q, format="csc")
    cone = {"z": form.zeros, "l": len(form.d) - form.zeros}
    solver = engine.SCS(
        data,
        cone,
        verbose=False,
        eps_abs=atol,
        eps_rel=rtol,
        max_iters=100_000 if limits.max_iterations is None else limits.max_iterations,
        time_limit_secs=0 if limits.time_limit is None else limits.time_limit,
    )
    if start is None:
        found = solver.solve(warm_start=False)
    else:
        slack = form.d - form.C @ start.x
        y = to_conic(form, start) if program.constrained else np.zeros(1)
        found = solver.solve(x=start.x, y=y, s=slack)
    info = found["info"]
    # Whichever limit it meets, SCS calls its answer inaccurate; only the text tells which.
    limit = Status.TIME_LIMIT if "time_limit" in info["status"] else Status.MAX_ITERATIONS
    status = {
        engine.SOLVED: Status.CONVERGED,
        engine.SOLVED_INACCURATE: limit if "reached" in info["status"] else Status.INACCURATE,
        engine.INFEASIBLE: Status.INFEASIBLE,
        engine.INFEASIBLE_INACCURATE: Status.INFEASIBLE,
        engine.UNBOUNDED: Status.UNBOUNDED,
        engine.UNBOUNDED_INACCURATE: Status.UNBOUNDED,
    }.get(info["status_val"], Status.FAILED)
    y = np.array(found["y"]) if program.constrained else np.zeros(0)
    point = from_conic(program, form, np.array(found["x"]), y)
    return Answer(status, point, info["status"])
