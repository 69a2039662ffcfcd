"""The report on a step: each measurement against what is known, each warning with its remedy."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import foldopt as fo
from foldopt.diagnose import Report, diagnose
from foldopt.diagnose import _health as health
from foldopt.diagnose._arnoldi import dominant
from tests.descent import BUILD, family
from tests.problems import contraction, network_step, newton_root
from tests.systems import F64, random_phi, step_jacobian, symmetric


def linear(phi: Tensor) -> Report:
    """The report on U(x, c) = Φx + c."""
    n = phi.shape[-1]
    c = torch.randn(phi.shape[:-1], dtype=phi.dtype)
    eye = torch.eye(n, dtype=phi.dtype)
    x = torch.linalg.lstsq(eye - phi, c.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)
    return diagnose(lambda x, c: (phi @ x.unsqueeze(-1)).squeeze(-1) + c, x, c)


def warned(found: Report, *words: str) -> bool:
    """Whether one warning holds all of these words."""
    return any(all(word in text for word in words) for text in found.warnings)


# -- a step that is well -----------------------------------------------------------------------


def test_a_sound_step_has_no_warnings() -> None:
    problem = family("simplex", samples=3, n=6)
    step = problem.make_step(0.05)
    found = diagnose(step, problem.x, *problem.params)
    assert found.warnings == ()
    assert (found.samples, found.n, found.dtype) == (3, 6, F64)
    assert found.name == "projected_gradient"
    assert found.residual.shape == (3,)
    assert float(found.residual.max()) < 1e-12
    wanted = fo.spectral_radius(step, problem.x, *problem.params)
    torch.testing.assert_close(found.spectral.radius, wanted.radius)
    phi = torch.autograd.functional.jacobian(
        lambda x: step(x, *problem.params).sum(0), problem.x
    ).movedim(0, 1)
    least = torch.linalg.svdvals(torch.eye(6, dtype=F64) - phi)[:, -1]
    torch.testing.assert_close(found.singular_value, least)
    assert not found.declared_symmetric
    assert float(found.symmetry_defect.max()) > 1e-3
    assert not bool(found.kinks.any())
    assert (found.captured, found.unused) == ((), ())
    assert (found.solver, found.products) == ("Dense()", 6)


def test_symmetry_is_measured_and_compared_with_what_the_step_says() -> None:
    problem = family("gradient", n=20)
    found = diagnose(problem.make_step(0.05), problem.x, *problem.params)
    assert found.declared_symmetric
    assert float(found.symmetry_defect.max()) < 1e-13
    assert found.warnings == ()
    step = problem.make_step(0.05)
    silent = diagnose(lambda *args: step(*args), problem.x, *problem.params)
    assert warned(silent, "seems to be symmetric", "symmetric=True")
    lying = fo.steps.Step(BUILD["simplex"](0.05).update, symmetric=True)
    other = family("simplex", n=20)
    assert warned(diagnose(lying, other.x, *other.params), "declared symmetric", "symmetric=False")


def test_a_newton_step_needs_one_product() -> None:
    c = torch.rand(2, 100, dtype=F64) + 1
    found = diagnose(newton_root, c.sqrt(), c)
    assert (found.solver, found.products) == ("Auto()", 1)
    assert float(found.spectral.radius.max()) < 1e-12


@pytest.mark.parametrize(
    ("phi", "solver"),
    [
        (random_phi(1, 10, 0.9), "Dense()"),
        (random_phi(1, 60, 0.9), "Dense()"),
        (random_phi(1, 200, 0.3), "LFPI()"),
        (random_phi(1, 200, 0.99), "Dense()"),
    ],
)
def test_the_recommended_solver_is_the_one_that_auto_takes(phi: Tensor, solver: str) -> None:
    found = linear(phi)
    assert found.solver == solver
    c = torch.randn(phi.shape[:-1], dtype=F64, requires_grad=True)
    x = torch.linalg.solve(torch.eye(len(phi[0]), dtype=F64) - phi, c.detach().unsqueeze(-1))
    with fo.record() as seen:
        y = fo.fold(lambda x, c: (phi @ x.unsqueeze(-1)).squeeze(-1) + c, x.squeeze(-1), c)
        y.sum().backward()
    assert solver.removesuffix("()") in seen[1].method


def test_cg_and_large_problems() -> None:
    jacobian = step_jacobian(symmetric(1, 200, -0.2, 0.3))
    solver, products, why = health.recommend(jacobian, 0.3, 0.7, True)
    assert (solver, "symmetric" in why) == ("CG()", True)
    assert products < 200 / 8
    large = step_jacobian(0.5 * torch.eye(1100, dtype=F64).unsqueeze(0))
    assert health.recommend(large, 0.999, 0.5, True)[0] == "CG()"
    solver, products, why = health.recommend(large, 0.999, 0.5, False)
    assert (solver, products) == ("GMRES()", 1100)
    assert "too large to write out" in why


# -- the least singular value ----------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.5, 0.95, 2.0])
def test_bidiagonalisation_bounds_the_least_singular_value(
    radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    phi = random_phi(3, 30, radius)
    exact = torch.linalg.svdvals(torch.eye(30, dtype=F64) - phi)[:, -1]
    dense, how = health.least_singular_value(step_jacobian(phi))
    assert "written out" in how
    torch.testing.assert_close(dense, exact)
    monkeypatch.setattr(health, "_DENSE_UP_TO", 10)
    bound, how = health.least_singular_value(step_jacobian(phi))
    assert "upper bound" in how
    assert bool((bound >= exact * (1 - 1e-9)).all())
    assert bool((bound <= 1.2 * exact).all())


@pytest.mark.parametrize("values", [[0.5] * 30, [0.5] * 15 + [0.9] * 15, [0.0] * 30])
def test_few_different_eigenvalues(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The Krylov space ends early; what comes after is no singular value of 0."""
    monkeypatch.setattr(health, "_DENSE_UP_TO", 10)
    phi = torch.diag(torch.tensor(values, dtype=F64)).expand(2, 30, 30)
    bound, _ = health.least_singular_value(step_jacobian(phi))
    torch.testing.assert_close(bound, torch.full((2,), 1 - max(values), dtype=F64))


