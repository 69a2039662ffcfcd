"""Random programs that several folded optimizers can solve, and an oracle for their solutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

F64 = torch.float64


@dataclasses.dataclass(frozen=True)
class Case:
    """min f(x, *params) s.t. g ≤ 0, h = 0, by functions of one sample; n variables."""

    n: int
    objective: Callable[..., Tensor]
    inequality: Callable[..., Tensor] | None
    equality: Callable[..., Tensor] | None
    params: tuple[Tensor, ...]

    def solve(self, *params: Tensor, start: Tensor | None = None) -> Tensor:
        """A local optimum of each sample, from SLSQP, polished by Newton's method in numpy.

        With a ``start`` so near that the same constraints are active, by Newton's method alone.
        """
        rows = [
            self._one(
                tuple(param[i].detach() for param in params),
                np.zeros(self.n) if start is None else start[i].numpy(),
                start is not None,
            )
            for i in range(len(params[0]))
        ]
        return torch.stack(rows)

    def _one(self, params: tuple[Tensor, ...], start: np.ndarray, near: bool) -> Tensor:
        def of(function: Callable[..., Any] | None, x: np.ndarray) -> np.ndarray:
            if function is None:
                return np.zeros(0)
            return function(torch.tensor(x, dtype=F64), *params).reshape(-1).numpy()

        def slope(function: Callable[..., Any] | None, x: np.ndarray) -> np.ndarray:
            if function is None:
                return np.zeros((0, self.n))
            at = torch.tensor(x, dtype=F64)
            rows = torch.func.jacrev(lambda y: function(y, *params).reshape(-1))(at)
            return rows.numpy()

        f, g, h = self.objective, self.inequality, self.equality
        x = start
        if not near:
            constraints = [
                {"type": "ineq", "fun": lambda x: -of(g, x), "jac": lambda x: -slope(g, x)},
                {"type": "eq", "fun": lambda x: of(h, x), "jac": lambda x: slope(h, x)},
            ]
            x = minimize(
                lambda x: of(f, x)[0],
                start,
                jac=lambda x: slope(f, x)[0],
                method="SLSQP",
                constraints=[c for c, given in zip(constraints, (g, h), strict=True) if given],
                options={"ftol": 1e-15, "maxiter": 1000},
            ).x
        x = self._polish(x, params, of, slope)
        assert np.abs(of(h, x)).max(initial=0) < 1e-9
        assert of(g, x).max(initial=0) < 1e-9
        return torch.tensor(x, dtype=F64)

    def _polish(self, x: np.ndarray, params: tuple[Tensor, ...], of: Any, slope: Any) -> np.ndarray:
        """Newton's method on the conditions of the constraints that SLSQP ended on."""
        held = of(self.inequality, x) > -1e-4

        def rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            values = np.concatenate([of(self.inequality, x)[held], of(self.equality, x)])
            jacobian = [slope(self.inequality, x)[held], slope(self.equality, x)]
            return values, np.concatenate(jacobian)

        _, J = rows(x)
        y = -np.linalg.lstsq(J.T, slope(self.objective, x)[0], rcond=None)[0]
        residual = np.full(1, np.inf)
        for _ in range(6):
            if np.abs(residual).max() < 1e-12:
                break
            values, J = rows(x)
            count = held.sum()

            def lagrangian(z: Tensor, y: np.ndarray = y, count: int = count) -> Tensor:
                total = self.objective(z, *params).reshape(())
                if self.inequality is not None:
                    total = total + torch.tensor(y[:count]) @ self.inequality(z, *params)[held]
                if self.equality is not None:
                    multipliers = torch.tensor(y[count:])
                    total = total + multipliers @ self.equality(z, *params).reshape(-1)
                return total

            at = torch.tensor(x, dtype=F64)
            H = torch.func.hessian(lagrangian)(at).numpy()
            residual = np.concatenate([torch.func.grad(lagrangian)(at).numpy(), values])
            zero = np.zeros((len(values), len(values)))
            K = np.block([[H, J.T], [J, zero]])
            move = np.linalg.solve(K, residual)
            x, y = x - move[: self.n], y - move[self.n :]
        assert np.abs(residual).max() < 1e-9
        assert y[: held.sum()].min(initial=1) > 1e-4  # strict complementarity: x* is smooth
        return x

    def gradients_by_differences(self, weights: Tensor, step: float = 1e-5) -> list[Tensor]:
        """∂(weights · x*)/∂params by central differences of the oracle."""
        base = self.solve(*self.params)
        found = []
        for position, param in enumerate(self.params):
            grad = torch.zeros_like(param)
            rows = param[0].numel()
            for column in range(rows):
                ends = []
                for sign in (1, -1):
                    moved = param.detach().clone()
                    moved.reshape(len(moved), -1)[:, column] += sign * step
                    params = (*self.params[:position], moved, *self.params[position + 1 :])
                    ends.append(self.solve(*params, start=base))
                # Samples do not touch one another: all of a column's differences at once.
                change = (weights * (ends[0] - ends[1])).sum(-1) / (2 * step)
                grad.reshape(len(grad), -1)[:, column] = change
            found.append(grad)
        return found


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64)


