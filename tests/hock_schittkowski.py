"""Problems of Hock and Schittkowski, each with params added.

W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (Springer, 1981): numbers,
starts (but for a few that lead to another local optimum) and optima are theirs, with g(x) ≥ 0
turned round. The params p stand in the objective, the constraints or the bounds; at ``params`` the
problem is the published one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["DEGENERATE", "PROBLEMS", "Problem"]

F64 = torch.float64
INF = math.inf
Function = Callable[[Tensor, Tensor], Any]
R2, R3, R7 = math.sqrt(2), math.sqrt(3), math.sqrt(7)


@dataclasses.dataclass(frozen=True)
class Problem:
    """min f(x, p) s.t. g(x, p) ≤ 0, h(x, p) = 0, lower ≤ x ≤ upper; x and f at the optimum.

    ``lower`` and ``upper`` are numbers, or functions of p that return one for each variable.
    """

    start: tuple[float, ...]
    params: tuple[float, ...]
    x: tuple[float, ...]
    value: float
    objective: Function
    inequality: Function | None = None
    equality: Function | None = None
    lower: Any = None
    upper: Any = None

    @property
    def bounds(self) -> tuple[Any, Any] | None:
        if self.lower is None and self.upper is None:
            return None
        return self._bound(self.lower), self._bound(self.upper)

    @staticmethod
    def _bound(bound: Any) -> Any:
        if callable(bound):
            each: Callable[[Tensor], Any] = bound
            return lambda p: torch.stack([torch.as_tensor(b, dtype=p.dtype) for b in each(p)])
        return torch.tensor(bound, dtype=F64) if isinstance(bound, tuple) else bound

    @property
    def functions(self) -> tuple[Function, Function | None, Function | None]:
        def joined(function: Function | None) -> Function | None:
            if function is None:
                return None
            rows: Callable[[Tensor, Tensor], Any] = function
            return lambda x, p: list(rows(x, p))

        return self.objective, joined(self.inequality), joined(self.equality)

    def numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Start, params and optimum."""
        return tuple(torch.tensor(v, dtype=F64) for v in (self.start, self.params, self.x))  # pyright: ignore[reportReturnType]


def valley(x: Tensor, p: Tensor) -> Tensor:
    """Rosenbrock's function, for p = (1, 1)."""
    return 100 * (x[1] - p[0] * x[0] ** 2) ** 2 + (p[1] - x[0]) ** 2


def square(v: Tensor) -> Tensor:
    return (v * v).sum()


def three(x: Tensor, p: Tensor) -> Tensor:
    return -p[0] * x[0] * x[1] * x[2]


def product(x: Tensor) -> Tensor:
    """Written out: the backward pass of ``prod`` has no batching rule."""
    found = x[0]
    for factor in x[1:].unbind():
        found = found * factor
    return found


def fifty(x: Tensor, p: Tensor) -> list[Tensor]:
    """The equalities of 52 and 53."""
    return [x[0] + 3 * x[1] - p[2], x[2] + x[3] - 2 * x[4] - p[3], x[1] - x[4]]


def eighty(x: Tensor, p: Tensor) -> list[Tensor]:
    """Those of 78, 80 and 81."""
    return [
        square(x) - p[0], x[1] * x[2] - p[1] * x[3] * x[4], x[0] ** 3 + x[1] ** 3 + p[2],
    ]  # fmt: skip


AT_78 = (-1.717142, 1.595708, 1.827248, -0.7636429, -0.7636435)
AT_80 = (-1.717143, 1.595709, 1.827247, -0.7636413, -0.7636450)

