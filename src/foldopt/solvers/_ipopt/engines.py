"""What is asked of an Ipopt, whichever package brings it, and what it says in the end."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any, NamedTuple

import numpy as np

from foldopt.solvers._ipopt.derivatives import Oracle
from foldopt.solvers._ipopt.sparsity import Pattern
from foldopt.status import Status

__all__ = ["CODES", "ENGINES", "VERDICTS", "Raw", "Request", "installed"]

# In the order of preference; see benchmarks/ipopt_wheels.py. Callbacks are Python, which one
# thread runs at a time: none of them gains from threads.
ENGINES: dict[str, dict[str, Any]] = {
    "casadi": {
        "package": "casadi",
        "pip": "casadi",
        "releases_gil": False,
        "licence": "Ipopt EPL-2.0, casadi LGPL-3.0-or-later",
        "classes": "smooth nonlinear programs (local solutions)",
    },
    "ipyopt": {
        "package": "ipyopt",
        "pip": "ipyopt",
        "releases_gil": False,
        "licence": "Ipopt EPL-1.0, ipyopt BSD-3-Clause",
        "classes": "smooth nonlinear programs (local solutions)",
    },
    "cyipopt": {
        "package": "cyipopt",
        "pip": "cyipopt",
        "releases_gil": False,
        "licence": "Ipopt EPL-2.0, cyipopt EPL-2.0",
        "classes": "smooth nonlinear programs (local solutions)",
    },
}


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """One sample: min f(x) s.t. constraint_lower ≤ c(x) ≤ 0, lower ≤ x ≤ upper.

    ``multipliers`` are those of c and of the bounds (above 0 at an upper one), to start from.
    """

    oracle: Oracle
    start: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    constraint_lower: np.ndarray
    multipliers: tuple[np.ndarray, np.ndarray] | None
    options: dict[str, Any]

    @property
    def n(self) -> int:
        return len(self.start)

    @property
    def m(self) -> int:
        return len(self.constraint_lower)

    @property
    def pattern(self) -> Pattern:
        return self.oracle.pattern


class Raw(NamedTuple):
    """An engine's answer: x, the multipliers of c and of the bounds, and Ipopt's return status."""

    x: np.ndarray
    constraints: np.ndarray
    bounds: np.ndarray
    status: str


# Ipopt's own numbers for its return statuses (IpReturnCodes_inc.h).
CODES = {
    0: "Solve_Succeeded",
    1: "Solved_To_Acceptable_Level",
    2: "Infeasible_Problem_Detected",
    3: "Search_Direction_Becomes_Too_Small",
    4: "Diverging_Iterates",
    5: "User_Requested_Stop",
    6: "Feasible_Point_Found",
    -1: "Maximum_Iterations_Exceeded",
    -2: "Restoration_Failed",
    -3: "Error_In_Step_Computation",
    -4: "Maximum_CpuTime_Exceeded",
    -5: "Maximum_WallTime_Exceeded",
    -10: "Not_Enough_Degrees_Of_Freedom",
    -11: "Invalid_Problem_Definition",
    -12: "Invalid_Option",
    -13: "Invalid_Number_Detected",
    -100: "Unrecoverable_Exception",
    -101: "NonIpopt_Exception_Thrown",
    -102: "Insufficient_Memory",
    -199: "Internal_Error",
}

# Everything else is FAILED.
VERDICTS = {
    "Solve_Succeeded": Status.CONVERGED,
    "Feasible_Point_Found": Status.CONVERGED,
    "Solved_To_Acceptable_Level": Status.INACCURATE,
    "Search_Direction_Becomes_Too_Small": Status.INACCURATE,
    "Infeasible_Problem_Detected": Status.INFEASIBLE,
    "Diverging_Iterates": Status.UNBOUNDED,
    "Maximum_Iterations_Exceeded": Status.MAX_ITERATIONS,
    "Maximum_CpuTime_Exceeded": Status.TIME_LIMIT,
    "Maximum_WallTime_Exceeded": Status.TIME_LIMIT,
    "Invalid_Number_Detected": Status.NONFINITE,
}


def installed(engine: str) -> str:
    """The engine to use, or an error that says how to get one."""
    names = list(ENGINES) if engine == "auto" else [engine]
    for name in names:
        if importlib.util.find_spec(ENGINES[name]["package"]) is not None:
            return name
    package = ENGINES[names[0]]["pip"]
    raise ImportError(
        f"solvers.Ipopt: engine {names[0]!r} needs the package {package}: pip install {package}"
    )
