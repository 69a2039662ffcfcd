"""One sample, solved by an Ipopt, and its answer checked."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt._program import Program
from foldopt.solvers._ipopt.derivatives import Oracle, as_tensors, kkt_residual
from foldopt.solvers._ipopt.engines import VERDICTS, Raw, Request
from foldopt.solvers._ipopt.sparsity import Pattern
from foldopt.solvers._multipliers import Multipliers
from foldopt.status import Solution, Status

__all__ = ["Job", "solve_one"]

# Statuses whose x is worth handing on.
_WITH_X = (
    Status.CONVERGED, Status.INACCURATE, Status.MAX_ITERATIONS, Status.TIME_LIMIT
)  # fmt: skip
# Relative KKT residual, computed afresh, above which an answer is called inaccurate.
_WORST = 1e-7


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """All that the samples of a batch have in common, in a form that travels to a process.

    Attributes
    ----------
    counts
        How many inequalities and equalities there are.
    tolerance
        The residual at which an answer that Ipopt itself has doubts about is accepted.
    """

    program: Program
    engine: str
    options: dict[str, Any]
    pattern: Pattern
    counts: tuple[int, int]
    tolerance: float


def solve_one(job: Job, *arrays: Any, start: Solution | None = None) -> Solution:
    """Solve one sample; the last three arrays are the start and the bounds."""
    *given, x0, lower, upper = arrays
    n, (m, k) = len(x0), job.counts
    low = np.full(n, -np.inf) if lower is None else np.broadcast_to(lower, n).astype(float)
    high = np.full(n, np.inf) if upper is None else np.broadcast_to(upper, n).astype(float)
    crossed = np.flatnonzero(low > high)
    if len(crossed):
        i = int(crossed[0])
        return _without(job, n, Status.INFEASIBLE, f"lower > upper: {low[i]} > {high[i]} at {i}")
    oracle = Oracle(job.program, as_tensors(tuple(given)), job.pattern, job.counts)
    options, near = dict(job.options), None
    x0 = np.clip(x0, low, high)
    if start is not None and np.shape(start.x) == (n,) and start.multipliers is not None:
        lam, nu, mu = (np.asarray(part, dtype=float) for part in start.multipliers)
        x0, near = np.clip(np.asarray(start.x, dtype=float), low, high), (np.append(lam, nu), mu)
        options |= _WARM
    rows = np.append(np.full(m, -np.inf), np.zeros(k))
    request = Request(oracle, x0, low, high, rows, near, options)
    if np.all(low == high):
        raw = Raw(low, np.zeros(m + k), np.zeros(n), "Solve_Succeeded")  # there is no choice
        return _fixed(job, oracle, raw, low, high)
    raw = importlib.import_module(f"foldopt.solvers._ipopt.{job.engine}_engine").solve(request)
    if oracle.error is not None:
        raise oracle.error
    return _judged(job, oracle, raw, low, high)


# Ipopt pushes a start away from its bounds; a warm one is close to them with good reason.
_WARM = {
    "warm_start_init_point": "yes",
    "warm_start_bound_push": 1e-9,
    "warm_start_bound_frac": 1e-9,
    "warm_start_slack_bound_push": 1e-9,
    "warm_start_slack_bound_frac": 1e-9,
    "warm_start_mult_bound_push": 1e-9,
    "mu_init": 1e-8,
}


def _without(job: Job, n: int, status: Status, message: str) -> Solution:
    """No x."""
    lost = [np.full(size, np.nan) for size in (n, *job.counts, n)]
    return Solution(lost[0], int(status), Multipliers(*lost[1:]), None, message)


def _judged(job: Job, oracle: Oracle, raw: Raw, low: np.ndarray, high: np.ndarray) -> Solution:
    """The status, by what Ipopt says and by the optimality conditions."""
    status = VERDICTS.get(raw.status, Status.FAILED)
    doubtful = status in (Status.CONVERGED, Status.INACCURATE)
    if status not in _WITH_X or not np.isfinite(raw.x).all():
        return _without(job, len(low), status if not doubtful else Status.NONFINITE, raw.status)
    multipliers, residual = _checked(job, oracle, raw, low, high)
    message = "" if raw.status == "Solve_Succeeded" else raw.status
    if doubtful:
        accepted = job.tolerance if status == Status.INACCURATE else max(_WORST, job.tolerance)
        status = Status.CONVERGED if residual <= accepted else Status.INACCURATE
        if status == Status.INACCURATE:
            message = f"{raw.status}, with a relative KKT residual of {residual:.1e}"
    return Solution(raw.x, int(status), multipliers, None, message)


def _fixed(job: Job, oracle: Oracle, raw: Raw, low: np.ndarray, high: np.ndarray) -> Solution:
    """Of a program whose bounds leave nothing to choose."""
    c = oracle.constraints(raw.x)
    if oracle.error is not None:
        raise oracle.error
    m = job.counts[0]
    worst = max(c[:m].max(initial=0), np.abs(c[m:]).max(initial=0))
    if not worst <= 1e-8 * (1 + np.abs(raw.x).max()):
        status = Status.NONFINITE if np.isnan(worst) else Status.INFEASIBLE
        return _without(job, len(low), status, f"the bounds fix x, and violate by {worst:.1e}")
    return _judged(job, oracle, raw, low, high)


def _checked(
    job: Job, oracle: Oracle, raw: Raw, low: np.ndarray, high: np.ndarray
) -> tuple[Multipliers, float]:
    """The multipliers, and the KKT residual from derivatives that no pattern has gone into."""
    m = job.counts[0]
    # An interior-point method leaves multipliers of the order of its last barrier: those below 0
    # by rounding become 0, and the residual is taken of the result.
    x, lam, nu = _tensors(raw.x, np.maximum(raw.constraints[:m], 0), raw.constraints[m:])
    gradient = job.program.gradient(x, oracle.params).detach()
    parts = job.program.lagrangian_gradient(x, lam, nu, oracle.params)
    slope, g, h = (part.detach() for part in parts)
    # A fixed variable is no variable to Ipopt. Its multiplier is whatever balances the gradient.
    mu = torch.where(torch.from_numpy(low == high), -slope, *_tensors(raw.bounds))
    residual = kkt_residual(
        x, slope, gradient, g, h, lam, mu, torch.from_numpy(low), torch.from_numpy(high)
    )
    multipliers = Multipliers(lam.numpy(), nu.numpy(), mu.numpy())
    return multipliers, float(residual)


def _tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(array, dtype=torch.float64) for array in arrays)