PROBLEMS: dict[str, Problem] = {
    "1": Problem((-2, 1), (1, 1), (1, 1), 0.0, valley, lower=(-INF, -1.5)),
    "2": Problem(
        (2, 2), (1, 1, 1.5), (1.2243707, 1.5), 0.0504261879, valley, lower=lambda p: (-INF, p[2])
    ),
    "3": Problem(
        (10, 1), (1, 0), (0, 0), 0.0,
        lambda x, p: p[0] * x[1] + 1e-5 * (x[1] - x[0]) ** 2, lower=lambda p: (-INF, p[1]),
    ),
    "4": Problem(
        (1.125, 0.125), (1, 1, 0), (1, 0), 8 / 3,
        lambda x, p: (x[0] + p[0]) ** 3 / 3 + x[1], lower=lambda p: (p[1], p[2]),
    ),
    "5": Problem(
        (0, 0), (1.5, 2.5, 1), (-math.pi / 3 + 0.5, -math.pi / 3 - 0.5), -R3 / 2 - math.pi / 3,
        lambda x, p: torch.sin(x[0] + x[1]) + p[2] * (x[0] - x[1]) ** 2
        - p[0] * x[0] + p[1] * x[1] + 1,
        lower=(-1.5, -3.0), upper=(4.0, 3.0),
    ),
    "6": Problem(
        (-1.2, 1), (1, 1), (1, 1), 0.0,
        lambda x, p: (p[0] - x[0]) ** 2, None, lambda x, p: [10 * (x[1] - p[1] * x[0] ** 2)],
    ),
    "7": Problem(
        (2, 2), (1, 4, 1), (0, R3), -R3,
        lambda x, p: torch.log(1 + p[0] * x[0] ** 2) - x[1],
        None, lambda x, p: [(p[2] + x[0] ** 2) ** 2 + x[1] ** 2 - p[1]],
    ),
    "8": Problem(
        (2, 1), (25, 9), (4.6015942, 1.9558440), -1.0,
        lambda x, p: 0 * x[0] - 1,
        None, lambda x, p: [square(x) - p[0], x[0] * x[1] - p[1]],
    ),
    "9": Problem(
        (-2, -3), (1, 4), (-3, -4), -0.5,
        lambda x, p: torch.sin(p[0] * math.pi * x[0] / 12) * torch.cos(math.pi * x[1] / 16),
        None, lambda x, p: [p[1] * x[0] - 3 * x[1]],
    ),
    "10": Problem(
        (-10, 10), (1, 3, 1), (0, 1), -1.0,
        lambda x, p: p[0] * x[0] - x[1],
        lambda x, p: [p[1] * x[0] ** 2 - 2 * x[0] * x[1] + x[1] ** 2 - p[2]],
    ),
    "11": Problem(
        (4.9, 0.1), (5, 1), (1.2347732, 1.5246648), -8.498464223,
        lambda x, p: (x[0] - p[0]) ** 2 + x[1] ** 2 - 25, lambda x, p: [p[1] * x[0] ** 2 - x[1]],
    ),
    "12": Problem(
        (0, 0), (7, 25, 4), (2, 3), -30.0,
        lambda x, p: 0.5 * x[0] ** 2 + x[1] ** 2 - x[0] * x[1] - p[0] * x[0] - 7 * x[1],
        lambda x, p: [p[2] * x[0] ** 2 + x[1] ** 2 - p[1]],
    ),
    "14": Problem(
        (2, 2), (2, 1, 1), (0.5 * (R7 - 1), 0.25 * (R7 + 1)), 9 - 23 * R7 / 8,
        lambda x, p: (x[0] - p[0]) ** 2 + (x[1] - 1) ** 2,
        lambda x, p: [0.25 * x[0] ** 2 + x[1] ** 2 - p[1]],
        lambda x, p: [x[0] - 2 * x[1] + p[2]],
    ),
    "15": Problem(
        (0.4, 2.2), (1, 1, 1, 0.5), (0.5, 2), 306.5, valley,
        lambda x, p: [p[2] - x[0] * x[1], -x[0] - x[1] ** 2], upper=lambda p: (p[3], INF),
    ),
    "16": Problem(
        (0.4, 0.2), (1, 1, 0.5), (0.5, 0.25), 0.25, valley,
        lambda x, p: [-x[0] - x[1] ** 2, -x[0] ** 2 - x[1]],
        lower=(-0.5, -INF), upper=lambda p: (p[2], 1.0),
    ),
    "18": Problem(
        (2, 2), (0.01, 25), (math.sqrt(250), math.sqrt(2.5)), 5.0,
        lambda x, p: p[0] * x[0] ** 2 + x[1] ** 2,
        lambda x, p: [p[1] - x[0] * x[1], 25 - square(x)], lower=(2.0, 0.0), upper=(50.0, 50.0),
    ),
    "19": Problem(
        (20.1, 5.84), (10, 100, 82.81), (14.095, 0.84296079), -6961.81381,
        lambda x, p: (x[0] - p[0]) ** 3 + (x[1] - 20) ** 3,
        lambda x, p: [p[1] - square(x - 5), (x[1] - 5) ** 2 + (x[0] - 6) ** 2 - p[2]],
        lower=(13.0, 0.0), upper=(100.0, 100.0),
    ),
    "20": Problem(
        (0.1, 1.5), (1, 1, 1, 0.5), (0.5, R3 / 2), 81.5 - 25 * R3, valley,
        lambda x, p: [-x[0] - x[1] ** 2, -x[0] ** 2 - x[1], p[2] - square(x)],
        lower=(-0.5, -INF), upper=lambda p: (p[3], INF),
    ),
    "21": Problem(
        (-1, -1), (0.01, 2), (2, 0), -99.96,
        lambda x, p: p[0] * x[0] ** 2 + x[1] ** 2 - 100, lambda x, p: [10 - 10 * x[0] + x[1]],
        lower=lambda p: (p[1], -50.0), upper=(50.0, 50.0),
    ),
    "22": Problem(
        (2, 2), (2, 2, 1), (1, 1), 1.0,
        lambda x, p: (x[0] - p[0]) ** 2 + (x[1] - 1) ** 2,
        lambda x, p: [x[0] + x[1] - p[1], p[2] * x[0] ** 2 - x[1]],
    ),
    "23": Problem(
        (3, 1), (1, 1, 1), (1, 1), 2.0,
        lambda x, p: p[0] * x[0] ** 2 + x[1] ** 2,
        lambda x, p: [
            1 - x[0] - x[1], 1 - square(x), 9 - 9 * x[0] ** 2 - x[1] ** 2,
            x[1] - p[1] * x[0] ** 2, x[0] - p[2] * x[1] ** 2,
        ],
        lower=(-50.0, -50.0), upper=(50.0, 50.0),
    ),
    "24": Problem(
        (1, 0.5), (3, 6, 1), (3, R3), -1.0,
        lambda x, p: ((x[0] - p[0]) ** 2 - 9) * x[1] ** 3 / (27 * R3),
        lambda x, p: [x[1] - p[2] * x[0] / R3, -x[0] - R3 * x[1], x[0] + R3 * x[1] - p[1]],
        lower=0.0,
    ),
    "27": Problem(
        (2, 2, 2), (1, 1, 1), (-1, 1, 0), 0.04,
        lambda x, p: 0.01 * (x[0] - p[0]) ** 2 + (x[1] - p[1] * x[0] ** 2) ** 2,
        None, lambda x, p: [x[0] + x[2] ** 2 + p[2]],
    ),
    "28": Problem(
        (-4, 1, 1), (1, 1), (0.5, -0.5, 0.5), 0.0,
        lambda x, p: (p[0] * x[0] + x[1]) ** 2 + (x[1] + x[2]) ** 2,
        None, lambda x, p: [x[0] + 2 * x[1] + 3 * x[2] - p[1]],
    ),
    "29": Problem(
        (1, 1, 1), (1, 48, 4), (4, 2 * R2, 2), -16 * R2, three,
        lambda x, p: [x[0] ** 2 + 2 * x[1] ** 2 + p[2] * x[2] ** 2 - p[1]],
    ),
    "31": Problem(
        (1, 1, 1), (9, 1, 0), (1 / R3, R3, 0), 6.0,
        lambda x, p: p[0] * x[0] ** 2 + x[1] ** 2 + 9 * (x[2] - p[2]) ** 2,
        lambda x, p: [p[1] - x[0] * x[1]], lower=(-10.0, 1.0, -10.0), upper=(10.0, 10.0, 1.0),
    ),
    "33": Problem(
        (0.1, 1, 3), (1, 4, 0), (0, R2, R2), R2 - 6,
        lambda x, p: (x[0] - 1) * (x[0] - 2) * (x[0] - 3) + p[0] * x[2],
        lambda x, p: [x[0] ** 2 + x[1] ** 2 - x[2] ** 2, p[1] - square(x)],
        lower=lambda p: (p[2], 0.0, 0.0), upper=(INF, INF, 5.0),
    ),
    "34": Problem(
        (0, 1.05, 2.9), (1, 1, 10), (math.log(math.log(10)), math.log(10), 10),
        -math.log(math.log(10)),
        lambda x, p: -p[0] * x[0],
        lambda x, p: [torch.exp(p[1] * x[0]) - x[1], torch.exp(x[1]) - x[2]],
        lower=0.0, upper=lambda p: (100.0, 100.0, p[2]),
    ),
    "35": Problem(
        (0.5, 0.5, 0.5), (8, 3, 2), (4 / 3, 7 / 9, 4 / 9), 1 / 9,
        lambda x, p: 9 - p[0] * x[0] - 6 * x[1] - 4 * x[2] + p[2] * x[0] ** 2 + 2 * x[1] ** 2
        + x[2] ** 2 + 2 * x[0] * x[1] + 2 * x[0] * x[2],
        lambda x, p: [x[0] + x[1] + 2 * x[2] - p[1]], lower=0.0,
    ),
    "36": Problem(
        (10, 10, 10), (1, 72, 20, 11), (20, 11, 15), -3300.0, three,
        lambda x, p: [x[0] + 2 * x[1] + 2 * x[2] - p[1]],
        lower=0.0, upper=lambda p: (p[2], p[3], 42.0),
    ),
    "37": Problem(
        (10, 10, 10), (1, 72, 2), (24, 12, 12), -3456.0, three,
        lambda x, p: [x[0] + p[2] * x[1] + 2 * x[2] - p[1], -x[0] - 2 * x[1] - 2 * x[2]],
        lower=0.0, upper=42.0,
    ),
    "38": Problem(
        (-3, -1, -3, -1), (1, 1, 90), (1, 1, 1, 1), 0.0,
        lambda x, p: valley(x, p) + p[2] * (x[3] - x[2] ** 2) ** 2 + (1 - x[2]) ** 2
        + 10.1 * ((x[1] - 1) ** 2 + (x[3] - 1) ** 2) + 19.8 * (x[1] - 1) * (x[3] - 1),
        lower=-10.0, upper=10.0,
    ),
    "39": Problem(
        (2, 2, 2, 2), (1, 1, 1), (1, 1, 0, 0), -1.0,
        lambda x, p: -p[0] * x[0],
        None,
        lambda x, p: [x[1] - p[1] * x[0] ** 3 - x[2] ** 2, p[2] * x[0] ** 2 - x[1] - x[3] ** 2],
    ),
    "40": Problem(
        (0.8, 0.8, 0.8, 0.8), (1, 1, 1),
        (2 ** (-1 / 3), 2**-0.5, 2 ** (-11 / 12), 2**-0.25), -0.25,
        lambda x, p: -p[0] * product(x),
        None,
        lambda x, p: [
            x[0] ** 3 + x[1] ** 2 - p[1], x[0] ** 2 * x[3] - p[2] * x[2], x[3] ** 2 - x[1],
        ],
    ),
    "41": Problem(
        (0.5, 0.5, 0.5, 1), (1, 2, 2), (2 / 3, 1 / 3, 1 / 3, 2), 52 / 27,
        lambda x, p: 2 - p[0] * x[0] * x[1] * x[2],
        None, lambda x, p: [x[0] + p[1] * x[1] + 2 * x[2] - x[3]],
        lower=0.0, upper=lambda p: (1.0, 1.0, 1.0, p[2]),
    ),
    "42": Problem(
        (1, 1, 1, 1), (3, 2, 2), (2, 2, 0.6 * R2, 0.8 * R2), 28 - 10 * R2,
        lambda x, p: (x[0] - 1) ** 2 + (x[1] - 2) ** 2 + (x[2] - p[0]) ** 2 + (x[3] - 4) ** 2,
        None, lambda x, p: [x[0] - p[1], x[2] ** 2 + x[3] ** 2 - p[2]],
    ),
    "43": Problem(
        (0, 0, 0, 0), (5, 8, 5), (0, 1, 2, -1), -44.0,
        lambda x, p: x[0] ** 2 + x[1] ** 2 + 2 * x[2] ** 2 + x[3] ** 2
        - p[0] * x[0] - 5 * x[1] - 21 * x[2] + 7 * x[3],
        lambda x, p: [
            square(x) + x[0] - x[1] + x[2] - x[3] - p[1],
            x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2 + 2 * x[3] ** 2 - x[0] - x[3] - 10,
            2 * x[0] ** 2 + x[1] ** 2 + x[2] ** 2 + 2 * x[0] - x[1] - x[3] - p[2],
        ],
    ),
    "44": Problem(
        (0.1, 2, 0.1, 3), (1, 12, 8), (0, 3, 0, 4), -15.0,
        lambda x, p: p[0] * x[0] - x[1] - x[2] - x[0] * x[2] + x[0] * x[3] + x[1] * x[2]
        - x[1] * x[3],
        lambda x, p: [
            x[0] + 2 * x[1] - 8, 4 * x[0] + x[1] - 12, 3 * x[0] + 4 * x[1] - p[1],
            2 * x[2] + x[3] - 8, x[2] + 2 * x[3] - p[2], x[2] + x[3] - 5,
        ],
        lower=0.0,
    ),
    "45": Problem(
        (0.5, 1, 1, 1, 1), (1, 2, 5), (1, 2, 3, 4, 5), 1.0,
        lambda x, p: 2 - p[0] * product(x) / 120,
        lower=0.0, upper=lambda p: (1.0, p[1], 3.0, 4.0, p[2]),
    ),
    "48": Problem(
        (3, 5, -3, 2, -2), (1, 5, 3), (1, 1, 1, 1, 1), 0.0,
        lambda x, p: (x[0] - p[0]) ** 2 + (x[1] - x[2]) ** 2 + (x[3] - x[4]) ** 2,
        None, lambda x, p: [x.sum() - p[1], x[2] - 2 * (x[3] + x[4]) + p[2]],
    ),
    "51": Problem(
        (2.5, 0.5, 2, -1, 0.5), (2, 4, 2), (1, 1, 1, 1, 1), 0.0,
        lambda x, p: (x[0] - x[1]) ** 2 + (x[1] + x[2] - p[0]) ** 2 + (x[3] - 1) ** 2
        + (x[4] - 1) ** 2,
        None,
        lambda x, p: [x[0] + 3 * x[1] - p[1], x[2] + x[3] - p[2] * x[4], x[1] - x[4]],
    ),
    "52": Problem(
        (2, 2, 2, 2, 2), (4, 2, 0, 0), tuple(v / 349 for v in (-33, 11, 180, -158, 11)), 1859 / 349,
        lambda x, p: (p[0] * x[0] - x[1]) ** 2 + (x[1] + x[2] - p[1]) ** 2 + (x[3] - 1) ** 2
        + (x[4] - 1) ** 2,
        None, fifty,
    ),
    "53": Problem(
        (2, 2, 2, 2, 2), (1, 2, 0, 0), tuple(v / 43 for v in (-33, 11, 27, -5, 11)), 176 / 43,
        lambda x, p: (p[0] * x[0] - x[1]) ** 2 + (x[1] + x[2] - p[1]) ** 2 + (x[3] - 1) ** 2
        + (x[4] - 1) ** 2,
        None, fifty, lower=-10.0, upper=10.0,
    ),
    "60": Problem(
        (2, 2, 2), (1, 4 + 3 * R2, 1), (1.104859024, 1.196674194, 1.535262257), 0.03256820025,
        lambda x, p: (x[0] - p[0]) ** 2 + (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
        None, lambda x, p: [x[0] * (p[2] + x[1] ** 2) + x[2] ** 4 - p[1]], lower=-10.0, upper=10.0,
    ),
    "61": Problem(
        (4, -1, 2), (33, 7, 11), (5.326770157, -2.118998639, 3.210464239), -143.6461422,
        lambda x, p: 4 * x[0] ** 2 + 2 * x[1] ** 2 + 2 * x[2] ** 2 - p[0] * x[0] + 16 * x[1]
        - 24 * x[2],
        None, lambda x, p: [3 * x[0] - 2 * x[1] ** 2 - p[1], 4 * x[0] - x[2] ** 2 - p[2]],
    ),
    "63": Problem(
        (2, 2, 2), (2, 56, 25), (3.512118414, 0.2169881741, 3.552174034), 961.7151721,
        lambda x, p: 1000 - x[0] ** 2 - p[0] * x[1] ** 2 - x[2] ** 2 - x[0] * x[1] - x[0] * x[2],
        None, lambda x, p: [8 * x[0] + 14 * x[1] + 7 * x[2] - p[1], square(x) - p[2]], lower=0.0,
    ),
    "64": Problem(
        (1, 1, 1), (5, 1, 4), (108.7347175, 85.12613942, 204.3247078), 6299.842428,
        lambda x, p: p[0] * x[0] + 50000 / x[0] + 20 * x[1] + 72000 / x[1] + 10 * x[2]
        + 144000 / x[2],
        lambda x, p: [p[2] / x[0] + 32 / x[1] + 120 / x[2] - p[1]], lower=1e-5,
    ),
    "65": Problem(
        (-4.5, 4.5, 0), (10, 5, 48), (3.650461821, 3.650461725, 4.620417027), 0.9535288567,
        lambda x, p: (x[0] - x[1]) ** 2 + (x[0] + x[1] - p[0]) ** 2 / 9 + (x[2] - p[1]) ** 2,
        lambda x, p: [square(x) - p[2]], lower=(-4.5, -4.5, -5.0), upper=(4.5, 4.5, 5.0),
    ),
    "66": Problem(
        (0, 1.05, 2.9), (0.8, 1, 1), (0.1841264879, 1.202167873, 3.327322322), 0.5181632741,
        lambda x, p: 0.2 * x[2] - p[0] * x[0],
        lambda x, p: [p[1] * torch.exp(x[0]) - x[1], torch.exp(p[2] * x[1]) - x[2]],
        lower=0.0, upper=(100.0, 100.0, 10.0),
    ),
    "71": Problem(
        (1, 5, 5, 1), (1, 25, 40, 1), (1, 4.7429994, 3.8211503, 1.3794082), 17.0140173,
        lambda x, p: x[0] * x[3] * (x[0] + x[1] + x[2]) + p[0] * x[2],
        lambda x, p: [p[1] - product(x)], lambda x, p: [square(x) - p[2]],
        lower=lambda p: (p[3], 1.0, 1.0, 1.0), upper=5.0,
    ),
    "76": Problem(
        (0.5, 0.5, 0.5, 0.5), (1, 5, 4), (0.2727273, 2.090909, 0, 0.5454545), -4.681818181,
        lambda x, p: x[0] ** 2 + 0.5 * x[1] ** 2 + x[2] ** 2 + 0.5 * x[3] ** 2 - x[0] * x[2]
        + x[2] * x[3] - p[0] * x[0] - 3 * x[1] + x[2] - x[3],
        lambda x, p: [
            x[0] + 2 * x[1] + x[2] + x[3] - p[1], 3 * x[0] + x[1] + 2 * x[2] - x[3] - p[2],
            1.5 - x[1] - 4 * x[2],
        ],
        lower=0.0,
    ),
    "77": Problem(
        (2, 2, 2, 2, 2), (1, 2 * R2, 8 + R2),
        (1.166172219, 1.182111389, 1.380257041, 1.506036274, 0.6109203257), 0.2415051288,
        lambda x, p: (x[0] - p[0]) ** 2 + (x[0] - x[1]) ** 2 + (x[2] - 1) ** 2 + (x[3] - 1) ** 4
        + (x[4] - 1) ** 6,
        None,
        lambda x, p: [
            x[0] ** 2 * x[3] + torch.sin(x[3] - x[4]) - p[1], x[1] + x[2] ** 4 * x[3] ** 2 - p[2],
        ],
    ),
    "78": Problem(
        (-2, 1.5, 2, -1, -1), (10, 5, 1), AT_78, -2.91970041, lambda x, p: product(x), None, eighty
    ),
    "79": Problem(
        (2, 2, 2, 2, 2), (1, 2 + 3 * R2, 2),
        (1.191127, 1.362603, 1.472818, 1.635017, 1.679081), 0.0787768209,
        lambda x, p: (x[0] - p[0]) ** 2 + (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 2
        + (x[2] - x[3]) ** 4 + (x[3] - x[4]) ** 4,
        None,
        lambda x, p: [
            x[0] + x[1] ** 2 + x[2] ** 3 - p[1], x[1] - x[2] ** 2 + x[3] + 2 - 2 * R2,
            x[0] * x[4] - p[2],
        ],
    ),
    "80": Problem(
        (-2, 2, 2, -1, -1), (10, 5, 1, 1), AT_80, 0.0539498478,
        lambda x, p: torch.exp(p[3] * product(x)), None, eighty,
        lower=(-2.3, -2.3, -3.2, -3.2, -3.2), upper=(2.3, 2.3, 3.2, 3.2, 3.2),
    ),
    "81": Problem(
        (-2, 2, 2, -1, -1), (10, 5, 1, 0.5), AT_80, 0.0539498478,
        lambda x, p: torch.exp(product(x)) - p[3] * (x[0] ** 3 + x[1] ** 3 + 1) ** 2, None, eighty,
        lower=(-2.3, -2.3, -3.2, -3.2, -3.2), upper=(2.3, 2.3, 3.2, 3.2, 3.2),
    ),
    "100": Problem(
        (1, 2, 0, 4, 0, 1, 1), (10, 127, 4),
        (2.330499, 1.951372, -0.4775414, 4.365726, -0.6244870, 1.038131, 1.594227), 680.6300573,
        lambda x, p: (x[0] - p[0]) ** 2 + 5 * (x[1] - 12) ** 2 + x[2] ** 4 + 3 * (x[3] - 11) ** 2
        + 10 * x[4] ** 6 + 7 * x[5] ** 2 + x[6] ** 4 - 4 * x[5] * x[6] - 10 * x[5] - 8 * x[6],
        lambda x, p: [
            2 * x[0] ** 2 + 3 * x[1] ** 4 + x[2] + 4 * x[3] ** 2 + 5 * x[4] - p[1],
            7 * x[0] + 3 * x[1] + 10 * x[2] ** 2 + x[3] - x[4] - 282,
            23 * x[0] + x[1] ** 2 + 6 * x[5] ** 2 - 8 * x[6] - 196,
            p[2] * x[0] ** 2 + x[1] ** 2 - 3 * x[0] * x[1] + 2 * x[2] ** 2 + 5 * x[5] - 11 * x[6],
        ],
    ),
    "113": Problem(
        (2, 3, 5, 5, 1, 2, 7, 3, 6, 10), (14, 105, 3),
        (2.171996, 2.363683, 8.773926, 5.095984, 0.9906548, 1.430574, 1.321644, 9.828726,
         8.280092, 8.375927), 24.3062091,
        lambda x, p: x[0] ** 2 + x[1] ** 2 + x[0] * x[1] - p[0] * x[0] - 16 * x[1]
        + (x[2] - 10) ** 2 + 4 * (x[3] - 5) ** 2 + (x[4] - 3) ** 2 + 2 * (x[5] - 1) ** 2
        + 5 * x[6] ** 2 + 7 * (x[7] - 11) ** 2 + 2 * (x[8] - 10) ** 2 + (x[9] - 7) ** 2 + 45,
        lambda x, p: [
            4 * x[0] + 5 * x[1] - 3 * x[6] + 9 * x[7] - p[1],
            10 * x[0] - 8 * x[1] - 17 * x[6] + 2 * x[7],
            -8 * x[0] + 2 * x[1] + 5 * x[8] - 2 * x[9] - 12,
            p[2] * (x[0] - 2) ** 2 + 4 * (x[1] - 3) ** 2 + 2 * x[2] ** 2 - 7 * x[3] - 120,
            5 * x[0] ** 2 + 8 * x[1] + (x[2] - 6) ** 2 - 2 * x[3] - 40,
            0.5 * (x[0] - 8) ** 2 + 2 * (x[1] - 4) ** 2 + 3 * x[4] ** 2 - x[5] - 30,
            x[0] ** 2 + 2 * (x[1] - 2) ** 2 - 2 * x[0] * x[1] + 14 * x[4] - 6 * x[5],
            -3 * x[0] + 6 * x[1] + 12 * (x[8] - 8) ** 2 - 7 * x[9],
        ],
    ),
}  # fmt: skip

# Optima without a derivative, and the words that say why.
DEGENERATE: dict[str, tuple[Problem, str]] = {
    "26": (  # a fourth power: no curvature along the constraint
        Problem(
            (-2.6, 2, 2), (3, 1), (1, 1, 1), 0.0,
            lambda x, p: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
            None, lambda x, p: [(p[1] + x[1] ** 2) * x[0] + x[2] ** 4 - p[0]],
        ),
        "curvature",
    ),
    "30": (  # x₁ ≥ 1 and x₁² + x₂² ≥ 1 have one gradient
        Problem(
            (1, 1, 1), (1, 1), (1, 0, 0), 1.0,
            lambda x, p: square(x), lambda x, p: [p[1] - x[0] ** 2 - x[1] ** 2],
            lower=lambda p: (p[0], -10.0, -10.0), upper=10.0,
        ),
        "LICQ",
    ),
}  # fmt: skip
