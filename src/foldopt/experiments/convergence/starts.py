"""The first open question: the starting point changes the delay, and not the rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

import foldopt as fo
from foldopt.experiments.convergence.top_k import TopK

__all__ = ["TARGET", "StartRow", "random_start", "starting_points"]

TARGET = 1e-6  # what "converged" means in the tables


@dataclasses.dataclass(frozen=True)
class StartRow:
    """One starting point: its distance, the fitted rates over −log ρ, iterations to 1e-6."""

    name: str
    distance: float
    forward_rate: float
    backward_rate: float
    forward_iterations: int | None
    backward_iterations: int | None


def random_start(n: int, seed: int) -> Tensor:
    """Uniform on [0, 1), shape ``(1, n)``.

    Examples
    --------
    >>> random_start(3, 0).shape
    torch.Size([1, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, n, generator=generator, dtype=torch.float64)


def starting_points(
    problem: TopK,
    step_size: float,
    x: Tensor,
    c: Tensor,
    loss: Callable[[Tensor], Tensor],
    seed: int,
    iterations: int,
) -> list[StartRow]:
    """Unroll from many points: at every distance, of other problems, random.

    Parameters
    ----------
    problem, step_size, x, c, loss
        Smooth top-k selection, its solution x ``(1, n)``, its scores, and a loss of x.
    seed
        Of the random ones.
    iterations
        How many to unroll.

    Returns
    -------
    list of StartRow
        Beginning with the solution itself.

    Examples
    --------
    >>> c = torch.linspace(0, 0.3, 6, dtype=torch.float64).unsqueeze(0)
    >>> problem = TopK(k=2)
    >>> rows = starting_points(problem, 0.1, problem.solve(c), c, lambda x: x[..., 0], 0, 40)
    >>> rows[0].name, rows[0].distance
    ('the solution', 0.0)
    """
    n = x.shape[-1]
    generator = torch.Generator().manual_seed(seed + 100)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    direction = direction - direction.mean(-1, keepdim=True)
    direction = direction / direction.abs().sum() * x.abs().sum()
    vertex = torch.zeros_like(x).scatter(-1, c.topk(problem.k).indices, 1.0)
    smoother = TopK(problem.k, 2 * problem.epsilon)
    points: dict[str, Tensor] = {"the solution": x}
    for distance in (1e-8, 1e-6, 1e-4, 1e-2, 1e-1):
        points[f"at distance {distance:.0e}"] = problem.project(x + distance * direction)
    points["uniform, k/n"] = torch.full_like(x, problem.k / n)
    points["solution of 2ε"] = smoother.solve(c)
    points["hard top-k (a vertex)"] = problem.project(vertex)
    for number in range(1, 4):
        points[f"random {number}"] = problem.project(random_start(n, seed + number))
    step = problem.step(step_size)
    rate = -math.log(float(fo.spectral_radius(step, x, c).radius))
    rows = []
    for name, start in points.items():
        trace = fo.backward_trace(
            step, x, c, loss=loss, start=start, adjoints=(), iterations=iterations
        )
        distance = float((start - x).abs().sum() / x.abs().sum())
        # From afar the error is like k ρ^k; from nearby that term is small beside ρ^k itself.
        power = float(distance > 0.05)
        forward = fo.diagnose.Curve(trace.iterations, trace.forward, trace.backward.eps)
        rows.append(
            StartRow(
                name,
                distance,
                _rate(lambda t=trace: t.fitted_rate("forward")) / rate if distance else math.nan,
                _rate(lambda t=trace, p=power: t.fitted_rate(power=p)) / rate,
                forward.first_below(TARGET),
                trace.backward.first_below(TARGET),
            )
        )
    return rows


def _rate(fit: Callable[[], float]) -> float:
    """A fitted rate, NaN where the curve is too short for one."""
    try:
        return fit()
    except ValueError:
        return math.nan