def test_a_singular_system_is_named_and_both_ways_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    phi = symmetric(2, 12, 0.1, 1.0)
    found = linear(phi)
    assert warned(found, "Singular", "Dense(least_squares=True)")
    assert found.solver == "Dense(least_squares=True)"
    monkeypatch.setattr(health, "_DENSE_UP_TO", 10)
    bound, _ = health.least_singular_value(step_jacobian(phi))
    assert float(bound.max()) < 1e-14
    nearly = linear(symmetric(1, 12, 0.1, 1 - 1e-10))
    assert warned(nearly, "Nearly singular", "enlarged by about 1e+10")


def test_a_step_that_is_not_twice_differentiable_has_no_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 0.5 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 0.5 * g

    half: Any = Half.apply
    monkeypatch.setattr(health, "_DENSE_UP_TO", 1)
    c = torch.ones(1, 3, dtype=F64)
    found = diagnose(lambda x, c: half(x) + c, 2 * c, c)
    assert bool(found.singular_value.isnan().all())
    assert "not measured" in found.singular_value_method


# -- kinks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_weakly_active_constraints_are_seen(dtype: torch.dtype) -> None:
    step = fo.steps.projected_gradient(
        lambda x, c: 0.5 * ((x - c) ** 2).sum(-1), fo.projections.nonnegative, 0.7
    )
    c = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.5, -1.0]], dtype=dtype)
    found = diagnose(step, c.clamp_min(0), c)
    assert found.kinks.tolist() == [True, False]
    assert warned(found, "A kink at 1 of 2 samples", "Perturb the params, or smooth")
    weak = torch.tensor([[0.5, 0.5, -0.0]], dtype=dtype)  # x₃ = 0 with multiplier 0
    simplex = fo.steps.projected_gradient(
        lambda x, c: 0.5 * ((x - c) ** 2).sum(-1), fo.projections.simplex, 0.7
    )
    assert diagnose(simplex, weak, weak).kinks.tolist() == [True]


