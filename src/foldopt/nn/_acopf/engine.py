"""Ipopt with the sparse derivatives of a grid: one sample after the other, or in processes."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.nn._acopf.derivatives import Costs, Derivatives
from foldopt.nn._acopf.network import Network
from foldopt.nn._nlp.engines import Found, Limits
from foldopt.nn._nlp.model import Point
from foldopt.solvers import Multipliers
from foldopt.solvers._ipopt.engines import ENGINES, VERDICTS, Raw, Request, installed
from foldopt.solvers._ipopt.sparsity import Compressed, Pattern
from foldopt.solvers._run.samples import solve_samples
from foldopt.solvers._settings import Settings
from foldopt.status import Solution, Status

__all__ = ["PARAMS", "by_ipopt"]

PARAMS = ("pd", "qd", "quadratic", "linear")


class _Oracle:
    """What an engine asks for, of one sample; see :class:`~foldopt.solvers._ipopt.derivatives`."""

    error: BaseException | None = None

    def __init__(self, derivatives: Derivatives, costs: Costs) -> None:
        self.derivatives, self.costs = derivatives, costs
        self._at, self._rows = b"", np.zeros(0)

    @functools.cached_property
    def pattern(self) -> Pattern:
        none = np.zeros(0, dtype=np.int64)
        jacobian, hessian = self.derivatives.jacobian_places, self.derivatives.hessian_places
        return Pattern(
            Compressed(jacobian.rows, jacobian.columns, None, none),
            Compressed(hessian.rows, hessian.columns, None, none),
        )

    def value(self, z: np.ndarray) -> float:
        return self.derivatives.value(z, self.costs)

    def gradient(self, z: np.ndarray) -> np.ndarray:
        return self.derivatives.gradient(z, self.costs)

    def constraints(self, z: np.ndarray) -> np.ndarray:
        # They are asked for at the same point several times in a row.
        key = z.tobytes()
        if key != self._at:
            self._at, self._rows = key, self.derivatives.constraints(z, self.costs)
        return self._rows

    def jacobian(self, z: np.ndarray) -> np.ndarray:
        return self.derivatives.jacobian(z)

    def hessian(self, z: np.ndarray, sigma: float, y: np.ndarray) -> np.ndarray:
        return self.derivatives.hessian(z, sigma, y, self.costs)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """What all samples have in common."""

    derivatives: Derivatives
    engine: str
    options: dict[str, Any]

    def __call__(self, *arrays: np.ndarray, start: Any = None) -> Solution:
        *params, z0 = arrays
        network = self.derivatives.network
        (m, k), (low, high) = network.counts, network.grid.bounds()
        n = len(low)
        crossed = np.flatnonzero(low > high)
        if len(crossed):
            i = int(crossed[0])
            said = f"{network.grid.name_of(i)}: its lower limit {low[i]} is above {high[i]}"
            return _lost(n, m, k, Status.INFEASIBLE, said)
        oracle: Any = _Oracle(self.derivatives, Costs.of(network, *params))
        rows = np.append(np.full(m, -np.inf), np.zeros(k))
        request = Request(oracle, np.clip(z0, low, high), low, high, rows, None, dict(self.options))
        solve = importlib.import_module(f"foldopt.solvers._ipopt.{self.engine}_engine").solve
        return _read(solve(request), m, k)


def _read(raw: Raw, m: int, k: int) -> Solution:
    status = VERDICTS.get(raw.status, Status.FAILED)
    if not np.isfinite(raw.x).all():
        return _lost(len(raw.x), m, k, Status.NONFINITE, raw.status)
    multipliers = Multipliers(np.maximum(raw.constraints[:m], 0), raw.constraints[m:], raw.bounds)
    said = "" if raw.status == "Solve_Succeeded" else raw.status
    return Solution(raw.x, int(status), multipliers, None, said)


def _lost(n: int, m: int, k: int, status: Status, said: str) -> Solution:
    parts = [np.full(size, np.nan) for size in (n, m, k, n)]
    return Solution(parts[0], int(status), Multipliers(*parts[1:]), None, said)


def by_ipopt(
    network: Network,
    derivatives: Derivatives,
    limits: Limits,
    params: tuple[Tensor, ...],
    shared: tuple[int, ...],
    start: Tensor,
) -> Found:
    """The answers of Ipopt, whose multipliers are those of :class:`Network`'s rows.

    Parameters
    ----------
    params
        pd, qd, quadratic and linear, float64.
    shared
        Which of them have no batch dimension.
    start
        ``(B, variables)``.
    """
    n, (m, k) = network.grid.variables, network.counts
    if not len(start):
        none = Point(*(start.new_zeros(0, size) for size in (n, m, k, n)))
        return Found(none, torch.zeros(0, dtype=torch.int64), ())
    engine = installed("auto")
    options: dict[str, Any] = {
        "print_level": 0, "sb": "yes", "tol": 1e-9, "constr_viol_tol": 1e-8, "max_iter": 500,
        "bound_relax_factor": 0.0,
    }  # fmt: skip
    settings = Settings(
        rtol=limits.rtol, max_iterations=limits.max_iterations, time_limit=limits.time_limit,
        executor=limits.executor,
    )  # fmt: skip
    options |= settings.chosen(rtol="tol", max_iterations="max_iter", time_limit="max_wall_time")
    options |= limits.options
    found = solve_samples(
        _Job(derivatives, engine, options),
        (*(param.cpu() for param in params), start.cpu()),
        names=(*PARAMS, "start"),
        in_dims=(*(None if i in shared else 0 for i in range(4)), 0),
        settings=settings,
        releases_gil=ENGINES[engine]["releases_gil"],
        blank=lambda: _lost(n, m, k, Status.FAILED, ""),
        checked=True,
    )
    x, *rows = (
        torch.as_tensor(part).double().reshape(len(start), -1).to(start.device)
        for part in (found.x, *found.multipliers)
    )
    status = torch.as_tensor(found.status).reshape(len(start)).to(start.device, torch.int64)
    said = found.messages
    said = (said,) if isinstance(said, str) else tuple(said or [""] * len(start))
    return Found(Point(x, *rows), status, said)
