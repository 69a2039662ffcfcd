"""Nonconvex quadratic programs by Gurobi, whose licence you bring; pip's is for small ones."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from foldopt.solvers._global.found import Found, Limits, NonconvexQP
from foldopt.status import Status

__all__ = ["LICENCE", "SizeLimitError", "restored_interrupts", "solve_gurobi"]

LICENCE = (
    "commercial; pip's own licence: 2000 variables and constraints, 200 variables where the "
    "objective is nonconvex or a constraint is quadratic"
)
_SIZE_LIMIT_EXCEEDED = 10010  # GRB.Error.SIZE_LIMIT_EXCEEDED
_here = threading.local()


@contextlib.contextmanager
def restored_interrupts() -> Iterator[None]:
    """Have Ctrl-C work as before, after the block.

    A solve puts a handler of its own in the place of the one that it finds, and that one back at
    its end. Where two threads do so at once, the second may find the first one's handler, put that
    back last, and Ctrl-C is lost for good.
    """
    try:
        yield
    finally:
        handler = signal.getsignal(signal.SIGINT)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


class SizeLimitError(RuntimeError):
    """Gurobi's licence is for smaller programs."""


def solve_gurobi(qp: NonconvexQP, limits: Limits, start: np.ndarray | None) -> Found:
    """The global minimum, by spatial branch and bound; a convex Q by its barrier method."""
    try:
        import gurobipy
        import scipy.optimize  # noqa: F401  (gurobipy asks for it)
    except ImportError as error:
        raise ImportError(
            f"solvers.GlobalQP: engine 'gurobi' needs the packages gurobipy and scipy ({error}): "
            "pip install gurobipy scipy"
        ) from error
    codes = gurobipy.GRB
    known = {
        codes.OPTIMAL: Status.CONVERGED,
        codes.INFEASIBLE: Status.INFEASIBLE,
        codes.TIME_LIMIT: Status.TIME_LIMIT,
        codes.NODE_LIMIT: Status.MAX_ITERATIONS,
        codes.ITERATION_LIMIT: Status.MAX_ITERATIONS,
        codes.SUBOPTIMAL: Status.INACCURATE,
    }
    with gurobipy.Model(env=_environment(gurobipy)) as model:
        x = _fill(model, qp, limits, start)
        try:
            model.optimize()
        except gurobipy.GurobiError as error:
            if error.errno == _SIZE_LIMIT_EXCEEDED:
                raise SizeLimitError(
                    f"{len(qp.p)} variables, {len(qp.h) + len(qp.b)} rows"
                ) from error
            raise
        code = model.Status
        if code == codes.INTERRUPTED:
            raise KeyboardInterrupt
        if code in (codes.INF_OR_UNBD, codes.UNBOUNDED):
            # Neither says that there is a feasible point: without objective that becomes clear.
            flat = qp._replace(Q=np.zeros_like(qp.Q), p=np.zeros_like(qp.p))
            empty = solve_gurobi(flat, limits, None).status == Status.INFEASIBLE
            return Found(None, Status.INFEASIBLE if empty else Status.UNBOUNDED)
        status = known.get(code, Status.FAILED)
        found, bound = None, float("nan")
        if model.SolCount:
            found = np.array(x.X, dtype=float).reshape(-1)
            # Of a convex program there is no bound: its optimality conditions are the proof.
            bound = float(model.ObjBound) if model.IsMIP else float(model.ObjVal)
        message = "" if status == Status.CONVERGED else f"Gurobi: status code {code}"
        return Found(found, status, bound, message)


def _environment(gurobipy: Any) -> Any:
    """One silent environment for each thread: Gurobi's are not made to be shared by threads.

    It holds the licence, and takes tens of milliseconds to make. A forked process makes its own.
    """
    if getattr(_here, "owner", None) != os.getpid():
        environment = gurobipy.Env(empty=True)
        environment.setParam("OutputFlag", 0)
        environment.start()
        _here.environment, _here.owner = environment, os.getpid()
    return _here.environment


def _fill(model: Any, qp: NonconvexQP, limits: Limits, start: np.ndarray | None) -> Any:
    x = model.addMVar(len(qp.p), lb=qp.lower, ub=qp.upper)
    if len(qp.h):
        model.addConstr(qp.G @ x <= qp.h)
    if len(qp.b):
        model.addConstr(qp.A @ x == qp.b)
    model.setObjective(0.5 * (x @ qp.Q @ x) + qp.p @ x if qp.Q.any() else qp.p @ x)
    if start is not None and np.isfinite(start).all():
        x.Start = start
    tight = min(max(limits.feasibility, 1e-9), 1e-2)  # what Gurobi takes
    settings = {
        "NonConvex": 2,
        "FeasibilityTol": tight,
        "OptimalityTol": tight,
        "BarConvTol": min(tight, 1e-10),
        "MIPGap": limits.gap,
        "MIPGapAbs": limits.absolute,
        "Threads": limits.threads,
        "Seed": 0,
        "NodeLimit": limits.nodes,
        "TimeLimit": limits.seconds,
    }
    for name, value in settings.items():
        if value is not None:
            model.setParam(name, value)
    return x
