"""The tuned step size against a grid and closed forms."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from tests.descent import BUILD, Family, family, radius, spd
from tests.systems import F64


def tune(problem: Family, **options: Any) -> fo.diagnose.StepSize:
    return fo.tune_step_size(problem.make_step, problem.x, *problem.params, **options)


def best_of_grid(problem: Family) -> tuple[float, float]:
    """The best of 200 step sizes over two decades, and its ρ, by LAPACK.

    All at once: one sample for each step size.
    """
    scale = float(torch.linalg.matrix_norm(problem.params[1], 2).max())
    alphas = torch.logspace(-1, 1, 200, dtype=F64) / scale
    radii = torch.zeros_like(alphas)
    for k in range(len(problem.x)):
        x, *params = (leaf[k].expand(200, *leaf.shape[1:]) for leaf in (problem.x, *problem.params))
        x = x.clone().requires_grad_()
        value = problem.make_step(alphas.unsqueeze(-1))(x, *params)
        rows = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in value.unbind(-1)]
        phi = torch.stack(rows, -2)
        radii = torch.maximum(radii, torch.linalg.eigvals(phi).abs().amax(-1))
    index = int(radii.argmin())
    return float(alphas[index]), float(radii[index])


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("kind", BUILD)
def test_alpha_is_that_of_the_grid(kind: str, samples: int) -> None:
    for n in (3, 7, 12, 20):
        problem = family(kind, samples, n)
        found = tune(problem)
        alpha, least = best_of_grid(problem)
        close = abs(math.log(found.step_size / alpha)) < math.log(1.05)
        assert close or found.radius <= least + 1e-3 * (1 - least)
        assert found.radius <= least + 0.02 * (1 - least)
        measured = radius(problem.make_step(found.step_size), problem.x, *problem.params)
        assert found.radius == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e7])
@pytest.mark.parametrize("kind", ["gradient", "box"])
def test_the_scale_of_the_problem_does_not_matter(kind: str, scale: float) -> None:
    h = scale * torch.tensor([1.0, 3.0, 9.0], dtype=F64)

    def objective(x: Tensor, c: Tensor) -> Tensor:
        return 0.5 * (h * (x - c) ** 2).sum(-1)

    def make_step(alpha: float) -> fo.steps.Step:
        if kind == "gradient":
            return fo.steps.gradient(objective, alpha)
        return fo.steps.projected_gradient(
            objective, lambda y: fo.projections.box(y, -1.0, 1.0), alpha
        )

    c = torch.full((2, 3), 0.5, dtype=F64)
    found = fo.tune_step_size(make_step, c, c)
    assert found.step_size == pytest.approx(2 / (10 * scale), rel=0.02)
    assert found.radius == pytest.approx(0.8, rel=0.02)
    assert found.evaluations <= 4


def test_a_symmetric_step_is_looked_at_once_and_with_few_products() -> None:
    n = 400
    c, Q = torch.randn(1, n, dtype=F64), spd(1, n, 50.0)
    x = torch.linalg.solve(Q, c.unsqueeze(-1)).squeeze(-1)
    asked = []

    def make_step(alpha: float) -> fo.steps.Step:
        asked.append(alpha)
        return BUILD["gradient"](alpha)

    found = fo.tune_step_size(make_step, x, c, Q)
    values = torch.linalg.eigvalsh(Q)
    assert found.step_size == pytest.approx(2 / float(values.min() + values.max()), rel=0.02)
    assert found.evaluations == 1
    assert found.products < n / 3
    assert found.radius == pytest.approx(
        radius(BUILD["gradient"](found.step_size), x, c, Q), rel=2e-3
    )
    assert set(asked) == {1.0, found.step_size}


def test_one_alpha_serves_all_samples() -> None:
    problem = family("gradient", samples=2, n=4)
    c, Q = problem.params
    Q = Q * torch.tensor([1.0, 10.0], dtype=F64)[:, None, None]
    x = torch.linalg.solve(Q, c.unsqueeze(-1)).squeeze(-1)
    values = torch.linalg.eigvalsh(Q)
    found = fo.tune_step_size(BUILD["gradient"], x, c, Q)
    assert found.step_size == pytest.approx(2 / float(values.min() + values.max()), rel=1e-3)


@pytest.mark.parametrize("kind", ["gradient", "l1"])
def test_bounds_hold(kind: str) -> None:
    problem = family(kind, n=6, condition=3.0)
    free = tune(problem).step_size
    low = tune(problem, bounds=(1e-3 * free, 0.5 * free))
    high = tune(problem, bounds=(1.1 * free, 10 * free))
    inside = tune(problem, bounds=(0.1 * free, 10 * free))
    assert low.step_size == pytest.approx(0.5 * free, rel=0.02)
    assert high.step_size == pytest.approx(1.1 * free, rel=0.02)
    assert inside.step_size == pytest.approx(free, rel=0.02)


def test_another_family_with_complex_eigenvalues_is_searched() -> None:
    """Relaxation x + θ(T(x) − x) of a rotation: ρ² = (1 − θ + θ r cos φ)² + (θ r sin φ)²."""
    r, angle = 0.9, 2.0
    cos, sin = r * math.cos(angle), r * math.sin(angle)
    M = torch.tensor([[cos, -sin], [sin, cos]], dtype=F64)
    c = torch.ones(1, 2, dtype=F64)
    x = torch.linalg.solve(torch.eye(2, dtype=F64) - M, c.T).T

    def make_step(theta: float) -> Any:
        return lambda x, c: x + theta * (x @ M.T + c - x)

    found = fo.tune_step_size(make_step, x, c, bounds=(0.01, 1.9))
    best = (1 - cos) / ((1 - cos) ** 2 + sin**2)
    assert found.step_size == pytest.approx(best, rel=0.01)
    assert found.radius == pytest.approx(abs(sin) / math.hypot(1 - cos, sin), rel=1e-3)


def diagonal(*eigenvalues: Callable[[float], float]) -> Callable[[float], Any]:
    """Steps with a Φ(α) of prescribed eigenvalues, and the fixed point 0."""

    def make_step(alpha: float) -> Any:
        phi = torch.tensor([value(alpha) for value in eigenvalues], dtype=F64)
        return lambda x: phi * x

    return make_step


def test_where_the_branches_are_no_lines_the_search_takes_over() -> None:
    """ρ is least, 0.05, at α = 0.1; the branches cross at 0.93."""
    make_step = diagonal(
        lambda alpha: 0.05 + 0.5 * math.log10(10 * alpha) ** 2, lambda alpha: -(alpha**8)
    )
    found = fo.tune_step_size(make_step, torch.zeros(1, 2, dtype=F64), bounds=(0.01, 1.0))
    assert found.step_size == pytest.approx(0.1, rel=0.02)
    assert found.radius == pytest.approx(0.05, rel=1e-3)


def test_a_curved_set_whose_best_step_size_is_far_up_is_searched_further() -> None:
    """On a small ball s is the multiplier, here a thousand times the Hessian."""
    c = torch.tensor([[30.0, 30.0, 30.0]], dtype=F64)
    h = torch.tensor([1.0, 2.0, 3.0], dtype=F64)

    def make_step(alpha: float) -> fo.steps.Step:
        return fo.steps.projected_gradient(
            lambda x, c: (0.5 * h * x**2 - c * x).sum(-1),
            lambda y: fo.projections.ball(y, 0.01),
            alpha,
        )

    x = fo.fixed_point(make_step(0.1), torch.zeros_like(c), c, rtol=1e-15).detach()
    found = fo.tune_step_size(make_step, x, c)
    grid = [radius(make_step(float(a)), x, c) for a in torch.logspace(-1.5, 1.5, 60, dtype=F64)]
    assert found.radius <= 1.02 * min(grid)
    assert found.step_size > 0.1


def test_where_every_alpha_is_as_good_the_middle_is_returned() -> None:
    c = torch.tensor([[3.0, 0.0]], dtype=F64)  # a vertex: Φ = 0

    def make_step(alpha: float) -> fo.steps.Step:
        return fo.steps.projected_gradient(
            lambda x, c: 0.5 * ((x - c) ** 2).sum(-1), fo.projections.simplex, alpha
        )

    vertex = torch.tensor([[1.0, 0.0]], dtype=F64)
    found = fo.tune_step_size(make_step, vertex, c, bounds=(0.1, 10.0))
    assert found.radius == 0
    assert 0.1 <= found.step_size <= 10
    assert fo.tune_step_size(make_step, vertex, c).radius == 0
    nothing = torch.zeros(0, 2, dtype=F64)
    assert fo.tune_step_size(make_step, nothing, nothing) == (1.0, 0.0, 0, 0)


@pytest.mark.parametrize("curvature", [0.0, -0.5])
@pytest.mark.parametrize("kind", ["gradient", "projected"])
def test_a_hessian_that_is_singular_or_indefinite_is_warned_of(kind: str, curvature: float) -> None:
    h = torch.tensor([curvature, 2.0], dtype=F64)

    def objective(x: Tensor, c: Tensor) -> Tensor:
        return 0.5 * (h * (x - c) ** 2).sum(-1)

    def make_step(alpha: float) -> fo.steps.Step:
        if kind == "gradient":
            return fo.steps.gradient(objective, alpha)
        return fo.steps.projected_gradient(objective, lambda y: 1.0 * y, alpha)

    c = torch.ones(1, 2, dtype=F64)
    says = r"ρ\(Φ\) is not below 1 for any α.*singular or indefinite.*regularise"
    with pytest.warns(fo.FoldWarning, match=says) as seen:
        found = fo.tune_step_size(make_step, c, c)
    assert seen[0].filename == __file__
    assert found.radius >= 1 - 1e-12
    assert 0 < found.step_size <= 1.01  # 2/μ_max is where the other mode would diverge, too
    with pytest.warns(fo.FoldWarning, match=r"any α in \(2.0, 3.0\)"):
        fo.tune_step_size(make_step, c, c, bounds=(2.0, 3.0))


def test_a_point_that_is_not_fixed_is_warned_of() -> None:
    problem = family("simplex", n=5)
    with pytest.warns(fo.FoldWarning, match="tune_step_size: the step moves x_star") as seen:
        fo.tune_step_size(problem.make_step, problem.x + 0.01, *problem.params)
    assert seen[0].filename == __file__


def test_steps_that_are_not_finite_for_some_alpha_are_avoided() -> None:
    c = torch.ones(1, 2, dtype=F64)

    def make_step(alpha: float) -> Any:
        bad = math.nan if alpha > 0.7 else 1.0
        return lambda x, c: x - alpha * bad * (x - c)

    found = fo.tune_step_size(make_step, c, c, bounds=(0.01, 5.0))
    assert found.step_size <= 0.7
    assert found.radius == pytest.approx(1 - found.step_size)
    below = diagonal(lambda alpha: math.nan if alpha < 0.3 else abs(1 - alpha))
    found = fo.tune_step_size(below, torch.zeros(1, 1, dtype=F64), bounds=(0.01, 5.0))
    assert found.step_size == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"bounds": 3.0}, TypeError, "bounds must be two numbers (low, high), got 3.0"),
        ({"bounds": (1.0,)}, TypeError, "bounds must be two numbers (low, high), got (1.0,)"),
        ({"bounds": (0.0, 1.0)}, ValueError, "bounds must be (low, high) with 0 < low < high"),
        ({"bounds": (2.0, 1.0)}, ValueError, "bounds must be (low, high) with 0 < low < high"),
        ({"bounds": (1.0, math.inf)}, ValueError, "bounds must be (low, high) with 0 < low"),
        ({"max_products": 0}, ValueError, "max_products must be an integer of 1 or more"),
        ({"rtol": -1.0}, ValueError, "rtol must be 0 or more"),
    ],
)
def test_options_of_another_kind(options: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        tune(family("gradient", n=2), **options)


def test_make_step_must_make_steps() -> None:
    x = torch.ones(3, 2)
    with pytest.raises(fo.FoldError, match="mixes samples"):
        fo.tune_step_size(lambda alpha: lambda x, c: x - alpha * x.mean(0) + 0 * c, x, x)
    c: Any = torch.ones(1, 2)
    with pytest.raises(TypeError, match=r"make_step must be callable, make_step\(α\), got Tensor"):
        fo.tune_step_size(c, c, c)
    with pytest.raises(TypeError, match="step must be callable"):
        fo.tune_step_size(lambda alpha: alpha, c, c)  # pyright: ignore[reportArgumentType]
