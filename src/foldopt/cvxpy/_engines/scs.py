"""SCS: operator splitting, for large programs and for warm starts."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from foldopt.cvxpy._cones import scs_order
from foldopt.cvxpy._program import Answer, Program
from foldopt.solvers import _scipy
from foldopt.status import Status

__all__ = ["solve_scs"]

_TOLERANCE = 1e-8
_ITERATIONS = 100_000


def solve_scs(program: Program, start: Any, options: dict[str, Any], verbose: bool) -> Answer:
    """Solve one program, from x and v if there is a start."""
    scs: Any = importlib.import_module("scs")
    cones = program.cones
    order = scs_order(cones)  # their row i is our row order[i]
    data = {
        "P": _scipy.sparse.triu(program.P, format="csc"),  # all that SCS reads
        "c": program.q,
        "A": _scipy.sparse.csc_matrix(program.A.tocsr()[order]),
        "b": program.b[order],
    }
    kinds = {
        "z": cones.zero,
        "l": cones.nonnegative,
        "q": list(cones.second_order),
        "s": list(cones.semidefinite),
        "ep": cones.exponential,
        "p": list(cones.power),
    }
    options = dict(options)
    tolerance = options.pop("eps", _TOLERANCE)
    options = {"eps_abs": tolerance, "eps_rel": tolerance, "max_iters": _ITERATIONS} | options
    try:
        solver = scs.SCS(data, kinds, verbose=verbose, **options)
    except TypeError as error:
        raise TypeError(
            f"CvxpyLayer: SCS does not take these solver_args: {options} ({error})"
        ) from error
    if start is not None:
        x, v = start
        y = program.project(v)
        found = solver.solve(warm_start=True, x=x, y=y[order], s=(y - v)[order])
    else:
        found = solver.solve()
    code, said = found["info"]["status_val"], f"SCS: {found['info']['status']}"
    if code in (-1, -6):
        return Answer(Status.UNBOUNDED, None, None, said)
    if code in (-2, -7):
        return Answer(Status.INFEASIBLE, None, None, said)
    if code not in (1, 2):
        return Answer(Status.FAILED, None, None, said)
    v = np.empty_like(program.b)
    v[order] = found["y"] - found["s"]
    status = Status.CONVERGED if code == 1 else Status.MAX_ITERATIONS
    return Answer(status, np.array(found["x"], dtype=float), v, said)
