"""Is a program infeasible or unbounded? Asked of another engine, and only when one has failed."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any, NamedTuple

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._qp.active_set import highs
from foldopt.solvers._qp.program import Limits, Program
from foldopt.status import Status

__all__ = ["Truth", "diagnose"]

# Infeasible is what violates its constraints clearly: HiGHS's own default.
_FEASIBLE = 1e-7
# A direction of descent, with |d| ≤ 1 and |p| = 1, must go down by this much to count.
_DESCENT = 1e-6


class Truth(NamedTuple):
    """What two linear programs say.

    Attributes
    ----------
    proof
        INFEASIBLE, UNBOUNDED, or None.
    refutes
        Whether the program is known to be neither.
    said
        Who found what.
    """

    proof: Status | None
    refutes: bool
    said: str


def diagnose(program: Program, limits: Limits) -> Truth:
    """Look for a feasible point, then for a direction in which the objective falls for ever.

    A convex program that is feasible is unbounded where a d exists with Qd = 0, pᵀd < 0, Gd ≤ 0,
    Ad = 0, and d ≤ 0 (d ≥ 0) where x has an upper (lower) bound. Both are linear programs, which
    HiGHS's simplex method decides; without HiGHS nothing is known.
    """
    if importlib.util.find_spec("highspy") is None:
        return Truth(None, False, "unconfirmed: highspy is not installed")
    mine = Limits(atol=_FEASIBLE, time_limit=limits.time_limit)
    feasibility = dataclasses.replace(program, Q=None, p=np.zeros_like(program.p))
    status = highs(feasibility, mine, None).status
    if status == Status.INFEASIBLE:
        return Truth(Status.INFEASIBLE, False, "no feasible point, says HiGHS")
    if status != Status.CONVERGED:
        return Truth(None, False, "HiGHS finds no feasible point, and no proof that there is none")
    size = np.abs(program.p).max(initial=0)
    if size == 0:
        return Truth(None, True, "HiGHS finds a feasible point")
    descent = highs(_recession(program, size), Limits(time_limit=limits.time_limit), None)
    if descent.status != Status.CONVERGED or descent.point is None:
        return Truth(None, False, "HiGHS finds a feasible point")
    if descent.point.x @ program.p / size < -_DESCENT:
        return Truth(Status.UNBOUNDED, False, "a direction of endless descent, says HiGHS")
    return Truth(None, True, "HiGHS finds a feasible point, and no direction of endless descent")


def _recession(program: Program, size: float) -> Program:
    """min pᵀd over the directions that never leave the feasible set nor meet curvature."""
    program = program.as_sparse()
    A: Any = program.A
    if program.Q is not None:
        largest = abs(program.Q).max() or 1.0
        A = _scipy.sparse.vstack([A, program.Q / largest], format="csc")
    return Program(
        None,
        program.p / size,
        program.G,
        np.zeros_like(program.h),
        A,
        np.zeros(A.shape[0]),
        np.where(np.isfinite(program.lower), 0.0, -1.0),
        np.where(np.isfinite(program.upper), 0.0, 1.0),
    )
