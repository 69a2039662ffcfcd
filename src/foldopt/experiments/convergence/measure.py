"""E0: how the backward pass of an unfolded optimizer converges, and the pitfalls on the way.

Figure 3 and Appendix D of arXiv 2301.12047 on smooth top-k selection, and what the paper leaves
open: the lag behind the forward pass, the step size, unrolling an inner loop, linear solvers by
their products, and the starting point.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foldopt as fo
from foldopt.experiments.convergence.layers import Layer, layers
from foldopt.experiments.convergence.nested import NestedRow, nested_unrolling
from foldopt.experiments.convergence.plan import PARTS, Config
from foldopt.experiments.convergence.starts import TARGET, StartRow, random_start, starting_points
from foldopt.experiments.convergence.top_k import TopK
from foldopt.experiments.frame import compare_adjoints

__all__ = ["LagRow", "Result", "StepSizeRow", "adjoints", "instance", "run"]


@dataclasses.dataclass(frozen=True)
class LagRow:
    """Stop when the forward pass has converged, and what the gradient is worth then."""

    tolerance: float
    iterations: int
    forward: float
    backward: float


@dataclasses.dataclass(frozen=True)
class StepSizeRow:
    """One step size: ρ(Φ), and iterations of LFPI to 1e-6, predicted and counted (inf: never)."""

    step_size: float
    radius: float
    predicted: float
    counted: float


@dataclasses.dataclass(frozen=True)
class Result:
    """Everything that was measured; the field names say what."""

    config: Config
    radius: float
    analytic_radius: float
    from_solution: fo.diagnose.Trace
    from_random: fo.diagnose.Trace
    lag: list[LagRow]
    step_size_bound: float
    tuned: fo.diagnose.StepSize
    analytic_step_size: float
    step_sizes: list[StepSizeRow]
    exploded: dict[str, list[float]]
    nested: list[NestedRow]
    starts: list[StartRow]
    layers: list[Layer]
    seconds: float


def run(config: Config, progress: Callable[[str], None] = lambda _: None) -> Result:
    """Measure everything.

    Parameters
    ----------
    config
        What to run.
    progress
        Called with the name of each of ``PARTS`` when it is done.

    Returns
    -------
    Result
        The measurements.
    """
    begin = time.perf_counter()
    problem, c, loss = instance(config)
    x = problem.solve(c)
    step = problem.step(config.step_size)
    mu = problem.curvature(x[0])
    radius = float(fo.spectral_radius(step, x, c).radius)

    from_solution = _trace(config, step, x, c, loss, "fixed_point")
    from_random = _trace(config, step, x, c, loss, random_start(config.n, config.seed + 1))
    progress(PARTS[0])
    grid = _grid(config, x)
    rows = [_step_size_row(problem, alpha, x, c, loss) for alpha in grid]
    tuned = fo.tune_step_size(problem.step, x, c, bounds=(grid[0], grid[-1]))
    exploded = _exploded(config, problem, x, c, loss)
    progress(PARTS[1])
    nested = nested_unrolling(problem, config.step_size, x, c, loss, config.inner)
    progress(PARTS[2])
    starts = starting_points(
        problem, config.step_size, x, c, loss, config.seed, max(60, config.iterations)
    )
    progress(PARTS[3])
    measured = layers(config.seed)
    progress(PARTS[4])
    return Result(
        config=config,
        radius=radius,
        analytic_radius=float((1 - config.step_size * mu).abs().max()),
        from_solution=from_solution,
        from_random=from_random,
        lag=_lag(from_random),
        step_size_bound=2 * float(x.min()),
        tuned=tuned,
        analytic_step_size=2 / float(mu[0] + mu[-1]),
        step_sizes=rows,
        exploded=exploded,
        nested=nested,
        starts=starts,
        layers=measured,
        seconds=time.perf_counter() - begin,
    )


def adjoints(config: Config) -> dict[str, Any]:
    """What each linear solver takes for the adjoint system of Figure 3, timed.

    Parameters
    ----------
    config
        What to run.

    Returns
    -------
    dict
        See :func:`~foldopt.experiments.frame.compare_adjoints`.
    """
    problem, c, loss = instance(config)
    x = problem.solve(c).requires_grad_()
    (cotangent,) = torch.autograd.grad(loss(x).sum(), x)
    step = problem.step(config.step_size)
    return compare_adjoints(step, x.detach(), c, cotangent=cotangent)


def instance(config: Config) -> tuple[TopK, Tensor, Callable[[Tensor], Tensor]]:
    """The problem, scores c ``(1, n)``, and the loss −log x_y of a class y."""
    generator = torch.Generator().manual_seed(config.seed)
    z = torch.randn(1, config.n, generator=generator, dtype=torch.float64)
    c = z / (config.temperature * z.norm())
    target = int(torch.randint(config.n, (1,), generator=generator))
    return TopK(config.k), c, lambda x: -x[..., target].log()


def _trace(
    config: Config,
    step: Any,
    x: Tensor,
    c: Tensor,
    loss: Callable[[Tensor], Tensor],
    start: Any,
    adjoints: Any = None,
) -> fo.diagnose.Trace:
    return fo.backward_trace(
        step, x, c, loss=loss, start=start, adjoints=adjoints, iterations=config.iterations
    )


def _lag(trace: fo.diagnose.Trace) -> list[LagRow]:
    """At the first iteration where the forward error has passed each tolerance for good."""
    rows = []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8):
        above = (trace.forward > tolerance).nonzero()
        at = int(above[-1]) + 1 if len(above) else 0
        if at < len(trace.forward):
            rows.append(
                LagRow(
                    tolerance,
                    int(trace.iterations[at]),
                    float(trace.forward[at]),
                    float(trace.backward.error[at]),
                )
            )
    return rows


def _grid(config: Config, x: Tensor) -> list[float]:
    """Step sizes from a tenth of the stability bound to a third above it."""
    bound = 2 * float(x.min())
    low, high = math.log(0.1 * bound), math.log(1.35 * bound)
    count = config.step_sizes
    return [math.exp(low + (high - low) * i / (count - 1)) for i in range(count)]


def _step_size_row(
    problem: TopK, alpha: float, x: Tensor, c: Tensor, loss: Callable[[Tensor], Tensor]
) -> StepSizeRow:
    step = problem.step(alpha)
    at = fo.spectral_radius(step, x, c, tolerance=TARGET)
    params = c.clone().requires_grad_()
    with fo.record() as seen:
        adjoint = fo.LFPI(rtol=TARGET, max_iterations=3000)
        out = fo.fold(step, x, params, adjoint=adjoint, on_failure="mask")
        loss(out).sum().backward()
    event = seen[-1]
    solved = not bool(fo.Status.failed(event.status).any())
    counted = float(event.iterations.max()) if solved else math.inf
    return StepSizeRow(alpha, float(at.radius), float(at.iterations), counted)


def _exploded(
    config: Config, problem: TopK, x: Tensor, c: Tensor, loss: Callable[[Tensor], Tensor]
) -> dict[str, list[float]]:
    """Unfolding at x* with a step size past the bound: the forward error stays, the gradient goes.

    And unrolling from a random start with one just below it, which stalls.
    """
    bound = 2 * float(x.min())
    found = {}
    for name, alpha, start in (
        ("from the solution, 1.3 × the bound", 1.3 * bound, x),
        (
            "from a random start, 0.95 × the bound",
            0.95 * bound,
            random_start(config.n, config.seed + 1),
        ),
    ):
        trace = _trace(config, problem.step(alpha), x, c, loss, start, adjoints=())
        found[f"{name}: forward"] = trace.forward.tolist()
        found[f"{name}: backward"] = trace.backward.error.tolist()
    return found
