"""nn.NLP on problems of Hock and Schittkowski: milliseconds of both passes, error of the gradient.

Each row is one problem with the params that tests/hock_schittkowski.py gives it: Ipopt alone, the
layer's forward pass (Ipopt, Newton's method on the active set, the certificate), its backward pass
(one cotangent), the KKT residual, and how far the Jacobian of x is from central differences of
Ipopt, run at 1e-10 from the optimum; relative to 1 + |entry|. The last rows are optimal control
problems of growing size, with sparse matrices.

    python benchmarks/nlp.py [problem ...]
"""

from __future__ import annotations

import functools
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from _timing import best_of, machine
from torch import Tensor

import foldopt as fo
from foldopt import solvers
from foldopt.nn.nlp import NLP

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.hock_schittkowski import PROBLEMS, Problem

F64 = torch.float64
REPEATS = 5
# For Ipopt to stay where it begins: finite differences are of one branch.
NEAR = {
    "bound_push": 1e-9, "bound_frac": 1e-9, "slack_bound_push": 1e-9, "slack_bound_frac": 1e-9,
    "mu_init": 1e-9,
}  # fmt: skip
HEAD = (
    f"{'problem':>10s}{'n':>6s}{'m':>5s}{'k':>5s}{'Ipopt':>9s}{'forward':>9s}{'backward':>9s}"
    f"{'back/forw':>10s}{'residual':>10s}{'gradient':>10s}"
)


def row(
    name: str, layer: NLP, engine: Callable[[], Any], params: Tensor, error: float, counts: str
) -> None:
    alone = best_of(engine, REPEATS, budget=5.0)
    forward = best_of(lambda: layer(params), REPEATS, budget=5.0)
    x = layer(params)
    weights = torch.cos(torch.arange(x.numel(), dtype=F64))
    loss = (weights * x).sum()
    backward = best_of(
        lambda: torch.autograd.grad(loss, params, retain_graph=True), 4 * REPEATS, budget=5.0
    )
    with fo.record() as seen:
        layer(params)
    print(
        f"{name:>10s}{x.numel():6d}{counts}{1e3 * alone:9.2f}{1e3 * forward:9.2f}"
        f"{1e3 * backward:9.2f}{backward / forward:10.3f}{float(seen[0].residual):10.0e}"
        f"{error:10.0e}",
        flush=True,
    )


def fixed(bound: Any, none: float, p: Tensor, like: Tensor) -> Tensor:
    value = bound(p) if callable(bound) and not isinstance(bound, Tensor) else bound
    return torch.as_tensor(none if value is None else value, dtype=F64).expand_as(like)


def by_ipopt(problem: Problem, params: Tensor, start: Tensor, **options: Any) -> solvers.Ipopt:
    """Ipopt with the bounds that belong to each row of the params."""
    given = problem.bounds or (None, None)
    lower, upper = (
        torch.stack([fixed(bound, none, p, start) for p in params])
        for bound, none in zip(given, (-math.inf, math.inf), strict=True)
    )
    return solvers.Ipopt(
        *problem.functions, lower, upper, start=start, executor="serial", **options
    )


def gradient_error(problem: Problem, layer: NLP, p: Tensor) -> float:
    """The largest error of ∂x/∂p against central differences, relative to 1 + the entry."""
    x = layer(p)
    exact = torch.stack([torch.autograd.grad(v, p, retain_graph=True)[0] for v in x])
    steps = 1e-4 * torch.where(p == 0, 1, p.detach().abs().clamp_max(1))
    moved = torch.cat([p + torch.diag(steps), p - torch.diag(steps)]).detach()
    ends = by_ipopt(problem, moved, x.detach(), rtol=1e-10, options=NEAR)(moved).x
    differences = ((ends[: len(p)] - ends[len(p) :]) / (2 * steps.unsqueeze(-1))).mT
    return float(((exact - differences).abs() / (1 + differences.abs())).max())


def hock_schittkowski(names: list[str]) -> None:
    worst = 0.0
    for name, problem in PROBLEMS.items():
        if names and name not in names:
            continue
        start, p, _ = problem.numbers()
        p.requires_grad_()
        layer = NLP(
            *problem.functions, problem.bounds, start=start, batch_dims=0, executor="serial"
        )
        error = gradient_error(problem, layer, p)
        worst = max(worst, error)
        counts = "".join(
            f"{0 if f is None else len(f(start, p)):5d}" for f in problem.functions[1:]
        )
        once = p[None].detach()
        engine = by_ipopt(problem, once, start)

        row(name, layer, functools.partial(engine, once), p, error, counts)
    print(f"worst gradient error of {len(names) or len(PROBLEMS)} problems: {worst:.0e}\n")


def control(steps: int) -> None:
    """Follow a curve with the states of a pendulum that is pushed within limits."""
    h = 4 / steps
    goal = torch.cos(torch.linspace(0, 4, steps, dtype=F64))

    def objective(z: Tensor, p: Tensor) -> Tensor:
        y, u = z.split(steps)
        return h * ((y - p[0] * goal).square().sum() + 0.1 * u.square().sum())

    def equality(z: Tensor, p: Tensor) -> Tensor:
        y, u = z.split(steps)
        return torch.cat([y[:1] - p[1], y[1:] - y[:-1] - h * (p[2] * torch.sin(y[:-1]) + u[:-1])])

    def inequality(z: Tensor, p: Tensor) -> Tensor:
        return z[:steps].square() - p[3]

    p = torch.tensor([1.0, 0.5, 1.0, 0.8], dtype=F64, requires_grad=True)
    bound = torch.cat([torch.full((steps,), 10.0), torch.ones(steps)]).double()
    functions = objective, inequality, equality
    layer = NLP(*functions, (-bound, bound), batch_dims=0, executor="serial")
    engine = solvers.Ipopt(*functions, -bound, bound, batch_dims=0, executor="serial")
    weights = torch.cos(torch.arange(2 * steps, dtype=F64))
    push = torch.tensor([0.7, -0.3, 0.5, 0.2], dtype=F64)
    x = layer(p)
    slope = torch.autograd.grad(x @ weights, p)[0] @ push
    with torch.no_grad():
        ends = [layer(p + sign * 1e-5 * push) @ weights for sign in (1, -1)]
    differences = float(ends[0] - ends[1]) / 2e-5
    error = abs(float(slope) - differences) / (1 + abs(differences))
    row("control", layer, functools.partial(engine, p.detach()), p, error, f"{steps:5d}{steps:5d}")


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    print(HEAD)
    hock_schittkowski(sys.argv[1:])
    for steps in () if sys.argv[1:] else (50, 200, 800):
        control(steps)


if __name__ == "__main__":
    main()
