"""Any solver that CVXPY can call and that returns duals: the cone program as a CVXPY problem."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
from cvxpy.error import SolverError
from cvxpy.settings import INFEASIBLE_OR_UNBOUNDED

from foldopt.cvxpy._cones import Group
from foldopt.cvxpy._program import Answer, Program
from foldopt.status import Status

__all__ = ["solve_by_cvxpy"]

_STATUS = {
    cp.OPTIMAL: Status.CONVERGED,
    cp.OPTIMAL_INACCURATE: Status.INACCURATE,
    cp.INFEASIBLE: Status.INFEASIBLE,
    cp.INFEASIBLE_INACCURATE: Status.INFEASIBLE,
    cp.UNBOUNDED: Status.UNBOUNDED,
    cp.UNBOUNDED_INACCURATE: Status.UNBOUNDED,
    INFEASIBLE_OR_UNBOUNDED: Status.INFEASIBLE,
    cp.USER_LIMIT: Status.MAX_ITERATIONS,
}


def solve_by_cvxpy(name: str) -> Callable[[Program, Any, dict[str, Any], bool], Answer]:
    """An engine that leaves one program to CVXPY's interface of a solver."""

    def solve(program: Program, start: Any, options: dict[str, Any], verbose: bool) -> Answer:
        x = cp.Variable(len(program.q))
        objective = program.q @ x
        if program.P.nnz:
            objective = objective + 0.5 * cp.quad_form(x, cp.psd_wrap(program.P))
        s = program.b - program.A.tocsr() @ x if program.cones.rows else None
        constraints = [_constraint(group, s, program) for group in program.cones.groups]
        flat = [one for part in constraints for one in part]
        problem = cp.Problem(cp.Minimize(objective), flat)
        if start is not None:
            x.value = start[0]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is inaccurate is seen and polished later
                problem.solve(solver=name, verbose=verbose, warm_start=start is not None, **options)
        except SolverError as error:
            return Answer(Status.FAILED, None, None, f"{name}: {error}")
        status = _STATUS.get(str(problem.status), Status.FAILED)
        said = f"{name}: {problem.status}"
        if x.value is None:
            return Answer(status, None, None, said)
        y = np.zeros(program.cones.rows)
        for group, part in zip(program.cones.groups, constraints, strict=True):
            duals = _duals(group, part)
            if duals is None:
                return Answer(Status.FAILED, None, None, f"{said}, but no dual variables")
            y[group.rows] = duals
        value = np.asarray(x.value, dtype=float)
        slack = program.b - program.A @ value
        # v = y − s of what is nearly feasible: the projections put both into their cones.
        return Answer(status, value, y - slack, said)

    return solve


def _constraint(group: Group, s: Any, program: Program) -> list[Any]:
    rows = group.rows
    if group.kind in ("zero", "nonnegative"):
        A, b = program.A.tocsr()[rows[:, 0]], program.b[rows[:, 0]]
        x = s.variables()[0]
        return [A @ x == b if group.kind == "zero" else A @ x <= b]
    if group.kind == "second_order":
        return [cp.SOC(s[one[0]], s[one[1:]]) if len(one) > 1 else s[one[0]] >= 0 for one in rows]
    if group.kind == "semidefinite":
        return [cp.PSD(_symmetric(s, one)) for one in rows]
    a, b, c = (s[rows[:, i]] for i in range(3))
    if group.kind == "exponential":
        return [cp.ExpCone(a, b, c)]
    return [cp.PowCone3D(a, b, c, np.array(group.alpha))]


def _symmetric(s: Any, rows: np.ndarray) -> Any:
    """The matrix whose lower triangle stands in the rows."""
    k = int((8 * len(rows) + 1) ** 0.5 - 1) // 2
    at = np.tril_indices(k)
    spread = np.zeros((k * k, len(rows)))
    weight = np.where(at[0] == at[1], 1.0, 0.5**0.5)
    spread[at[0] * k + at[1], np.arange(len(rows))] = weight
    spread[at[1] * k + at[0], np.arange(len(rows))] = weight
    return cp.reshape(spread @ s[rows], (k, k), order="F")


def _duals(group: Group, constraints: list[Any]) -> np.ndarray | None:
    found = []
    for constraint in constraints:
        value = constraint.dual_value
        if value is None or (isinstance(value, (list, tuple)) and value[0] is None):
            return None
        if group.kind == "semidefinite":
            matrix = np.asarray(value)
            row, column = np.tril_indices(len(matrix))
            both = (matrix + matrix.T) / 2
            value = both[row, column] * np.where(row == column, 1.0, 2.0**0.5)
        elif group.kind == "second_order" and isinstance(value, (list, tuple)):
            value = np.concatenate([np.ravel(part) for part in value])
        elif group.kind in ("exponential", "power"):
            parts = [np.ravel(part) for part in value]
            return np.stack(parts, 1)
        found.append(np.ravel(value))
    return np.concatenate(found).reshape(group.rows.shape)