def test_curvature_is_no_kink() -> None:
    step = network_step(contraction(6, 0.7))
    c, w = torch.randn(4, 3, dtype=F64), torch.randn(3, 6, dtype=F64)
    x = fo.fixed_point(step, torch.zeros(4, 6, dtype=F64), c, w)
    assert diagnose(step, x, c, w).kinks.tolist() == [False] * 4


# -- a step that is not well -----------------------------------------------------------------------


def test_a_point_that_is_not_fixed_is_reported_and_not_refused() -> None:
    c = torch.ones(2, 3, dtype=F64)
    far = diagnose(lambda x, c: 0.5 * x + c, 3 * c, c)
    assert warned(far, "Not a fixed point", "Tighten the solver")
    near = diagnose(lambda x, c: 0.5 * x + c, 2.001 * c, c)
    assert warned(near, "Not quite a fixed point")
    lenient = fo.Certify(error_above=1.0, warn_above=1.0)
    assert diagnose(lambda x, c: 0.5 * x + c, 3 * c, c, certify=lenient).warnings == ()


def test_what_is_not_finite_is_reported() -> None:
    zero = torch.zeros(2, 3, dtype=F64)
    found = diagnose(lambda x, c: torch.log(x) + c, zero, zero)
    assert warned(found, "Not finite", "log, sqrt")
    assert "unknown" in str(found)


def test_diverging_captured_unused_and_mixing() -> None:
    c = torch.ones(2, 3, dtype=F64)
    w = torch.ones(3, dtype=F64, requires_grad=True)
    found = diagnose(lambda x, c, d: 2 * x - c + 0 * w, c, c, torch.ones(4))
    assert warned(found, "ρ(Φ) = 2 ≥ 1", "GMRES()", "tune_step_size")
    assert found.captured == ((3,),)
    assert warned(found, "Captured tensors", "Pass them as params")
    assert found.unused == ("param 1",)
    assert warned(found, "param 1 is not used by the step")
    assert "diverges" in str(found)
    mixing = diagnose(lambda x, c: 0.5 * x - 0.1 * x.mean(0) + c, c / 0.6, c)
    assert warned(mixing, "The step mixes samples", "batch_dims")


def test_an_estimate_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "foldopt.diagnose.reports.dominant_of", lambda jacobian, *_: dominant(jacobian, 1e-10, 30)
    )
    found = linear(symmetric(1, 100, -0.999, 0.9985))
    assert warned(found, "ρ(Φ) is an estimate", "max_products")


# -- how it reads ----------------------------------------------------------------------------------


def test_text_and_rich_say_the_same() -> None:
    found = linear(random_phi(2, 5, 1.5))
    text = str(found)
    labels = [label for label, _ in found.rows()]
    assert all(label in text for label in labels)
    assert text.count("\n! ") == len(found.warnings) >= 1
    assert "no warnings" in str(linear(random_phi(2, 5, 0.5)))
    page = io.StringIO()
    Console(file=page, width=300).print(found)
    for label, value in found.rows():
        assert label in page.getvalue()
        assert value in page.getvalue()
    for warning in found.warnings:
        assert warning[:60] in page.getvalue()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_to_examine(shape: tuple[int, ...]) -> None:
    zero = torch.zeros(shape)
    found = diagnose(lambda x, c: 0.5 * x + c, zero, zero)
    assert found.warnings == ()
    assert math.isinf(float(found.singular_value.min())) if shape[0] else True
    assert "samples" in str(found) or "sample(s)" in str(found)


def test_batch_dims_and_modules() -> None:
    module = torch.nn.Linear(3, 3).double()

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return 0.2 * self.inner(x) + c

    zero = torch.zeros(2, 2, 3, dtype=F64)
    x = fo.fixed_point(Step(), zero, zero, batch_dims=2)
    found = diagnose(Step(), x, zero, batch_dims=2)
    assert found.residual.shape == found.kinks.shape == (2, 2)
    assert (found.name, found.captured, found.warnings) == ("Step", (), ())


def test_shapes_that_do_not_fit_are_refused() -> None:
    c = torch.ones(2, 3)
    with pytest.raises(fo.FoldError, match="the step must return what it was given"):
        diagnose(lambda x, c: x[:, :1], c, c)
    with pytest.raises(TypeError, match="step must be callable"):
        diagnose(3, c, c)  # pyright: ignore[reportArgumentType]
