"""Clarabel: interior points."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from foldopt.cvxpy._program import Answer, Program
from foldopt.solvers import _scipy
from foldopt.status import Status

__all__ = ["solve_clarabel"]

_STATUS = {
    "Solved": Status.CONVERGED,
    "AlmostSolved": Status.INACCURATE,
    "InsufficientProgress": Status.INACCURATE,
    "NumericalError": Status.INACCURATE,
    "PrimalInfeasible": Status.INFEASIBLE,
    "AlmostPrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "AlmostDualInfeasible": Status.UNBOUNDED,
    "MaxIterations": Status.MAX_ITERATIONS,
    "MaxTime": Status.TIME_LIMIT,
}
# Newton's method brings the other digits; but it must be clear which constraints hold.
_TOLERANCE = 1e-9


def solve_clarabel(program: Program, start: Any, options: dict[str, Any], verbose: bool) -> Answer:
    """Solve one program; interior points make no use of a start."""
    clarabel: Any = importlib.import_module("clarabel")
    settings = clarabel.DefaultSettings()
    settings.verbose = verbose
    settings.max_threads = 1
    options = dict(options)
    tolerance = options.pop("eps", _TOLERANCE)
    for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas"):
        options.setdefault(name, tolerance)
    for name, value in options.items():
        try:
            setattr(settings, name, value)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                f"CvxpyLayer: Clarabel has no setting {name!r} that takes {value!r}: look at "
                "solver_args"
            ) from error
    kinds: list[Any] = _kinds(clarabel, program)
    upper = _scipy.sparse.triu(program.P, format="csc")  # all that Clarabel reads
    found = clarabel.DefaultSolver(upper, program.q, program.A, program.b, kinds, settings).solve()
    said = str(found.status)
    status = _STATUS.get(said, Status.FAILED)
    if "Infeasible" in said:
        return Answer(status, None, None, f"Clarabel: {said}")
    x, y, s = (np.array(part, dtype=float) for part in (found.x, found.z, found.s))
    return Answer(status, x, y - s, f"Clarabel: {said}")


def _kinds(clarabel: Any, program: Program) -> list[Any]:
    cones = program.cones
    return [
        *([clarabel.ZeroConeT(cones.zero)] if cones.zero else []),
        *([clarabel.NonnegativeConeT(cones.nonnegative)] if cones.nonnegative else []),
        *(clarabel.SecondOrderConeT(size) for size in cones.second_order),
        *(clarabel.PSDTriangleConeT(order) for order in cones.semidefinite),
        *(clarabel.ExponentialConeT() for _ in range(cones.exponential)),
        *(clarabel.PowerConeT(alpha) for alpha in cones.power),
    ]
