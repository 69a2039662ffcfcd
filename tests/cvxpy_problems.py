"""Problems in CVXPY, one for each kind of cone and of use, with values of their parameters."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from foldopt.cvxpy import CvxpyLayer

F64 = torch.float64


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem, and how to draw values of its parameters.

    Attributes
    ----------
    variables
        What the layer returns: variables and dual variables.
    draw
        ``draw(count, generator)``: values for a batch, each ``(count, *shape)``.
    """

    problem: cp.Problem
    parameters: list[Any]
    variables: list[Any]
    draw: Callable[[int, torch.Generator], list[Tensor]]
    gp: bool = False

    def one(self, seed: int = 0) -> list[Tensor]:
        """Values without a batch dimension."""
        values = self.draw(1, torch.Generator().manual_seed(seed))
        return [value[0] for value in values]

    def by_cvxpy(self, values: list[Tensor], **options: Any) -> list[np.ndarray]:
        """The same variables by CVXPY itself."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.value = value.detach().numpy()
        tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the last digits were not to be had
            self.problem.solve(solver="CLARABEL", gp=self.gp, **(tight | options))
        found = []
        for variable in self.variables:
            value = variable.value
            value = value.toarray() if hasattr(value, "toarray") else np.asarray(value)
            found.append(value.reshape(variable.shape))
        return found


def normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=F64)


def uniform(g: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=g, dtype=F64)


def symmetric(g: torch.Generator, *shape: int) -> Tensor:
    X = normal(g, *shape)
    return (X + X.mT) / 2


def duals(*constraints: Any) -> list[Any]:
    return [dual for one in constraints for dual in one.dual_variables]


def linear_rows() -> Case:
    """Zero and nonnegative cones, a quadratic objective."""
    n = 5
    x, q, G = cp.Variable(n), cp.Parameter(n), cp.Parameter((6, n))
    h, d = cp.Parameter(6), cp.Parameter()
    rows = [G @ x <= h, cp.sum(x) == d]
    objective = cp.Minimize(0.5 * cp.sum_squares(x) + q @ x)
    return Case(
        cp.Problem(objective, rows), [q, G, h, d], [x, *duals(*rows)],
        lambda b, g: [normal(g, b, n), normal(g, b, 6, n), uniform(g, 0.1, 1, b, 6),
                      0.1 * normal(g, b)],
    )  # fmt: skip


def linear_program() -> Case:
    """The same cones and no curvature: vertices."""
    n = 4
    x, c, A, b = cp.Variable(n), cp.Parameter(n), cp.Parameter((2, n)), cp.Parameter(2)
    rows = [A @ x <= b, x >= 0, cp.sum(x) == 1]
    return Case(
        cp.Problem(cp.Minimize(c @ x), rows), [c, A, b], [x, *duals(*rows)],
        # Feasible: the smallest entry of a row is below its limit.
        lambda k, g: [normal(g, k, n), uniform(g, -1, 1, k, 2, n), uniform(g, 1, 1.5, k, 2)],
    )  # fmt: skip


def second_order() -> Case:
    n = 4
    x, c, F = cp.Variable(n), cp.Parameter(n), cp.Parameter((3, n))
    r, d = cp.Parameter(), cp.Parameter(3)
    rows = [cp.SOC(r, F @ x + d), x <= 2, cp.sum(x) == 0.3]
    objective = cp.Minimize(c @ x + 0.1 * cp.sum_squares(x))
    return Case(
        cp.Problem(objective, rows), [c, F, r, d], [x, *duals(*rows)],
        lambda b, g: [normal(g, b, n), normal(g, b, 3, n), uniform(g, 1.5, 3, b),
                      0.3 * normal(g, b, 3)],
    )  # fmt: skip


def many_second_order(axis: int = 0) -> Case:
    """Several cones in one constraint."""
    X, t, c, d = cp.Variable((3, 2)), cp.Variable(2), cp.Parameter((3, 2)), cp.Parameter(2)
    rows = [cp.SOC(t, X) if axis == 0 else cp.SOC(t, X.T, axis=1), t <= d]
    return Case(
        cp.Problem(cp.Minimize(cp.sum(cp.multiply(c, X))), rows), [c, d], [X, t, *duals(*rows)],
        lambda b, g: [normal(g, b, 3, 2), uniform(g, 1, 2, b, 2)],
    )  # fmt: skip


def semidefinite() -> Case:
    k = 3
    S, C, d = cp.Variable((k, k), symmetric=True), cp.Parameter((k, k)), cp.Parameter()
    rows = [S >> 0, cp.trace(S) == d, S[0, 1] <= 0.1]
    objective = cp.Minimize(cp.trace(C @ S) + 0.5 * cp.sum_squares(S))
    return Case(
        cp.Problem(objective, rows), [C, d], [S, *duals(*rows)],
        lambda b, g: [normal(g, b, k, k), uniform(g, 0.5, 1.5, b)],
    )  # fmt: skip


def entropy() -> Case:
    n = 4
    x, c, d = cp.Variable(n), cp.Parameter(n), cp.Parameter()
    rows = [cp.sum(x) == d, x <= 0.7]
    objective = cp.Maximize(cp.sum(cp.entr(x)) + c @ x)
    return Case(
        cp.Problem(objective, rows), [c, d], [x, *duals(*rows)],
        lambda b, g: [normal(g, b, n), uniform(g, 0.8, 1.5, b)],
    )  # fmt: skip


def exponential() -> Case:
    n = 3
    u, w, z, a = cp.Variable(n), cp.Variable(n), cp.Variable(n), cp.Parameter(n)
    c = cp.Parameter(n)
    rows = [cp.ExpCone(u, w, z), w == a, cp.sum(u) >= 1]
    objective = cp.Minimize(cp.sum(z) + 0.1 * cp.sum_squares(u - c))
    return Case(
        cp.Problem(objective, rows), [a, c], [u, z, *duals(*rows)],
        lambda b, g: [uniform(g, 0.5, 1.5, b, n), normal(g, b, n)],
    )  # fmt: skip


def power() -> Case:
    n = 3
    u, w, z, a = cp.Variable(n), cp.Variable(n), cp.Variable(n), cp.Parameter(n)
    c = cp.Parameter(n)
    rows = [cp.PowCone3D(u, w, z, np.array([0.2, 0.5, 0.7])), u <= a, w <= 2]
    objective = cp.Minimize(c @ z + 0.1 * cp.sum_squares(u) + 0.2 * cp.sum_squares(z))
    return Case(
        cp.Problem(objective, rows), [a, c], [u, z, *duals(*rows)],
        lambda b, g: [uniform(g, 0.5, 1.5, b, n), -uniform(g, 0.5, 2, b, n)],
    )  # fmt: skip


def every_cone() -> Case:
    """All of them in one problem."""
    S, u, p = cp.Variable((2, 2), symmetric=True), cp.Variable(2), cp.Variable(2)
    C, a = cp.Parameter((2, 2)), cp.Parameter(2)
    rows = [
        S >> 0, cp.trace(S) == 1, cp.ExpCone(u, np.ones(2), S[0] + a), cp.SOC(u[0] + 3, u),
        cp.PowCone3D(p, p + 1, u, np.array([0.3, 0.6])), p <= 3,
    ]  # fmt: skip
    objective = cp.Minimize(cp.trace(C @ S) + 0.5 * cp.sum_squares(S) - cp.sum(u) + cp.sum(p))
    return Case(
        cp.Problem(objective, rows), [C, a], [S, u, p],
        lambda b, g: [normal(g, b, 2, 2), uniform(g, 1, 2, b, 2)],
    )  # fmt: skip


def _parameter(n: int, kind: dict[str, Any]) -> Any:
    return cp.Parameter((n, n), **kind)


def quadratic_forms(sign: int, count: int, maximize: bool) -> Case:
    """The forms that CVXPY lets stand in an objective, each with a matrix that is a parameter."""
    n = 3
    x, q = cp.Variable(n), cp.Parameter(n)
    kind = {"PSD": True} if sign > 0 else {"NSD": True}
    matrices = [_parameter(n, kind) for _ in range(count)]
    # Convex in a minimum, concave in a maximum.
    outer = sign * (-1 if maximize else 1)
    total: Any = q @ x
    for matrix in matrices:
        total = total + outer * cp.quad_form(x, matrix)
    objective = cp.Maximize(total) if maximize else cp.Minimize(total)

    def draw(b: int, g: torch.Generator) -> list[Tensor]:
        found = []
        for _ in matrices:
            R = normal(g, b, n, n)
            found.append(sign * (R @ R.mT + 0.3 * torch.eye(n, dtype=F64)))
        return [*found, normal(g, b, n)]

    return Case(cp.Problem(objective, [x >= -0.2]), [*matrices, q], [x], draw)


CONES = {
    "linear": linear_rows,
    "linear program": linear_program,
    "second-order": second_order,
    "semidefinite": semidefinite,
    "entropy": entropy,
    "exponential": exponential,
    "power": power,
}


def layer_of(case: Case, **options: Any) -> CvxpyLayer:
    return CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp, **options)


def leaves(*values: Tensor) -> list[Tensor]:
    return [value.clone().requires_grad_() for value in values]
