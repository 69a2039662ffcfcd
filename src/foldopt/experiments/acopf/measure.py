"""What the task is like, and what the layer costs."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from torch import Tensor

from foldopt.experiments.acopf.data import layer_of, parts_of
from foldopt.experiments.acopf.plan import Config
from foldopt.experiments.frame import compare_adjoints
from foldopt.nn.acopf import ACOPF
from foldopt.operators import PrimalDual
from foldopt.step import Step
from foldopt.steps import newton_kkt

__all__ = ["flat_step", "look_at_task", "time_layer"]

_REPEATS = 5
# How many samples the dense comparison of adjoint solvers is for; its matrices grow fast.
_DENSE = {9: 4, 14: 4, 30: 2, 57: 1}


def look_at_task(config: Config) -> dict[str, Any]:
    """How far the best dispatch moves: with one factor for all costs, and with one for each.

    Returns
    -------
    dict
        ``"common"``: by how much pg changes, at most, in MW, when all costs are multiplied by 1.3;
        ``"own"``: the standard deviation of pg over the examples' costs at nominal loads, the
        largest over generators; ``"total"``: the load, MW.
    """
    layer = layer_of(config)
    grid = layer.grid
    a, b = torch.tensor(grid.quadratic), torch.tensor(grid.linear)
    few = dataclasses.replace(config, train=16, validation=1, test=1, spread=0.0)
    examples = parts_of(few, layer, 0).train
    with torch.no_grad():
        common = layer(quadratic=1.3 * a, linear=1.3 * b).pg - layer().pg
    return {
        "common": float(common.abs().max()),
        "own": float(examples.optimal.std(0).max()),
        "total": float(grid.pd.sum()),
    }


def time_layer(config: Config) -> dict[str, Any]:
    """Seconds of one sample's passes, and the adjoint system of the Newton step.

    Returns
    -------
    dict
        ``"forward"`` and ``"backward"``: medians over some samples, each the best of five; ``"n"``,
        the number of variables; ``"adjoints"``, if the grid is small enough to write Φ out.
    """
    layer = layer_of(config, prices=True, on_failure="raise")
    few = dataclasses.replace(config, train=8, validation=1, test=1)
    # Draws without a solution are replaced, not raised: that takes a layer that masks them.
    examples = parts_of(few, layer_of(config), 0).train
    times = [_passes(layer, examples.known, examples.truth, i) for i in range(len(examples))]
    forward, backward = torch.tensor(times, dtype=torch.float64).median(0).values.tolist()
    found = {"forward": forward, "backward": backward, "n": layer.grid.variables}
    count = _DENSE.get(config.case)
    if count:
        found["adjoints"] = _adjoints(
            layer, tuple(part[:count] for part in (*examples.known, examples.truth))
        )
    return found


def _passes(layer: ACOPF, known: tuple[Tensor, ...], truth: Tensor, i: int) -> tuple[float, float]:
    leaves = [*(part[i] for part in known), *truth[i].chunk(2, -1)]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    forward = backward = float("inf")
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        pg = layer(*leaves).pg
        forward = min(forward, time.perf_counter() - begin)
        loss = (pg * torch.linspace(-1, 1, len(pg), dtype=pg.dtype)).sum()
        begin = time.perf_counter()
        torch.autograd.grad(loss, leaves)
        backward = min(backward, time.perf_counter() - begin)
    return forward, backward


def flat_step(layer: ACOPF) -> Step:
    """Newton's step on the optimality conditions, on one tensor, ``(B, n + m + k)``; Φ = 0.

    Bounds are inequalities here; that of the slack bus's angle is an equality.
    """
    network, program = layer.engine.network, layer.engine.model.program
    lower, upper = torch.from_numpy(layer.grid.bounds())
    fixed = lower == upper
    low, high = (torch.isfinite(part) & ~fixed for part in (lower, upper))
    objective, limits, balances = program.objective, program.inequality, program.equality
    assert limits is not None
    assert balances is not None

    def inequality(z: Tensor, *params: Tensor) -> list[Tensor]:
        return [torch.as_tensor(limits(z, *params)), (lower - z)[low], (z - upper)[high]]

    def equality(z: Tensor, *params: Tensor) -> list[Tensor]:
        return [torch.as_tensor(balances(z, *params)), (z - lower)[fixed]]

    inner = newton_kkt(objective, inequality, equality)
    m = network.counts[0] + int(low.sum()) + int(high.sum())
    k = network.counts[1] + int(fixed.sum())

    def update(state: Tensor, *params: Tensor) -> Tensor:
        point = PrimalDual(*state.split([layer.grid.variables, m, k], -1))
        return torch.cat([*inner.update(point, *params)], -1)

    return dataclasses.replace(inner, update=update, readout=None)


def _adjoints(layer: ACOPF, params: tuple[Tensor, ...]) -> dict[str, Any]:
    *known, truth = params
    given = (*known, *truth.chunk(2, -1))
    state = state_of(layer, given)
    n = layer.grid.variables
    random = torch.Generator().manual_seed(0)
    cotangent = torch.zeros_like(state)
    cotangent[:, :n] = torch.randn(len(state), n, generator=random, dtype=torch.float64)
    return compare_adjoints(flat_step(layer), state, *given, cotangent=cotangent)


def state_of(layer: ACOPF, given: tuple[Tensor, ...]) -> Tensor:
    """The solution with its multipliers, as :func:`flat_step` has them."""
    start = torch.from_numpy(layer.grid.start()).expand(len(given[0]), -1)
    with torch.no_grad():
        point = layer.engine.settle(given, (), start, "raise").point
    lower, upper = torch.from_numpy(layer.grid.bounds())
    fixed = lower == upper
    low, high = (torch.isfinite(part) & ~fixed for part in (lower, upper))
    mu = point.bounds
    below, above = (-mu).clamp_min(0)[:, low], mu.clamp_min(0)[:, high]
    return torch.cat([point.x, point.inequality, below, above, point.equality, mu[:, fixed]], -1)
