"""Interior point engines: PIQP and Clarabel."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._qp.forms import as_conic, from_conic
from foldopt.solvers._qp.program import Answer, Limits, Point, Program
from foldopt.status import Status

__all__ = ["clarabel", "piqp"]

_FILL_IN = 4


def piqp(program: Program, limits: Limits, start: Point | None) -> Answer:
    """PIQP: proximal interior point, dense and sparse."""
    import piqp as engine

    program = program.as_sparse() if program.sparse else program
    solver: Any = engine.SparseSolver() if program.sparse else engine.DenseSolver()
    rtol, atol = limits.tolerances(1e-9, 1e-9)
    settings = solver.settings
    settings.eps_abs = settings.eps_duality_gap_abs = atol
    settings.eps_rel = settings.eps_duality_gap_rel = rtol
    if limits.max_iterations is not None:
        settings.max_iter = limits.max_iterations
    condensed = getattr(engine, "sparse_ldlt_ineq_cond", None)  # since 0.6
    if condensed is not None and program.sparse and _thin(program.G):
        # Q + GᵀDG is about as sparse as Q and G, and a smaller matrix to factor: a tenth faster.
        settings.kkt_solver = condensed
    bounds = (program.lower, program.upper) if program.bounded else (None, None)
    solver.setup(
        program.hessian(), program.p, program.A, program.b, program.G, None, program.h, *bounds
    )
    verdict = solver.solve()
    status = {
        engine.PIQP_SOLVED: Status.CONVERGED,
        engine.PIQP_MAX_ITER_REACHED: Status.MAX_ITERATIONS,
        engine.PIQP_PRIMAL_INFEASIBLE: Status.INFEASIBLE,
        engine.PIQP_DUAL_INFEASIBLE: Status.UNBOUNDED,
    }.get(verdict, Status.FAILED)
    found = solver.result
    mu = found.z_bu - found.z_bl if program.bounded else np.zeros(len(program.p))
    point = Point(np.array(found.x), np.array(found.z_u), np.array(found.y), mu)
    return Answer(status, point, verdict.name)


def _thin(G: Any) -> bool:
    """Whether GᵀG has few entries more than G: each row fills in the square of its own number."""
    entries = np.diff(G.tocsr().indptr).astype(float)
    return bool((entries**2).sum() <= _FILL_IN * entries.sum())


def clarabel(program: Program, limits: Limits, start: Point | None) -> Answer:
    """Clarabel: homogeneous interior point, sparse; it certifies infeasibility itself."""
    engine: Any = importlib.import_module("clarabel")

    program = program.as_sparse()
    form = as_conic(program)
    settings: Any = engine.DefaultSettings()
    settings.verbose = False
    settings.max_threads = limits.threads
    # Its relative test of feasibility has no absolute twin: tol_feas is both.
    rtol, atol = limits.tolerances(1e-9, 1e-9)
    settings.tol_gap_rel = settings.tol_feas = rtol
    settings.tol_gap_abs = atol
    if limits.max_iterations is not None:
        settings.max_iter = limits.max_iterations
    if limits.time_limit is not None:
        settings.time_limit = limits.time_limit
    cones = [engine.ZeroConeT(form.zeros), engine.NonnegativeConeT(len(form.d) - form.zeros)]
    Q = _scipy.sparse.triu(program.hessian(), format="csc")
    found = engine.DefaultSolver(Q, program.p, form.C, form.d, cones, settings).solve()
    verdict = str(found.status)
    status = {
        "Solved": Status.CONVERGED,
        "AlmostSolved": Status.INACCURATE,
        "PrimalInfeasible": Status.INFEASIBLE,
        "AlmostPrimalInfeasible": Status.INFEASIBLE,
        "DualInfeasible": Status.UNBOUNDED,
        "AlmostDualInfeasible": Status.UNBOUNDED,
        "MaxIterations": Status.MAX_ITERATIONS,
        "MaxTime": Status.TIME_LIMIT,
    }.get(verdict, Status.FAILED)
    point = from_conic(program, form, np.array(found.x), np.array(found.z))
    return Answer(status, point, verdict)
