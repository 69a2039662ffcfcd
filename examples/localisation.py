"""Calibrate radio beacons through a global solver: Gurobi, with SCIP to check.

A receiver is where its distances to five beacons fit best: a nonconvex program, which Gurobi solves
to global optimality. Some beacons are biased; how much is learned from surveyed places, by
Gauss–Newton on the positions that Gurobi returns. Gurobi itself knows nothing of derivatives.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import gurobipy
import numpy as np
import pyscipopt
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.autograd.functional import jacobian

import foldopt as fo

PICTURE = pathlib.Path(__file__).parents[1] / "docs/gallery/localisation.png"
BEACONS = np.array([[0.0, 0.0], [4.0, 1.5], [8.0, -1.0], [12.0, 1.5], [16.0, 0.0]])
BIAS = torch.tensor([0.0, 0.8, 0.0, -0.5, 0.3], dtype=torch.float64)


def misfit(x: Tensor, ranges: Tensor) -> Tensor:
    """Σ (‖x − beacon‖² − range²)², for each sample."""
    away = (x.unsqueeze(-2) - torch.from_numpy(BEACONS).to(x)).square().sum(-1)
    return (away - ranges.square()).square().sum(-1)


step = fo.steps.newton(misfit)


def gurobi(ranges: np.ndarray) -> np.ndarray:
    """One position, by a plain gurobipy model."""
    with gurobipy.Env(params={"OutputFlag": 0}) as env, gurobipy.Model(env=env) as model:
        x = model.addMVar(2, lb=-20.0, ub=36.0)
        square = model.addMVar(len(ranges), ub=4000.0)
        for i, beacon in enumerate(BEACONS):
            model.addConstr(square[i] == x @ x - 2 * beacon @ x + beacon @ beacon)
        model.setObjective((square - ranges**2) @ (square - ranges**2))
        model.optimize()
        return np.asarray(x.X)


def scip(ranges: np.ndarray) -> np.ndarray:
    """The same in SCIP, whose objectives are linear."""
    model = pyscipopt.Model()
    model.hideOutput()
    x, y = (model.addVar(lb=-20.0, ub=36.0) for _ in range(2))
    total = model.addVar(lb=0.0)
    square = [model.addVar(ub=4000.0) for _ in ranges]
    for one, (a, b) in zip(square, BEACONS, strict=True):
        model.addCons(one == (x - a) ** 2 + (y - b) ** 2)
    model.addCons(total >= sum((s - r**2) ** 2 for s, r in zip(square, ranges, strict=True)))
    model.setObjective(total)
    model.optimize()
    return np.array([model.getVal(x), model.getVal(y)])


def locate(solver: Any) -> fo.FoldedLayer:
    """A layer of a solver; two of Newton's steps take its answers to full precision."""

    def solve(ranges: Tensor) -> fo.Solution:
        found = fo.solvers.solve_batch(solver, ranges)
        return found._replace(x=step(step(found.x, ranges), ranges).detach())

    return fo.FoldedLayer(solve, step)


def main(quick: bool = False) -> None:
    """Calibrate on 10 surveyed places, by Gauss–Newton through the solver, and test on 40."""
    count = 4 if quick else 10
    random = np.random.default_rng(0)
    places = torch.tensor(random.uniform([0, 0], [16, 7], (2 * count if quick else 50, 2)))
    ranges = torch.cdist(places, torch.from_numpy(BEACONS)) + BIAS
    ranges += torch.tensor(0.02 * random.standard_normal(ranges.shape))
    layer, bias, errors = locate(gurobi), torch.zeros(5, dtype=torch.float64), []

    def position(bias: Tensor) -> Tensor:
        return layer(ranges[:count] - bias)

    for _ in range(2 if quick else 5):
        away = position(bias) - places[:count]
        errors.append(away.norm())
        slope = jacobian(position, bias).flatten(0, 1)
        bias = bias - torch.linalg.lstsq(slope, away.flatten()).solution
    assert errors[-1] < 0.5 * errors[0], errors
    nudge = torch.tensor([0.0, 1e-5, 0.0, 0.0, 0.0], dtype=torch.float64)
    seen = (position(bias + nudge) - position(bias - nudge)) / 2e-5
    torch.testing.assert_close(jacobian(position, bias)[..., 1], seen, rtol=1e-5, atol=1e-6)
    rest = ranges[count:]
    assert (locate(scip)(rest[:3]) - layer(rest[:3])).abs().max() < 1e-8
    axis = (figure := Figure(figsize=(7, 3.6), layout="constrained")).subplots()
    axis.plot(*BEACONS.T, "k^", label="beacons")
    axis.plot(*places[count:].T, "o", mfc="none", label="true places")
    print("biases found", " ".join(f"{value:.2f}" for value in bias.tolist()))
    for name, x in {"as measured": layer(rest), "calibrated": layer(rest - bias)}.items():
        print(
            f"{name}: mean error on other places {(x - places[count:]).norm(dim=-1).mean():.2f} m"
        )
        axis.plot(*x.T, ".", label=name)
    axis.legend(ncols=2, fontsize=8)
    if not quick:
        figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
