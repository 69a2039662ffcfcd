"""Nonlinear programs from the literature, with their known optima.

W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (Springer, 1981): numbers,
starts and values are theirs, with g(x) ≥ 0 turned round.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foldopt as fo
from foldopt._program import Program

F64 = torch.float64
Function = Callable[..., Tensor]
INF = math.inf


@dataclasses.dataclass(frozen=True)
class Known:
    """min f(x) s.t. g(x) ≤ 0, h(x) = 0, lower ≤ x ≤ upper, and the least value from that start."""

    objective: Function
    value: float
    start: tuple[float, ...]
    inequality: Function | None = None
    equality: Function | None = None
    lower: tuple[float, ...] | None = None
    upper: tuple[float, ...] | None = None

    @property
    def x0(self) -> Tensor:
        return torch.tensor(self.start, dtype=F64)

    @property
    def bounds(self) -> dict[str, Any]:
        return {
            name: None if bound is None else torch.tensor(bound, dtype=F64)
            for name, bound in (("lower", self.lower), ("upper", self.upper))
        }

    def with_bounds_as_rows(self) -> Function | None:
        """g, and the finite bounds behind it."""
        low, high = self.bounds["lower"], self.bounds["upper"]
        if self.inequality is None and low is None and high is None:
            return None

        def rows(x: Tensor, *params: Any) -> Tensor:
            found = [] if self.inequality is None else [self.inequality(x, *params).reshape(-1)]
            if low is not None:
                found.append((low - x)[torch.isfinite(low)])
            if high is not None:
                found.append((x - high)[torch.isfinite(high)])
            return torch.cat(found)

        return rows


def assert_optimal(
    solution: fo.Solution,
    functions: tuple[Any, Any, Any],
    params: tuple[Any, ...] = (),
    bounds: dict[str, Any] | None = None,
    atol: float = 1e-6,
) -> None:
    """The first-order conditions hold, each term of them, with the multipliers that came along."""
    objective, inequality, equality = functions
    x, (lam, nu, mu) = solution.x, solution.multipliers
    program = Program.of(objective, inequality, equality, (), "test")
    g, G, h, A = program.constraints(x, params)
    slope = program.gradient(x, params) + mu
    slope = slope + (G.mT @ lam[..., None])[..., 0] + (A.mT @ nu[..., None])[..., 0]
    zero = {"rtol": 0, "atol": atol}
    torch.testing.assert_close(slope, torch.zeros_like(slope), **zero)
    torch.testing.assert_close(h, torch.zeros_like(h), **zero)
    assert bool((g <= atol).all())
    assert bool((lam >= 0).all())
    torch.testing.assert_close(lam * g, torch.zeros_like(g), **zero)
    for name, sign in (("lower", -1), ("upper", 1)):
        bound = (bounds or {}).get(name)
        bound = torch.full_like(x, sign * INF) if bound is None else bound.expand_as(x)
        assert bool((sign * (x - bound) <= atol).all())
        pull = (sign * mu).clamp_min(0)
        away = torch.where(torch.isinf(bound), pull, pull * (x - bound))
        torch.testing.assert_close(away, torch.zeros_like(x), **zero)


def _rosenbrock(x: Tensor) -> Tensor:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


HS: dict[str, Known] = {
    "1": Known(_rosenbrock, 0.0, (-2, 1), lower=(-INF, -1.5)),
    "6": Known(
        lambda x: (1 - x[0]) ** 2, 0.0, (-1.2, 1), equality=lambda x: 10 * (x[1] - x[0] ** 2)
    ),
    "7": Known(
        lambda x: torch.log(1 + x[0] ** 2) - x[1],
        -(3**0.5),
        (2, 2),
        equality=lambda x: (1 + x[0] ** 2) ** 2 + x[1] ** 2 - 4,
    ),
    "10": Known(
        lambda x: x[0] - x[1],
        -1.0,
        (-10, 10),
        lambda x: 3 * x[0] ** 2 - 2 * x[0] * x[1] + x[1] ** 2 - 1,
    ),
    "11": Known(
        lambda x: (x[0] - 5) ** 2 + x[1] ** 2 - 25,
        -8.498464223,
        (4.9, 0.1),
        lambda x: x[0] ** 2 - x[1],
    ),
    "12": Known(
        lambda x: 0.5 * x[0] ** 2 + x[1] ** 2 - x[0] * x[1] - 7 * x[0] - 7 * x[1],
        -30.0,
        (0, 0),
        lambda x: 4 * x[0] ** 2 + x[1] ** 2 - 25,
    ),
    "14": Known(
        lambda x: (x[0] - 2) ** 2 + (x[1] - 1) ** 2,
        9 - 2.875 * 7**0.5,
        (2, 2),
        lambda x: 0.25 * x[0] ** 2 + x[1] ** 2 - 1,
        lambda x: x[0] - 2 * x[1] + 1,
    ),
    "21": Known(
        lambda x: 0.01 * x[0] ** 2 + x[1] ** 2 - 100,
        -99.96,
        (-1, -1),
        lambda x: 10 - 10 * x[0] + x[1],
        lower=(2, -50),
        upper=(50, 50),
    ),
    "26": Known(
        lambda x: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
        0.0,
        (-2.6, 2, 2),
        equality=lambda x: (1 + x[1] ** 2) * x[0] + x[2] ** 4 - 3,
    ),
    "28": Known(
        lambda x: (x[0] + x[1]) ** 2 + (x[1] + x[2]) ** 2,
        0.0,
        (-4, 1, 1),
        equality=lambda x: x[0] + 2 * x[1] + 3 * x[2] - 1,
    ),
    "35": Known(
        lambda x: (
            9 - 8 * x[0] - 6 * x[1] - 4 * x[2] + 2 * x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2
            + 2 * x[0] * x[1] + 2 * x[0] * x[2]
        ),
        1 / 9,
        (0.5, 0.5, 0.5),
        lambda x: x[0] + x[1] + 2 * x[2] - 3,
        lower=(0, 0, 0),
    ),
    "39": Known(
        lambda x: -x[0],
        -1.0,
        (2, 2, 2, 2),
        equality=lambda x: [x[1] - x[0] ** 3 - x[2] ** 2, x[0] ** 2 - x[1] - x[3] ** 2],  # pyright: ignore[reportArgumentType]
    ),
    "40": Known(
        lambda x: -x.prod(),
        -0.25,
        (0.8, 0.8, 0.8, 0.8),
        equality=lambda x: torch.stack(
            [x[0] ** 3 + x[1] ** 2 - 1, x[0] ** 2 * x[3] - x[2], x[3] ** 2 - x[1]]
        ),
    ),
    "43": Known(
        lambda x: (
            x[0] ** 2 + x[1] ** 2 + 2 * x[2] ** 2 + x[3] ** 2
            - 5 * x[0] - 5 * x[1] - 21 * x[2] + 7 * x[3]
        ),
        -44.0,
        (0, 0, 0, 0),
        lambda x: torch.stack([
            x @ x + x[0] - x[1] + x[2] - x[3] - 8,
            x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2 + 2 * x[3] ** 2 - x[0] - x[3] - 10,
            2 * x[0] ** 2 + x[1] ** 2 + x[2] ** 2 + 2 * x[0] - x[1] - x[3] - 5,
        ]),
    ),
    "48": Known(
        lambda x: (x[0] - 1) ** 2 + (x[1] - x[2]) ** 2 + (x[3] - x[4]) ** 2,
        0.0,
        (3, 5, -3, 2, -2),
        equality=lambda x: torch.stack([x.sum() - 5, x[2] - 2 * (x[3] + x[4]) + 3]),
    ),
    "71": Known(
        lambda x: x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2],
        17.0140172891,
        (1, 5, 5, 1),
        lambda x: 25 - x.prod(),
        lambda x: x @ x - 40,
        lower=(1, 1, 1, 1),
        upper=(5, 5, 5, 5),
    ),
    "76": Known(
        lambda x: (
            x[0] ** 2 + 0.5 * x[1] ** 2 + x[2] ** 2 + 0.5 * x[3] ** 2 - x[0] * x[2] + x[2] * x[3]
            - x[0] - 3 * x[1] + x[2] - x[3]
        ),
        -4.681818181,
        (0.5, 0.5, 0.5, 0.5),
        lambda x: torch.stack([
            x[0] + 2 * x[1] + x[2] + x[3] - 5,
            3 * x[0] + x[1] + 2 * x[2] - x[3] - 4,
            1.5 - x[1] - 4 * x[2],
        ]),
        lower=(0, 0, 0, 0),
    ),
    "100": Known(
        lambda x: (
            (x[0] - 10) ** 2 + 5 * (x[1] - 12) ** 2 + x[2] ** 4 + 3 * (x[3] - 11) ** 2
            + 10 * x[4] ** 6 + 7 * x[5] ** 2 + x[6] ** 4
            - 4 * x[5] * x[6] - 10 * x[5] - 8 * x[6]
        ),
        680.6300573,
        (1, 2, 0, 4, 0, 1, 1),
        lambda x: torch.stack([
            2 * x[0] ** 2 + 3 * x[1] ** 4 + x[2] + 4 * x[3] ** 2 + 5 * x[4] - 127,
            7 * x[0] + 3 * x[1] + 10 * x[2] ** 2 + x[3] - x[4] - 282,
            23 * x[0] + x[1] ** 2 + 6 * x[5] ** 2 - 8 * x[6] - 196,
            4 * x[0] ** 2 + x[1] ** 2 - 3 * x[0] * x[1] + 2 * x[2] ** 2 + 5 * x[5] - 11 * x[6],
        ]),
    ),
}  # fmt: skip
