"""From an approximate answer to an exact one: guess what is active, solve the KKT system."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._qp.forms import Conic, as_conic, from_conic, to_conic
from foldopt.solvers._qp.program import Point, Program, quality

__all__ = ["polish"]

_SHIFT = 1e-9
_REFINEMENTS = 5
_DOUBT = 10.0
_GOOD = 1e-9


def polish(program: Program, point: Point) -> Point:
    """The same point or a better one, as :func:`quality` measures it.

    Active are the rows whose multiplier is larger than their slack. With them as equalities, and
    a small shift that keeps the matrix regular where rows are dependent or Q is singular,

        [Q + δI  Cᵀ ] [x]   [−p]
        [C       −δI] [y] = [ d]

    is solved, and refined against the system without the shift. A wrong guess gives a worse point,
    which is thrown away; then the doubtful rows are all taken for active, then none of them.
    """
    form = as_conic(program)
    z, slack = to_conic(form, point), form.d - form.C @ point.x
    before = quality(program, point)
    allowed = max(before.worst, _GOOD)
    for doubt in (1.0, _DOUBT, 1 / _DOUBT):
        active = z * doubt > slack
        active[: form.zeros] = True
        better = _solved(program, form, point, z, active)
        if better is None:
            continue
        # Clearer pairs are no gain where the conditions themselves hold worse than before.
        after = quality(program, better)
        if after.worst <= allowed and after.strictest < before.strictest:
            return better
    return point


def _solved(
    program: Program, form: Conic, point: Point, z: np.ndarray, active: np.ndarray
) -> Point | None:
    """The solution of the KKT system with some rows active, None if it is singular."""
    rows = _scipy.sparse.csr_matrix(form.C)[active] if program.sparse else form.C[active]
    n, count = len(program.p), int(active.sum())
    right = np.concatenate([-program.p, form.d[active]])
    solution = np.concatenate([point.x, z[active]])
    try:
        exact, solve = _factored(program.sparse, program.hessian(), rows, n, count)
        for _ in range(_REFINEMENTS):
            solution = solution + solve(right - exact @ solution)
    except (RuntimeError, ValueError, np.linalg.LinAlgError):  # singular in spite of the shift
        return None
    if not np.isfinite(solution).all():
        return None
    y = np.zeros(len(form.d))
    y[active] = solution[n:]
    return from_conic(program, form, solution[:n], y)


def _factored(is_sparse: bool, Q: Any, rows: Any, n: int, count: int) -> tuple[Any, Any]:
    """The KKT matrix, and a function that solves with the shifted one."""
    size = max(1.0, float(abs(Q).max())) if n else 1.0
    shift = _SHIFT * size * np.concatenate([np.ones(n), -np.ones(count)])
    if is_sparse:
        exact: Any = _scipy.sparse.bmat(
            [[Q, rows.T], [rows, _scipy.sparse.csc_matrix((count, count))]], "csc"
        )
        return exact, _scipy.sparse_linalg.splu(
            exact + _scipy.sparse.diags(shift, format="csc")
        ).solve
    exact = np.block([[Q, rows.T], [rows, np.zeros((count, count))]])
    factors = _scipy.linalg.lu_factor(exact + np.diag(shift), check_finite=False)
    return exact, lambda r: _scipy.linalg.lu_solve(factors, r, check_finite=False)
