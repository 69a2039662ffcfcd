"""ρ(Φ) of the layer of every experiment, at one solution of each (the second open question)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import qpsolvers
import torch
from torch import Tensor

import foldopt as fo
from foldopt.experiments.convergence.power_flow import load_case14
from foldopt.experiments.convergence.top_k import TopK

__all__ = ["Layer", "layers"]

TARGET = 1e-6
F64 = torch.float64


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer at one solution.

    Attributes
    ----------
    name
        Experiment, problem and step.
    n
        The size of the state.
    radius
        ρ(Φ).
    lfpi
        Iterations of LFPI to 1e-6 that it predicts; inf where ρ ≥ 1.
    gmres
        Iterations that GMRES takes to a residual of 1e-6; inf if it does not get there.
    adjoint
        What ``Auto`` chose.
    best
        The step size that makes ρ(Φ) least, and that ρ; None where the step has none to choose.
    """

    name: str
    n: int
    radius: float
    lfpi: float
    gmres: float
    adjoint: str
    best: tuple[float, float] | None = None


def layers(seed: int) -> list[Layer]:
    """Measure all of them; the seed is that of the problems' data."""
    parts = (_top_k, _bilinear, _denoising, _portfolio, _power_flow)
    return [layer for part in parts for layer in part(torch.Generator().manual_seed(seed))]


def _measure(
    name: str,
    step: Any,
    state: Any,
    *params: Any,
    family: tuple[Callable[[float], Any], tuple[float, float]] | None = None,
) -> Layer:
    found = fo.spectral_radius(step, state, *params, tolerance=TARGET)
    gmres = _iterations(fo.GMRES(rtol=TARGET, max_iterations=1000), step, state, params)
    best = None
    if family is not None:
        make, bounds = family
        tuned = fo.tune_step_size(make, state, *params, bounds=bounds)
        best = tuned.step_size, tuned.radius
    leaves = [state] if isinstance(state, Tensor) else list(state)
    return Layer(
        name,
        sum(leaf.shape[-1] for leaf in leaves),
        float(found.radius.max()),
        float(found.iterations.max()),
        gmres[0],
        _iterations(fo.Auto(), step, state, params)[1],
        best,
    )


class _Watched:
    """A linear solver that keeps its last answer; a record would show inner folds' too."""

    def __init__(self, solver: Any) -> None:
        self.solver, self.last = solver, None

    def solve(self, operator: Any, b: Tensor) -> Any:
        self.last = self.solver.solve(operator, b)
        return self.last


def _iterations(adjoint: Any, step: Any, state: Any, params: tuple[Any, ...]) -> tuple[float, str]:
    """How many iterations the adjoint of a generic loss takes, and its method's name."""
    leaves = [p.clone().requires_grad_() if isinstance(p, Tensor) else p for p in params]
    watched = _Watched(adjoint)
    found = fo.fold(step, state, *leaves, adjoint=watched)
    parts = [found] if isinstance(found, Tensor) else list(found)
    total = sum(((1 + torch.arange(p.shape[-1]).sin()) * p).sum() for p in parts)
    assert isinstance(total, Tensor)
    try:
        total.backward()
    except fo.FoldError:  # of the adjoint: what the table is to show
        if watched.last is None:
            raise
    assert watched.last is not None
    solved = watched.last.solved
    return float(watched.last.iterations.max()) if solved else math.inf, watched.last.method


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=F64)


# -- E0 and E3: smooth top-k --------------------------------------------------------------------


def _top_k(generator: torch.Generator) -> Iterator[Layer]:
    z = _normal(generator, 1, 100)
    for temperature, what in ((1.0, "no bound active"), (0.15, "bounds active")):
        problem, c = TopK(), z / (temperature * z.norm())
        x = problem.solve(c)
        bound = 2 * float(x.min())
        yield _measure(
            f"E0, E3: top-k of 100, τ = {temperature:g} ({what}), f-PGD, α = 0.025",
            problem.step(0.025), x, c, family=(problem.step, (0.02 * bound, 1.5 * bound)),
        )  # fmt: skip
    functions = (
        lambda x, c: (x * x.log() - c * x).sum(),
        lambda x, c: torch.cat([x - 1, -x]),
        lambda x, c: x.sum() - problem.k,
    )
    point = fo.steps.multipliers(*functions)(x, c)
    yield _measure("E3: top-k of 100, τ = 0.15, f-SQP, α = 1", fo.steps.sqp(*functions), point, c)


# -- E1: bilinear, with the quadratic term without which its derivative is zero -----------------


def _bilinear(generator: torch.Generator) -> Iterator[Layer]:
    n, epsilon = 10, 1.0
    Q, c, d = _normal(generator, n, n), _normal(generator, 1, n), _normal(generator, 1, n)

    def objective(z: Tensor, c: Tensor, d: Tensor) -> Tensor:
        x, y = z.split(n, -1)
        value = (c * x).sum(-1) + ((x @ Q) * y).sum(-1) + (d * y).sum(-1)
        return 0.5 * epsilon * (z * z).sum(-1) - value

    def project(z: Tensor) -> Tensor:
        x, y = z.split(n, -1)
        simplex = fo.projections.capped_simplex
        return torch.cat([simplex(x, 1.0), simplex(y, 2.0)], -1)

    def make(step_size: float) -> fo.steps.Step:
        return fo.steps.projected_gradient(objective, project, step_size)

    # A local optimum with free components: from each of several starts, the first that has some.
    step = make(0.1)
    z = torch.zeros(1, 2 * n, dtype=F64)
    for _ in range(50):
        z = project(torch.rand(1, 2 * n, generator=generator, dtype=F64))
        with torch.no_grad():
            for _ in range(400):  # 0.9^400 is below rounding
                z = step(z, c, d)
        if float(((z > 1e-6) & (z < 1 - 1e-6)).sum()) > 2:
            break
    yield _measure(
        "E1: bilinear, 10 + 10, ε = 1, f-PGD, α = 0.1", step, z, c, d, family=(make, (1e-2, 10.0))
    )


