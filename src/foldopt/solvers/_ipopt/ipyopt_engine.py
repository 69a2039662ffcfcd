"""Ipopt from the ipyopt wheel: a thin layer over Ipopt's own interface."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from foldopt.solvers._ipopt.engines import CODES, Raw, Request

__all__ = ["solve"]


def solve(request: Request) -> Raw:
    """Run Ipopt once."""
    import ipyopt  # pyright: ignore[reportMissingImports]

    oracle = request.oracle
    options = dict(request.options)
    # Ipopt 3.12 counts processor time only: the clock is looked at once an iteration.
    limit = options.pop("max_wall_time", None)
    end = None if limit is None else time.monotonic() + limit
    late = False

    def go_on(*_: Any) -> bool:
        nonlocal late
        late = end is not None and time.monotonic() > end
        return oracle.error is None and not late

    problem = ipyopt.Problem(
        request.n, request.lower, request.upper,
        request.m, request.constraint_lower, np.zeros(request.m),
        request.pattern.jacobian_entries,
        (request.pattern.hessian.rows, request.pattern.hessian.columns),
        oracle.value,
        lambda x, out: _put(out, oracle.gradient(x)),
        lambda x, out: _put(out, oracle.constraints(x)),
        lambda x, out: _put(out, oracle.jacobian(x)),
        lambda x, y, sigma, out: _put(out, oracle.hessian(x, sigma, y)),
        go_on,
        ipopt_options=options,
    )  # fmt: skip
    y, low, high = np.zeros(request.m), np.zeros(request.n), np.zeros(request.n)
    if request.multipliers is not None:
        y[:], z = request.multipliers
        low[:], high[:] = np.maximum(-z, 0), np.maximum(z, 0)
    x, _, code = problem.solve(request.start.copy(), mult_g=y, mult_x_L=low, mult_x_U=high)
    name = CODES.get(code, str(code))
    if late and name == "User_Requested_Stop":
        name = "Maximum_WallTime_Exceeded"
    return Raw(x, y, high - low, name)


def _put(out: np.ndarray, values: np.ndarray) -> None:
    out[()] = values
