"""The multilabel study's layer: three derivatives of a smooth top-k selection."""

from __future__ import annotations

import math
import sys

import pytest
import torch

import foldopt as fo
from foldopt.experiments.convergence.top_k import TopK
from foldopt.experiments.multilabel import cvxpy_layer
from foldopt.experiments.multilabel.layer import (
    EXACT,
    FOLDED,
    Logits,
    exact,
    layer_of,
    pgd_step,
    scaled,
    sqp_step,
)
from foldopt.experiments.multilabel.measure import as_cross_entropy, random_logits
from foldopt.experiments.multilabel.training import log_loss

F64 = torch.float64
KINDS: tuple[Logits, ...] = ("normalised", "sharp", "raw")


def logits(kind: Logits, batch: int = 8, seed: int = 3) -> torch.Tensor:
    z = 3 * torch.randn(batch, 100, generator=torch.Generator().manual_seed(seed), dtype=F64)
    z[:, 7] += 12 if kind == "raw" else 60  # so that one bound is active where τ is small
    return scaled(z, kind)


def active(c: torch.Tensor) -> float:
    return float((TopK(5).solve(c) == 1).sum(-1).double().mean())


def test_the_kinds_of_logits() -> None:
    z = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    for found, length in ((scaled(z, "normalised"), 1.0), (scaled(z, "sharp"), 10.0)):
        assert torch.allclose(found.norm(dim=-1), torch.full((4,), length, dtype=F64))
    assert torch.equal(scaled(z, "raw"), z.double())
    with pytest.raises(ValueError, match="kind must be"):
        scaled(z, "other")  # pyright: ignore[reportArgumentType]


def test_the_cases_have_active_bounds_where_they_should() -> None:
    assert active(logits("normalised")) == 0
    assert active(logits("sharp")) >= 1
    assert active(logits("raw")) >= 1


def test_no_normalised_logits_reach_the_bound() -> None:
    """With k = 5 and n = 100 the largest x is that of one logit as large as can be."""
    z = torch.full((1, 100), -1.0, dtype=F64)
    z[0, 0] = 99.0
    largest = float(exact(5)(scaled(z, "normalised")).max())
    assert 0.13 < largest < 0.14
    many = torch.randn(500, 100, dtype=F64, generator=torch.Generator().manual_seed(1))
    assert float(exact(5)(scaled(many, "normalised")).max()) < largest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [EXACT, *FOLDED])
