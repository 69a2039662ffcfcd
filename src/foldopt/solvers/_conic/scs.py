"""Conic programs by SCS: operator splitting, for large ones and for warm starts."""

from __future__ import annotations

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._conic.cones import Cones
from foldopt.solvers._conic.program import ConicAnswer, ConicLimits, ConicPoint, ConicProgram
from foldopt.status import Status

__all__ = ["solve_scs"]

# Splitting needs many iterations for many digits.
_ITERATIONS = 100_000

_STATUS = {
    1: Status.CONVERGED,
    -1: Status.UNBOUNDED,
    -2: Status.INFEASIBLE,
}


def solve_scs(program: ConicProgram, limits: ConicLimits, start: ConicPoint | None) -> ConicAnswer:
    """Solve one program, from a start if there is one."""
    try:
        import scs
    except ImportError as error:
        raise ImportError(
            "solvers.Conic: engine 'scs' needs the package scs: pip install scs"
        ) from error
    cones = program.cones
    order = _order(cones)  # their row i is our row order[i]
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
    }
    most = _ITERATIONS if limits.max_iterations is None else limits.max_iterations
    solver = scs.SCS(
        data,
        kinds,
        verbose=False,
        eps_abs=limits.atol,
        eps_rel=limits.rtol,
        max_iters=most,
        time_limit_secs=0.0 if limits.seconds is None else limits.seconds,  # 0: none
    )
    if start is not None and all(np.isfinite(part).all() for part in start):
        found = solver.solve(warm_start=True, x=start.x, y=start.z[order], s=start.s[order])
    else:
        found = solver.solve()
    code, said = found["info"]["status_val"], found["info"]["status"]
    status = _STATUS.get(code, Status.FAILED)
    # Out of iterations or time, SCS says what it would have been: 2 solved, −6, −7 certificates.
    if "max_iters" in said:
        status = Status.MAX_ITERATIONS
    elif "time_limit" in said:
        status = Status.TIME_LIMIT
    elif code == 2:
        status = Status.INACCURATE
    if code not in (1, 2):
        return ConicAnswer(status, None, f"SCS: {said}")
    z, s = np.empty_like(program.b), np.empty_like(program.b)
    z[order], s[order] = found["y"], found["s"]
    point = ConicPoint(np.array(found["x"], dtype=float), z, s)
    return ConicAnswer(status, point, f"SCS: {said}")


def _order(cones: Cones) -> np.ndarray:
    """Our rows in SCS's order: matrices before exponential cones, their triangles by columns.

    Our triangle is the lower one by rows. A symmetric matrix reads the same along its upper
    triangle by columns; SCS's, the lower one by columns, along the upper one by rows.
    """
    plain = cones.zero + cones.nonnegative + sum(cones.second_order)
    first = plain + 3 * cones.exponential
    parts = [np.arange(plain)]
    for k in cones.semidefinite:
        place = np.zeros((k, k), dtype=np.int64)
        place[np.tril_indices(k)] = np.arange(k * (k + 1) // 2)
        parts.append(first + place.T[np.triu_indices(k)])
        first += k * (k + 1) // 2
    return np.concatenate([*parts, np.arange(plain, plain + 3 * cones.exponential)])
