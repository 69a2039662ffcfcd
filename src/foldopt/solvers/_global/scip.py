"""Nonconvex quadratic programs by SCIP: spatial branch and bound, free of charge."""

from __future__ import annotations

from typing import Any

import numpy as np

from foldopt.solvers._global.found import Found, Limits, NonconvexQP
from foldopt.status import Status

__all__ = ["solve_scip"]

# SCIP calls 1e20 infinite; a dual bound near there is none.
_HUGE = 1e15

_STATUS = {
    "optimal": Status.CONVERGED,
    "gaplimit": Status.CONVERGED,
    "timelimit": Status.TIME_LIMIT,
    "nodelimit": Status.MAX_ITERATIONS,
    "totalnodelimit": Status.MAX_ITERATIONS,
    "infeasible": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
}


def solve_scip(qp: NonconvexQP, limits: Limits, start: np.ndarray | None) -> Found:
    """The global minimum of a program whose Q and p have entries of size one."""
    try:
        import pyscipopt
        import scipy.optimize  # noqa: F401  (for the polish, after the search)
    except ImportError as error:
        raise ImportError(
            f"solvers.GlobalQP: engine 'scip' needs the packages pyscipopt and scipy ({error}): "
            "pip install pyscipopt scipy"
        ) from error
    model, x = _model(pyscipopt, _boxed(qp, limits), limits, start)
    # optimize() holds Python's lock, and optimizeNogil() would not. But the libraries inside SCIP
    # are not all safe in several threads at once: batches go to processes.
    model.optimize()
    said = model.getStatus()
    if said == "userinterrupt":
        raise KeyboardInterrupt
    if said == "inforunbd":
        # Presolve can find that one of the two holds and not which. Without objective it is clear.
        flat = qp._replace(Q=np.zeros_like(qp.Q), p=np.zeros_like(qp.p))
        empty = solve_scip(flat, limits, None).status == Status.INFEASIBLE
        return Found(None, Status.INFEASIBLE if empty else Status.UNBOUNDED, message=said)
    status = _STATUS.get(said, Status.FAILED)
    found = None
    if model.getNSols() and status != Status.UNBOUNDED:
        best = model.getBestSol()
        found = np.array([model.getSolVal(best, variable) for variable in x])
    bound = model.getDualbound()
    message = "" if status == Status.CONVERGED else f"SCIP: {said}"
    return Found(found, status, bound if abs(bound) < _HUGE else -np.inf, message)


def _boxed(qp: NonconvexQP, limits: Limits) -> NonconvexQP:
    """The program with bounds that cut nothing of interest off, where Q is positive definite.

    With free variables, SCIP's linear relaxation of a convex quadratic is unbounded, and the search
    does not end. But no x better than a feasible x₀ lies outside of f(x) ≤ f(x₀), an ellipsoid
    round c = −Q⁻¹p with |xᵢ − cᵢ|² ≤ 2 (f(x₀) − f(c)) (Q⁻¹)ᵢᵢ. Of a Q that is not definite nothing
    like that is known.
    """
    if np.isfinite(qp.lower).all() and np.isfinite(qp.upper).all():
        return qp
    values = np.linalg.eigvalsh(qp.Q)
    if values[0] <= 1e-9 * abs(values[-1]):
        return qp
    feasible = solve_scip(qp._replace(Q=np.zeros_like(qp.Q), p=np.zeros_like(qp.p)), limits, None)
    if feasible.x is None:
        return qp
    inverse = np.linalg.inv(qp.Q)
    center = -inverse @ qp.p
    far = np.sqrt(2 * max(0.0, qp.value(feasible.x) - qp.value(center)) * np.diag(inverse))
    far = far * 1.001 + 1e-3 * (1 + np.abs(center))  # never active at the solution
    return qp._replace(
        lower=np.maximum(qp.lower, center - far), upper=np.minimum(qp.upper, center + far)
    )


def _model(scip: Any, qp: NonconvexQP, limits: Limits, start: np.ndarray | None) -> Any:
    model = scip.Model()
    model.hideOutput()
    x = [
        model.addVar(
            lb=low if np.isfinite(low) else None, ub=high if np.isfinite(high) else None, vtype="C"
        )
        for low, high in zip(qp.lower.tolist(), qp.upper.tolist(), strict=True)
    ]
    for row, side in zip(qp.G, qp.h.tolist(), strict=True):
        model.addCons(_linear(scip, row, x) <= side)
    for row, side in zip(qp.A, qp.b.tolist(), strict=True):
        model.addCons(_linear(scip, row, x) == side)
    objective = _linear(scip, qp.p, x)
    curvature = None
    if qp.Q.any():
        # SCIP's objectives are linear: t ≥ ½xᵀQx is minimised instead.
        curvature = model.addVar(lb=None, ub=None, vtype="C")
        rows, columns = np.nonzero(np.triu(qp.Q))
        half = np.where(rows == columns, 0.5, 1.0) * qp.Q[rows, columns]
        terms = zip(rows.tolist(), columns.tolist(), half.tolist(), strict=True)
        model.addCons(scip.quicksum(q * x[i] * x[j] for i, j, q in terms) <= curvature)
        objective = objective + curvature
    model.setObjective(objective)
    settings = {
        "numerics/feastol": limits.feasibility,
        "numerics/dualfeastol": limits.feasibility,
        "numerics/epsilon": min(1e-9, limits.feasibility),
        "limits/gap": limits.gap,
        "limits/absgap": limits.absolute,
        "lp/threads": limits.threads,
        "parallel/maxnthreads": limits.threads,
    }
    if limits.nodes is not None:
        settings["limits/nodes"] = limits.nodes
    if limits.seconds is not None:
        settings["limits/time"] = limits.seconds
    for name, value in settings.items():
        model.setParam(name, value)
    if start is not None and np.isfinite(start).all():
        guess = model.createSol()
        for variable, value in zip(x, start.tolist(), strict=True):
            model.setSolVal(guess, variable, value)
        if curvature is not None:
            model.setSolVal(guess, curvature, float(0.5 * start @ qp.Q @ start))
        model.addSol(guess)  # dropped by SCIP where it is not feasible
    return model, x


def _linear(scip: Any, row: np.ndarray, x: list[Any]) -> Any:
    (where,) = np.nonzero(row)
    # A row of zeros must stay an expression, or `row <= side` were a Python bool.
    return scip.quicksum(row[i] * x[i] for i in where.tolist()) + scip.Expr()
