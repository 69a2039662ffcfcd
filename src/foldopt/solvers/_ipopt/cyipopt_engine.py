"""Ipopt from cyipopt, where somebody has built it: there is no wheel that holds Ipopt itself."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from foldopt.solvers._ipopt.engines import CODES, Raw, Request

__all__ = ["solve"]


class _Callbacks:
    """What cyipopt calls, by the names that it wants."""

    def __init__(self, request: Request, end: float | None) -> None:
        self.request, self.end, self.late = request, end, False
        self.objective = request.oracle.value
        self.gradient = request.oracle.gradient
        self.constraints = request.oracle.constraints
        self.jacobian = request.oracle.jacobian

    def jacobianstructure(self) -> tuple[np.ndarray, np.ndarray]:
        return self.request.pattern.jacobian_entries

    def hessianstructure(self) -> tuple[np.ndarray, np.ndarray]:
        return self.request.pattern.hessian.rows, self.request.pattern.hessian.columns

    def hessian(self, x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
        return self.request.oracle.hessian(x, sigma, y)

    def intermediate(self, *_: Any) -> bool:
        self.late = self.end is not None and time.monotonic() > self.end
        return self.request.oracle.error is None and not self.late


def solve(request: Request) -> Raw:
    """Run Ipopt once."""
    import cyipopt  # pyright: ignore[reportMissingImports]

    options = dict(request.options)
    limit = options.pop("max_wall_time", None)  # its Ipopt may be older than 3.14
    callbacks = _Callbacks(request, None if limit is None else time.monotonic() + limit)
    problem = cyipopt.Problem(
        n=request.n, m=request.m, problem_obj=callbacks,
        lb=request.lower, ub=request.upper,
        cl=request.constraint_lower, cu=np.zeros(request.m),
    )  # fmt: skip
    for name, value in options.items():
        problem.add_option(name, value)
    y, z = request.multipliers or (np.zeros(request.m), np.zeros(request.n))
    x, info = problem.solve(
        request.start.copy(), lagrange=y, zl=np.maximum(-z, 0), zu=np.maximum(z, 0)
    )
    name = CODES.get(int(info["status"]), str(info["status"]))
    if callbacks.late and name == "User_Requested_Stop":
        name = "Maximum_WallTime_Exceeded"
    return Raw(x, info["mult_g"], info["mult_x_U"] - info["mult_x_L"], name)
