"""Problems 1 to 37 of Hock and Schittkowski: two and three variables."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.hock_schittkowski_problem import INF, R2, R3, R7, Problem, square, valley


def three(x: Tensor, p: Tensor) -> Tensor:
    return -p[0] * x[0] * x[1] * x[2]


TO_37: dict[str, Problem] = {
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
}  # fmt: skip