# -- E2: total variation on OptNet's signals ----------------------------------------------------


def _denoising(generator: torch.Generator) -> Iterator[Layer]:
    n = 100
    D = torch.eye(n, dtype=F64)[:-1] - torch.eye(n, dtype=F64)[1:]
    pieces = int(torch.randint(2, 10, (1,), generator=generator))
    ends = torch.randperm(n - 1, generator=generator)[: pieces - 1].sort().values + 1
    heights = torch.randint(10, 100, (pieces,), generator=generator).double()
    signal = heights[torch.bucketize(torch.arange(n), ends, right=True)]
    for sigma, weights in ((10.0, (5.0, 13.0, 25.0)), (1.0, (0.5, 1.0, 4.0))):
        noisy = (signal + sigma * _normal(generator, n)).unsqueeze(0)
        for weight in weights:
            w = _dual(D, noisy[0], weight)
            yield _measure(
                f"E2: total variation of 100, σ = {sigma:g}, λ = {weight:g}, f-FDPG, α = 1/‖D‖²",
                fo.steps.fdpg(), w, noisy, D, weight,
            )  # fmt: skip


def _dual(D: Tensor, d: Tensor, weight: float) -> Tensor:
    """min ½‖d + Dᵀw‖², |w| ≤ λ, to the last digit."""
    eye = torch.eye(D.shape[0], dtype=D.dtype)
    point = fo.operators.quadratic_program(
        D @ D.T,
        (D @ d).unsqueeze(0),
        torch.cat([eye, -eye]),
        torch.full((2 * len(D),), weight, dtype=F64),
    )
    return point.x.clamp(-weight, weight)


# -- E4: portfolio (eq. 20) ---------------------------------------------------------------------


def _portfolio(generator: torch.Generator) -> Iterator[Layer]:
    """Elmachtoub and Grigas's data with τ = 1; both constraints scaled to order one."""
    n, tau = 20, 1.0
    loadings = 0.0025 * tau * (2 * torch.rand(n, 4, generator=generator, dtype=F64) - 1)
    V = loadings @ loadings.T + (0.01 * tau) ** 2 * torch.eye(n, dtype=F64)
    limit = 2.25 * float(V.mean())
    c = 0.05 + 0.02 * _normal(generator, n)

    def chosen(aversion: float) -> np.ndarray:
        problem = qpsolvers.Problem(
            aversion * V.numpy() / limit, -c.numpy() / 0.05,
            A=np.ones((1, n)), b=np.ones(1), lb=np.zeros(n),
        )  # fmt: skip
        answer = qpsolvers.solve_problem(
            problem, solver="piqp", backend="dense", eps_abs=1e-12, eps_rel=1e-12
        )
        assert answer.x is not None
        return answer.x

    # The risk of min −cᵀx + θ/2 xᵀVx falls with θ: the multiplier of the risk limit by bisection.
    low, high, x = 1e-3, 1e3, c
    for _ in range(60):
        middle = math.sqrt(low * high)
        x = torch.tensor(chosen(middle))
        low, high = (middle, high) if float(x @ V @ x) > limit else (low, middle)
    functions = (
        lambda x, c, V: -(c @ x) / 0.05,
        lambda x, c, V: torch.cat([(x @ V @ x)[None] / limit - 1, -x]),
        lambda x, c, V: x.sum() - 1,
    )
    params = c.unsqueeze(0), V.unsqueeze(0)
    point = fo.steps.multipliers(*functions)(x.unsqueeze(0), *params)
    newton = fo.steps.newton_kkt(*functions)
    with torch.no_grad():
        for _ in range(5):  # PIQP's digits, and bisection's, to all digits
            point = newton(point, *params)
    for alpha in (1.0, 0.5):
        step = fo.steps.sqp(*functions, alpha)
        yield _measure(f"E4: portfolio (20) of 20, f-SQP, α = {alpha:g}", step, point, *params)


# -- E5: AC optimal power flow ------------------------------------------------------------------


def _power_flow(_generator: torch.Generator) -> Iterator[Layer]:
    grid = load_case14()
    functions = grid.objective, grid.inequality, grid.equality
    params = grid.loads.unsqueeze(0), grid.costs.unsqueeze(0)
    point = fo.steps.multipliers(*functions)(grid.solution.unsqueeze(0), *params)
    newton = fo.steps.newton_kkt(*functions)
    with torch.no_grad():
        for _ in range(3):
            point = newton(point, *params)
    for alpha in (1.0, 0.01):
        step = fo.steps.sqp(*functions, alpha)
        yield _measure(f"E5: AC power flow, 14 buses, f-SQP, α = {alpha:g}", step, point, *params)