def linear_convex(samples: int = 3, n: int = 4) -> Case:
    """Quadratic, strongly convex, on a polyhedron that depends on params."""
    R = _random(samples, n, n)
    Q = R @ R.mT + torch.eye(n, dtype=F64)
    params = (Q, 3 * _random(samples, n), _random(samples, 3, n), torch.rand(samples, 3, dtype=F64),
              _random(samples, 1, n), 0.2 * _random(samples, 1))  # fmt: skip
    return Case(
        n,
        lambda x, Q, c, G, h, A, b: 0.5 * x @ Q @ x + c @ x,
        lambda x, Q, c, G, h, A, b: G @ x - h - 0.1,
        lambda x, Q, c, G, h, A, b: A @ x - b,
        params,
    )


def linear_nonconvex(samples: int = 3, n: int = 4) -> Case:
    """An indefinite quadratic and a sine, on a box cut by a plane."""
    R = _random(samples, n, n)
    params = (R + R.mT, 2 * _random(samples, n), 1 + torch.rand(samples, 1, dtype=F64))
    return Case(
        n,
        lambda x, Q, c, r: 0.5 * x @ Q @ x + c @ x + torch.sin(x).sum() + 0.05 * (x**4).sum(),
        lambda x, Q, c, r: torch.cat([x - r, -x - r]),
        lambda x, Q, c, r: x.sum() - 0.3 * r,
        params,
    )


def nonlinear_convex(samples: int = 3, n: int = 4) -> Case:
    """A smooth convex objective on an ellipsoid cut by a half-space and a plane."""
    D = 0.5 + torch.rand(samples, n, dtype=F64)
    params = (3 * _random(samples, n), D, 1 + torch.rand(samples, 1, dtype=F64))
    return Case(
        n,
        lambda x, c, D, r: torch.logsumexp(x, 0) + 0.5 * x @ x + c @ x,
        lambda x, c, D, r: torch.stack([(D * x) @ x - r[0], x[0] - 0.5 * r[0]]),
        lambda x, c, D, r: x[1] + x[2] - 0.1 * c[0],
        params,
    )


def nonlinear_nonconvex(samples: int = 3, n: int = 4) -> Case:
    """An indefinite objective between two spheres, with a curved equality."""
    R = _random(samples, n, n)
    params = (R + R.mT, _random(samples, n), 1.5 + torch.rand(samples, 1, dtype=F64))
    return Case(
        n,
        lambda x, Q, c, r: 0.5 * x @ Q @ x + c @ x + 0.1 * (x**4).sum(),
        lambda x, Q, c, r: torch.stack([x @ x - r[0] ** 2, 0.25 - (x - 1) @ (x - 1)]),
        lambda x, Q, c, r: x[0] * x[1] + x[2] - 0.2 * r[0],
        params,
    )


CASES = {
    "linear, convex": linear_convex,
    "linear, nonconvex": linear_nonconvex,
    "nonlinear, convex": nonlinear_convex,
    "nonlinear, nonconvex": nonlinear_nonconvex,
}
