"""A small grid with one of everything, in MATPOWER's tables, and the params of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.nn.acopf import Grid

__all__ = ["params_of", "small"]


def small(**changes: Any) -> dict[str, Any]:
    """Five buses, numbered at will, one of them isolated.

    There are a shunt, a tap, a phase shifter, two parallel branches, two generators at one bus,
    limits of power and of angles, and a branch and a generator out of service. ``changes`` replace
    whole tables.
    """
    bus = [  # number, type, pd, qd, gs, bs, area, vm, va, kV, zone, vmax, vmin
        [10, 1, 60, 20, 0, 0, 1, 1, 0, 1, 1, 1.06, 0.94],
        [3, 3, 0, 0, 0, 0, 1, 1, 5, 1, 1, 1.06, 0.94],
        [7, 2, 30, 10, 1.5, 12, 1, 1, 0, 1, 1, 1.05, 0.95],
        [99, 4, 500, 0, 0, 0, 1, 1, 0, 1, 1, 1.1, 0.9],
        [1, 1, 90, 30, 0, -4, 1, 1, 0, 1, 1, 1.06, 0.94],
    ]
    gen = [  # bus, pg, qg, qmax, qmin, vg, base, status, pmax, pmin
        [3, 0, 0, 100, -60, 1, 100, 1, 150, 10],
        [7, 0, 0, 40, -30, 1, 100, 1, 80, 5],
        [7, 0, 0, 30, -20, 1, 100, 1, 60, 0],
        [10, 0, 0, 30, -20, 1, 100, 0, 60, 0],
        [99, 0, 0, 30, -20, 1, 100, 1, 60, 0],
    ]
    branch = [  # from, to, r, x, b, rates A B C, tap, shift, status, angmin, angmax
        [3, 10, 0.02, 0.09, 0.03, 60, 0, 0, 0, 0, 1, -30, 30],
        [3, 7, 0.03, 0.12, 0.02, 0, 0, 0, 0.97, 0, 1, -360, 360],
        [7, 1, 0.01, 0.08, 0.02, 74, 0, 0, 0, -2, 1, 0, 0],
        [1, 7, 0.04, 0.2, 0.01, 40, 0, 0, 1.02, 1.5, 1, -20, 360],
        [10, 1, 0.03, 0.15, 0.02, 0, 0, 0, 0, 0, 1, -360, 360],
        [10, 1, 0.03, 0.15, 0.02, 1, 0, 0, 0, 0, 0, -360, 360],
        [99, 1, 0.03, 0.15, 0.02, 1, 0, 0, 0, 0, 1, -360, 360],
    ]
    gencost = [  # model, startup, shutdown, count, coefficients from the highest degree on
        [2, 0, 0, 3, 0.05, 20, 7],
        [2, 0, 0, 3, 0.08, 18, 0],
        [2, 0, 0, 3, 0.12, 16, 3],
        [2, 0, 0, 2, 10, 0, 0],
        [2, 0, 0, 3, 0.1, 10, 0],
    ]
    tables = {"bus": bus, "gen": gen, "branch": branch, "gencost": gencost}
    return {
        "baseMVA": 100.0,
        **{key: np.array(table, dtype=float) for key, table in tables.items()},
        **changes,
    }


def params_of(grid: Grid) -> list[Tensor]:
    return [torch.tensor(part) for part in (grid.pd, grid.qd, grid.quadratic, grid.linear)]
