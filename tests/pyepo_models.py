"""PyEPO models without a licence: shortest paths and a portfolio, solved by scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyepo import EPO
from pyepo.model.bases import shortestPathBase
from pyepo.model.opt import optModel
from scipy.optimize import linprog


class Paths(shortestPathBase):
    """The cheapest way through a grid, by HiGHS; or the dearest."""

    def __init__(self, grid: tuple[int, int], dearest: bool = False, cuts: Any = ()) -> None:
        super().__init__(grid)
        self.modelSense = EPO.MAXIMIZE if dearest else EPO.MINIMIZE
        self._extra_constrs = list(cuts)

    def _getModel(self) -> tuple[Any, Any]:
        return None, range(len(self.arcs))

    def setObj(self, c: Any) -> None:
        self.c = c
        assert isinstance(c, np.ndarray)  # what PyEPO itself gives to a model

    def solve(self) -> tuple[np.ndarray, float]:
        A, b = incidence(self.arcs, self.grid)
        G = np.array([coefs for coefs, _ in self._extra_constrs]) if self._extra_constrs else None
        h = [rhs for _, rhs in self._extra_constrs] if self._extra_constrs else None
        found = linprog(self.modelSense * self.c, G, h, A, b, (0, 1))
        if found.status != 0:
            raise RuntimeError(f"no path: {found.message}")
        return found.x, self.modelSense * found.fun

    def addConstr(self, coefs: Any, rhs: float) -> Paths:
        dearest = self.modelSense == EPO.MAXIMIZE
        return Paths(self.grid, dearest, [*self._extra_constrs, (coefs, rhs)])


class Fussy(optModel):
    """The smallest of three costs; what it does for a negative one is said."""

    def __init__(self, when_negative: str = "raise") -> None:
        self.when_negative = when_negative
        super().__init__()

    def _getModel(self) -> tuple[Any, Any]:
        return None, range(3)

    def setObj(self, c: Any) -> None:
        self.c = np.asarray(c)

    def solve(self) -> tuple[Any, float]:
        if self.c.min() < 0:
            if self.when_negative == "raise":
                raise RuntimeError("negative costs are beyond me")
            return {"nan": np.full(3, np.nan), "short": np.zeros(2), "none": None}[
                self.when_negative
            ], 0.0
        x = np.eye(3)[self.c.argmin()]
        return x, float(self.c @ x)


def incidence(arcs: list[tuple[int, int]], grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What flows in less what flows out, for every node but the last: that row depends on them."""
    nodes = grid[0] * grid[1]
    A = np.zeros((nodes, len(arcs)))
    for column, (tail, head) in enumerate(arcs):
        A[tail, column], A[head, column] = -1, 1
    b = np.zeros(nodes)
    b[0] = -1
    return A[:-1], b[:-1]


def best_values(
    arcs: list[tuple[int, int]], nodes: int, costs: np.ndarray, dearest: bool
) -> np.ndarray:
    """The value of the best way for each row of costs, node by node: all arcs lead upward."""
    pick = max if dearest else min
    values = []
    for c in costs:
        at = {0: 0.0}
        for node in range(1, nodes):
            into = [
                (tail, cost) for (tail, head), cost in zip(arcs, c, strict=True) if head == node
            ]
            at[node] = pick(at[tail] + float(cost) for tail, cost in into)
        values.append(at[nodes - 1])
    return np.array(values)