def test_the_derivative_against_finite_differences(method: str, kind: Logits) -> None:
    c, step = logits(kind, batch=3), 1e-6
    g = torch.randn(c.shape, dtype=F64, generator=torch.Generator().manual_seed(5))
    leaf = c.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer_of(method, 5)(leaf), leaf, g)
    for entry in (0, 7, 41):
        move = torch.zeros_like(c)
        move[:, entry] = step
        ahead, behind = TopK(5).solve(c + move), TopK(5).solve(c - move)
        slope = ((ahead - behind) * g).sum(-1) / (2 * step)
        assert torch.allclose(gradient[:, entry], slope, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", FOLDED)
def test_the_general_folds_agree(method: str, kind: Logits) -> None:
    """f_pgd_a and f_sqp for any program: quadratic programs, multipliers and all."""
    c = logits(kind, batch=2)[:, :30].contiguous()
    program = (
        lambda x, c: (x * x.log() - c * x).sum(),
        lambda x, c: [x - 1, -x],
        lambda x, c: x.sum() - 5,
    )
    solve = TopK(5).solve
    general = (
        fo.nn.f_pgd_a(*program, solver=solve, step_size=0.025)
        if method == "f-PGDa"
        else fo.nn.f_sqp(*program, solver=solve)
    )
    g = torch.randn(c.shape, dtype=F64, generator=torch.Generator().manual_seed(6))
    leaf = c.clone().requires_grad_()
    (expected,) = torch.autograd.grad(general(leaf), leaf, g)
    (gradient,) = torch.autograd.grad(layer_of(method, 5)(leaf), leaf, g)
    assert torch.allclose(gradient, expected, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sqp_step_solves_its_quadratic_program(kind: Logits) -> None:
    """At any point: y is feasible, and no feasible point lies in a direction of descent."""
    random = torch.Generator().manual_seed(8)
    c = logits(kind)
    x = torch.rand(c.shape, dtype=F64, generator=random) + 1e-3
    x = 5 * x / x.sum(-1, keepdim=True)
    y = sqp_step(5)(x, c)
    assert torch.allclose(y.sum(-1), torch.full((8,), 5.0, dtype=F64))
    assert float(y.min()) >= 0
    assert float(y.max()) <= 1
    slope = (y - x) / x + x.log() + 1 - c
    # The least of slopeᵀ y' over all feasible y' takes the five smallest entries.
    least = slope.topk(5, largest=False).values.sum(-1)
    assert torch.allclose((slope * y).sum(-1), least, atol=1e-8, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_sqp_converges_quadratically_and_its_derivative_vanishes(kind: Logits) -> None:
    c = logits(kind)
    x = TopK(5).solve(c)
    near = x * (1 + 1e-3 * torch.randn(x.shape, dtype=F64, generator=torch.Generator()))
    ahead = sqp_step(5)(near, c)
    assert float(((ahead - x) / x).abs().max()) < 1e-4
    assert float(((sqp_step(5)(ahead, c) - x) / x).abs().max()) < 1e-7
    assert float(fo.spectral_radius(sqp_step(5), x, c).radius.max()) < 1e-12


@pytest.mark.parametrize("alpha", [0.02, 0.05])
def test_the_radius_of_projected_gradient_is_the_reduced_hessians(alpha: float) -> None:
    c = logits("sharp", batch=1)
    x = TopK(5).solve(c)
    expected = (1 - alpha * TopK(5).curvature(x[0])).abs().max()
    found = fo.spectral_radius(pgd_step(5, alpha), x, c).radius[0]
    assert torch.allclose(found, expected, rtol=1e-6)


def test_an_active_label_has_no_gradient() -> None:
    c = logits("raw", batch=2).requires_grad_()
    for method in (EXACT, *FOLDED):
        loss = log_loss(layer_of(method, 5)(c), torch.tensor([7, 7]))
        assert float(loss.detach().abs().max()) == 0
        (gradient,) = torch.autograd.grad(loss.sum(), c)
        assert float(gradient.abs().max()) == 0


def test_the_loss_is_cross_entropy_exactly_where_no_bound_is_active() -> None:
    c, label = random_logits("normalised", 32, seed=1)
    assert max(as_cross_entropy(c, label, 5).values()) < 1e-13
    c, label = random_logits("raw", 32, seed=1)
    assert active(c) > 0
    assert as_cross_entropy(c, label, 5)["loss"] > 0.1
    # What takes its place: ν is that of the free entries.
    x = TopK(5).solve(c)
    nu = (c - x.log()).masked_fill(x == 1, math.nan).nanmean(-1)
    free = x.gather(-1, label[:, None])[:, 0] < 1
    loss = log_loss(x, label)
    assert torch.allclose(loss[free], (nu - c.gather(-1, label[:, None])[:, 0])[free])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="has a module of its own"):
        layer_of("cvxpylayers", 5)


# -- cvxpylayers ------------------------------------------------------------------------------


def test_without_cvxpylayers_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffcp", None)
    assert "diffcp cannot be imported" in str(cvxpy_layer.missing())
    with pytest.raises(ImportError, match="pip install cvxpylayers"):
        cvxpy_layer.CvxpyTopK(100, 5)


# cvxpylayers 1.2 asks numpy 2 for arrays in numpy 1's way.
OLD = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@OLD
@pytest.mark.parametrize("kind", KINDS)
def test_cvxpylayers_has_the_common_value_and_nearly_the_same_derivative(kind: Logits) -> None:
    if (lacking := cvxpy_layer.missing()) is not None:
        pytest.skip(lacking)
    c = logits(kind, batch=3)
    layer = cvxpy_layer.CvxpyTopK(100, 5)
    leaf = c.clone().requires_grad_()
    x = layer(leaf)
    assert torch.equal(x.detach(), TopK(5).solve(c))
    assert 0 < layer.distance < 1e-3
    g = torch.randn(c.shape, dtype=F64, generator=torch.Generator().manual_seed(6))
    (gradient,) = torch.autograd.grad(x, leaf, g)
    (expected,) = torch.autograd.grad(exact(5)(leaf), leaf, g)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-2
    assert layer(c).requires_grad is False


def test_a_batch_that_its_solver_gives_up_on_has_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (lacking := cvxpy_layer.missing()) is not None:
        pytest.skip(lacking)
    layer = cvxpy_layer.CvxpyTopK(100, 5)

    def give_up(c: torch.Tensor) -> torch.Tensor:
        raise layer._gave_up("numerical trouble")

    monkeypatch.setattr(layer, "solve", give_up)
    c = logits("raw", batch=2).requires_grad_()
    x = layer(c)
    assert torch.equal(x.detach(), TopK(5).solve(c.detach()))
    x.sum().backward()
    assert c.grad is not None
    assert float(c.grad.abs().max()) == 0
    assert layer.failed == 1
