"""The engine that belongs to a solver's name and arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cvxpy as cp
from cvxpy.error import SolverError

from foldopt.cvxpy._cones import Cones
from foldopt.cvxpy._engines.clarabel import solve_clarabel
from foldopt.cvxpy._engines.others import solve_by_cvxpy
from foldopt.cvxpy._engines.scs import solve_scs
from foldopt.cvxpy._engines.smoothing import solve_smoothed
from foldopt.cvxpy._layout import Layout
from foldopt.cvxpy._program import Answer, Program
from foldopt.cvxpy._smoothing import SMOOTH

__all__ = ["Engine", "checked_name", "default_engine", "engine_of"]

Start = Any
# The order of matrices from which on operator splitting is faster.
_SPLITTING = 20
_OF_DIFFCP = ("mode", "n_jobs_forward", "n_jobs_backward", "warm_starts")


@dataclasses.dataclass(frozen=True)
class Engine:
    """A solver with its arguments.

    Attributes
    ----------
    name
        CVXPY's.
    solve
        ``solve(program, start, options, verbose)``.
    options
        The user's, in the solver's own names.
    verbose
        Whether it may print.
    threads
        Whether several calls may run at the same time.
    second
        What solves the programs that this one leaves unsolved; None: nothing.
    """

    name: str
    solve: Callable[[Program, Start, dict[str, Any], bool], Answer]
    options: dict[str, Any]
    verbose: bool
    threads: bool
    second: Engine | None = None

    def __call__(self, program: Program, start: Start) -> Answer:
        """Solve one program."""
        return self.solve(program, start, self.options, self.verbose)


def checked_name(solver: Any) -> str:
    """The name of a solver that is there."""
    if solver is None:
        return "CLARABEL"
    if not isinstance(solver, str):
        raise TypeError(
            "CvxpyLayer: solver must be the name of a CVXPY solver, such as cp.CLARABEL, or None, "
            f"got {type(solver).__name__}"
        )
    name = solver.upper()
    if name == "DIFFCP":  # not a solver, but a derivative of Clarabel's or SCS's answer
        return name
    if name not in cp.installed_solvers():
        raise SolverError(
            f"CvxpyLayer: solver {solver!r} is not installed, or unknown to CVXPY. Installed: "
            f"{', '.join(cp.installed_solvers())}"
        )
    return name


def default_engine(cones: Cones, layout: Layout | None, verbose: bool) -> Engine:
    """Clarabel; but first what is faster where a matrix of some order is semidefinite.

    An iteration of interior points costs k⁶ then. Where the matrices are themselves variables,
    Newton's method on smoothed conditions takes ten small systems; elsewhere an iteration of SCS
    costs k³, and the polish needs but a few digits to begin with.
    """
    clarabel, largest = engine_of("CLARABEL", {}, verbose), max(cones.semidefinite, default=0)
    first = clarabel
    if largest >= _SPLITTING:
        few = {"eps": 1e-6, "max_iters": 3000}
        first = dataclasses.replace(engine_of("SCS", few, verbose), second=clarabel)
    if layout is None or cones.kinds - SMOOTH:
        return first
    return Engine("smoothing", solve_smoothed, {}, verbose, threads=False, second=first)


def engine_of(name: str, options: dict[str, Any], verbose: bool) -> Engine:
    """The engine for a checked name.

    With "DIFFCP" the arguments are those of diffcp: ``solve_method`` says which engine it is,
    ``eps`` is the tolerance of any, and what concerns its own derivative is of no use here.
    """
    options = dict(options)
    verbose = bool(options.pop("verbose", verbose))
    if name in ("DIFFCP", "CLARABEL"):
        method = options.pop("solve_method", None)
        for unused in _OF_DIFFCP:
            options.pop(unused, None)
        of_scs = {"acceleration_lookback", "max_iters", "eps_abs", "eps_rel", "alpha"}
        if method is None and name == "DIFFCP":
            method = "SCS" if of_scs & set(options) else "CLARABEL"
        name = "CLARABEL" if method is None else str(method).upper()
    if name == "CLARABEL":
        return Engine(name, solve_clarabel, options, verbose, threads=True)
    if name == "SCS":
        return Engine(name, solve_scs, options, verbose, threads=True)
    return Engine(checked_name(name), solve_by_cvxpy(name), options, verbose, threads=False)
