"""Every further engine that qpsolvers knows and finds here, such as quadprog, QPALM and MOSEK.

The eight of ours are called directly, since we need what qpsolvers does not hand on: why an engine
stopped, starts for multipliers too, and no warnings from inside threads. For others it is the way.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from typing import Any

import numpy as np

from foldopt.solvers._qp.program import Answer, Limits, Point, Program
from foldopt.solvers._qp.table import ENGINES, QPEngine
from foldopt.status import Status

__all__ = ["engine_called"]


def engine_called(name: str) -> QPEngine:
    """One of our engines, or one of qpsolvers' that is installed."""
    if name in ENGINES:
        return ENGINES[name]
    others: list[str] = []
    if importlib.util.find_spec("qpsolvers") is not None:
        import qpsolvers

        others = [other for other in qpsolvers.available_solvers if other not in ENGINES]
        if name in others:
            return QPEngine(
                name, "qpsolvers", "qpsolvers", functools.partial(_solve, name),
                releases_gil=False, dense=name in qpsolvers.dense_solvers,
                sparse=name in qpsolvers.sparse_solvers, warm_start=False,
                settings=frozenset(), licence="its own", method="as qpsolvers calls it",
            )  # fmt: skip
    names = ", ".join(map(repr, ("auto", *ENGINES, *others)))
    raise ValueError(
        f"solvers.QP: engine must be one of {names}, got {name!r}. Other engines that qpsolvers "
        "knows serve too, once they are installed"
    )


def _solve(name: str, program: Program, limits: Limits, start: Point | None) -> Answer:
    import qpsolvers

    program = program.as_sparse() if name in qpsolvers.sparse_solvers else program.as_dense()
    rows = (program.G, program.h) if len(program.h) else (None, None)
    equations = (program.A, program.b) if len(program.b) else (None, None)
    bounds = (program.lower, program.upper) if program.bounded else (None, None)
    problem = qpsolvers.Problem(program.hessian(), program.p, *rows, *equations, *bounds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is a status here
        found: Any = qpsolvers.solve_problem(problem, solver=name)
    if not found.found or found.x is None:
        return Answer(Status.FAILED, None, "no solution found")

    def filled(part: np.ndarray | None, size: int) -> np.ndarray:
        # For blocks that are not there, some have no multipliers and some made-up ones.
        return np.zeros(size) if part is None or len(part) != size else np.asarray(part)

    n = len(program.p)
    point = Point(
        np.asarray(found.x),
        filled(found.z, len(program.h)),
        filled(found.y, len(program.b)),
        filled(found.z_box, n),
    )
    return Answer(Status.CONVERGED, point, "found")
