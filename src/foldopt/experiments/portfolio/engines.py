"""The solvers that are compared on eq. 20, each given V and γ in the units asked for."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.nn._portfolio.interior_points import solve
from foldopt.solvers import QCQP, SQP, solve_batch
from foldopt.status import Solution, Status

__all__ = ["ENGINES", "engine_of"]

# A batch that is not solved by then is not going to be: where all is well it takes below a second.
_SECONDS = 20.0

Engine = Callable[[Tensor, Tensor, Tensor], Any]

ENGINES: dict[str, str | None] = {
    "batched": None,
    "sqp": None,
    "clarabel": "clarabel",
    "gurobi": "gurobipy",
}
"""Our engines, with the package that each needs."""


def engine_of(name: str, scale: float = 1.0) -> Engine:
    """A solver of eq. 20 by its name.

    Parameters
    ----------
    name
        ``"batched"``, interior points of this study; ``"sqp"``,
        :class:`~foldopt.solvers.SQP`; ``"clarabel"``, :class:`~foldopt.solvers.QCQP`, which brings
        constraints to size one by itself; ``"gurobi"``, its barrier.
    scale
        What V and γ are multiplied by before the engine sees them.

    Returns
    -------
    Callable
        ``engine(c, covariance, risk)``, for a batch: a :class:`~foldopt.Solution`.

    Raises
    ------
    ImportError
        If the engine's package is missing.
    ValueError
        If there is no such engine.

    Examples
    --------
    >>> c = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    >>> V, gamma = torch.eye(2).double()[None], torch.tensor([0.68], dtype=torch.float64)
    >>> engine_of("sqp")(c, V, gamma).x
    tensor([[0.8000, 0.2000]], dtype=torch.float64)
    """
    if name not in ENGINES:
        raise ValueError(f"engine_of: there is no engine {name!r}; there are {list(ENGINES)}")
    package = ENGINES[name]
    if package is not None and importlib.util.find_spec(package) is None:
        raise ImportError(f"engine_of: engine {name!r} needs {package}: pip install {package}")
    engine: Engine = {"batched": solve, "sqp": _sqp, "clarabel": _clarabel, "gurobi": _gurobi}[name]

    def scaled(c: Tensor, covariance: Tensor, risk: Tensor) -> Any:
        return engine(c, scale * covariance, scale * risk)

    return scaled


def _sqp(c: Tensor, covariance: Tensor, risk: Tensor) -> Solution:
    n = c.shape[-1]
    find = SQP(
        lambda x, c, V, gamma: -(c @ x),
        lambda x, c, V, gamma: [x @ V @ x - gamma, -x],
        lambda x, c, V, gamma: x.sum() - 1,
        start=torch.full((n,), 1 / n, dtype=c.dtype),
        time_limit=_SECONDS,
    )
    return find(c, covariance, risk)


def _clarabel(c: Tensor, covariance: Tensor, risk: Tensor) -> Solution:
    one = torch.ones(1, dtype=c.dtype)
    return QCQP(rtol=1e-10, atol=1e-10)(
        None,
        -c,
        Qs=(2 * covariance)[:, None],
        rs=risk[:, None],
        A=one.expand(1, c.shape[-1]),
        b=one,
        lower=0.0,
    )


def _gurobi(c: Tensor, covariance: Tensor, risk: Tensor) -> Solution:
    return solve_batch(_gurobi_one, c, covariance, risk)


def _gurobi_one(c: np.ndarray, covariance: np.ndarray, risk: np.ndarray) -> Solution:
    gurobi: Any = importlib.import_module("gurobipy")
    with gurobi.Model(env=_environment()) as model:
        x = model.addMVar(len(c))  # from 0 on
        model.setObjective(c @ x, gurobi.GRB.MAXIMIZE)
        model.addConstr(x.sum() == 1)
        model.addConstr(x @ covariance @ x <= float(risk))
        model.optimize()
        if model.SolCount == 0:
            return Solution(np.full(len(c), np.nan), Status.FAILED, messages=f"{model.Status}")
        solved = model.Status == gurobi.GRB.OPTIMAL
        return Solution(np.array(x.X), Status.CONVERGED if solved else Status.INACCURATE)


@functools.cache
def _environment() -> Any:
    """One for all programs: to open it costs more than to solve one."""
    gurobi: Any = importlib.import_module("gurobipy")
    environment = gurobi.Env(empty=True)
    environment.setParam("OutputFlag", 0)
    environment.setParam("Threads", 1)
    # Its default of 1e-6 is absolute: a risk of 1e-7 would pass unnoticed.
    environment.setParam("FeasibilityTol", 1e-9)
    environment.setParam("BarQCPConvTol", 1e-9)
    environment.start()
    return environment
