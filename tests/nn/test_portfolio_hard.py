"""The portfolio layer on hard inputs: ties, risks that only just bind, covariances of low rank."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foldopt as fo
from foldopt import FoldError
from foldopt.nn.portfolio import Form, Portfolio
from tests.portfolios import F64, FORMS, I3, RETURNS, tensor


def test_an_asset_that_is_safe_enough_takes_all() -> None:
    gamma = torch.tensor(2e-4, dtype=F64, requires_grad=True)
    c = RETURNS.clone().requires_grad_()
    with fo.record() as seen:
        found = Portfolio(multipliers=True)(c, I3, gamma)
    assert found.x.tolist() == [1.0, 0.0, 0.0]
    assert float(found.risk.detach()) == 0.0
    torch.testing.assert_close(found.budget.detach(), tensor(0.03)[0])
    torch.testing.assert_close(found.bounds.detach(), tensor(0.0, 0.01, 0.02))
    assert not seen[0].messages
    by_c, by_gamma = torch.autograd.grad(found.x[0] + found.x[2], (c, gamma))
    assert by_c.eq(0).all()
    assert float(by_gamma) == 0.0
    again = Portfolio(multipliers=True)(c, I3, gamma)
    (of_bounds,) = torch.autograd.grad(again.bounds[2], c)
    torch.testing.assert_close(of_bounds, tensor(1.0, 0.0, -1.0))


def test_a_risk_that_only_just_binds() -> None:
    c = RETURNS.clone().requires_grad_()
    with fo.record() as seen:
        found = Portfolio(multipliers=True)(c, I3, 1e-4)
    torch.testing.assert_close(found.x.detach(), tensor(1.0, 0.0, 0.0), rtol=0, atol=1e-12)
    assert "only just active" in seen[0].messages[0]
    (gradient,) = torch.autograd.grad(found.x[0], c)
    assert gradient.abs().max() < 1e-9


def test_an_asset_that_only_just_enters() -> None:
    # δ = 100: x = (½ + c₁ − c₂ over 2δV, …) if the third is out, which it is to no purpose at
    # c₃ = ν: c₁ = .03, c₂ = .02 give x = (1, 0, 0) with ζ₂ = 0.
    c = torch.stack([RETURNS, RETURNS + tensor(0, 0.002, 0)]).requires_grad_()
    with fo.record() as seen:
        x = Portfolio(form="mean-variance")(c, I3, 100.0)
    torch.testing.assert_close(x[0].detach(), tensor(1.0, 0.0, 0.0), rtol=0, atol=1e-12)
    assert "only just active" in seen[0].messages[0]
    assert seen[0].messages[1] == ""
    (gradient,) = torch.autograd.grad(x[:, 0].sum(), c)
    torch.testing.assert_close(gradient[1], tensor(50.0, -50.0, 0.0))
    # The derivative of one of the two sides.
    assert any(
        torch.allclose(gradient[0], side, rtol=1e-9, atol=1e-9)
        for side in (tensor(0.0, 0.0, 0.0), tensor(50.0, -50.0, 0.0))
    )


def test_two_equal_returns() -> None:
    # By symmetry the best two are held alike; that has a derivative, as the risk tells them apart.
    c = tensor(0.03, 0.03, 0.01).requires_grad_()
    x = Portfolio()(c, I3, 0.45e-4)
    assert float(x[0].detach()) == pytest.approx(float(x[1].detach()), abs=1e-12)
    a = float(x[0].detach())
    assert 2 * a * a + (1 - 2 * a) ** 2 == pytest.approx(0.45, abs=1e-12)
    (gradient,) = torch.autograd.grad(x[0], c)

    def solve(step: float) -> Tensor:
        with torch.no_grad():
            return Portfolio()(c + tensor(step, 0, 0), I3, 0.45e-4)[0]

    assert float(gradient[0]) == pytest.approx(float(solve(1e-7) - solve(-1e-7)) / 2e-7, rel=1e-5)


def test_all_returns_equal() -> None:
    V = torch.diag(tensor(1e-4, 2e-4, 4e-4))
    x = Portfolio(form="mean-variance")(torch.full((3,), 0.02, dtype=F64), V, 3.0)
    torch.testing.assert_close(x, tensor(4.0, 2.0, 1.0) / 7, rtol=0, atol=1e-12)


def test_what_is_not_unique_has_no_derivative() -> None:
    c = tensor(0.03, 0.03, 0.01).requires_grad_()
    with fo.record() as seen:
        x = Portfolio()(c, I3, 0.9e-4)
    assert float(x.detach()[:2].sum()) == pytest.approx(1.0, abs=1e-8)
    assert "not unique" in seen[0].messages[0]
    with pytest.raises(FoldError, match="BREAKDOWN"):
        torch.autograd.grad(x[0], c)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_asset_twice(form: Form) -> None:
    L = tensor(1.0, 1.0, 0.2)
    V = 1e-4 * (torch.outer(L, L) + torch.diag(tensor(0.0, 0.0, 1.0)))
    c = tensor(0.03, 0.03, 0.02).requires_grad_()
    level = 0.7e-4 if form == "risk-bound" else 130.0
    with fo.record() as seen:
        x = Portfolio(form=form)(c, V, level)
    assert "not unique" in seen[0].messages[0]
    # What matters is how much both have together: that of the two-asset problem.
    two = tensor(0.03, 0.02).requires_grad_()
    y = Portfolio(form=form)(two, V[1:, 1:], level)
    torch.testing.assert_close(x[:2].sum(), y[0], rtol=0, atol=1e-9)
    (mine,) = torch.autograd.grad(x[2], c, retain_graph=True)
    (theirs,) = torch.autograd.grad(y[1], two)
    torch.testing.assert_close(mine[2], theirs[1], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(mine[:2].sum(), theirs[0], rtol=1e-7, atol=1e-7)
    with pytest.raises(FoldError, match="BREAKDOWN"):
        torch.autograd.grad(x[0], c)


@pytest.mark.parametrize("form", FORMS)
def test_fewer_observations_than_assets(form: Form) -> None:
    """A sample covariance of rank 4 among 12 assets."""
    g = torch.Generator().manual_seed(0)
    L = 1e-2 * torch.randn(6, 12, 4, generator=g, dtype=F64)
    V, c = L @ L.mT, 0.02 * torch.randn(6, 12, generator=g, dtype=F64)
    level = 0.3 * V.mean((-2, -1)) + 1e-6 if form == "risk-bound" else 500 + 0 * c[:, 0]
    layer = Portfolio(form=form)
    data = [block.requires_grad_() for block in (c, V, level)]
    assert torch.linalg.matrix_rank(V[0]) == 4
    w = torch.randn(6, 12, generator=g, dtype=F64)
    (by_c,) = torch.autograd.grad((layer(*data) * w).sum(), c)
    step = 1e-7
    direction = torch.randn(6, 12, generator=g, dtype=F64)
    with torch.no_grad():
        ends = [layer(c + side * step * direction, V, level) for side in (1, -1)]
    wanted = ((ends[0] - ends[1]) * w).sum(-1) / (2 * step)
    torch.testing.assert_close((by_c * direction).sum(-1), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 8),
    rank=st.integers(1, 10),
    level=st.floats(-1, 2),
    size=st.floats(-6, 6),
    whole=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_no_gradient_is_silently_wrong(
    form: Form, n: int, rank: int, level: float, size: float, whole: bool, seed: int
) -> None:
    """Along a random line through c, V and the risk, unless the record says that there is none."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=F64)

    unit = 10.0**size
    L, c, risk = draw(n, rank) / rank**0.5, draw(n), tensor(10.0**level)[0]
    c = (2 * c).round() / 2 if whole else c
    risk = risk * (unit if form == "risk-bound" else 1 / unit)
    w, to_c, to_L, to_risk = draw(n), draw(n), draw(n, rank), risk * draw()
    layer = Portfolio(form=form, on_failure="mask")

    def at(step: Tensor) -> Tensor:
        moved = L + step * to_L
        return (layer(c + step * to_c, unit * moved @ moved.mT, risk + step * to_risk) * w).sum()

    step = torch.zeros((), dtype=F64, requires_grad=True)
    with fo.record() as seen:
        (found,) = torch.autograd.grad(at(step), step)
    if any(event.status.any() or event.messages for event in seen):
        return
    with torch.no_grad():
        off = [
            abs(float(at(0 * step + h) - at(0 * step - h)) / (2 * h) - float(found))
            for h in (1e-5, 1e-6, 1e-7)
        ]
    assert min(off) < 1e-4 * (1 + abs(float(found)))


def test_fewer_observations_than_assets_in_single_precision() -> None:
    # Rounding makes some of the zero eigenvalues negative: that is no reason to refuse.
    g = torch.Generator().manual_seed(0)
    L = 1e-2 * torch.randn(20, 12, 4, generator=g)
    V, c = L @ L.mT, 0.02 * torch.randn(20, 12, generator=g)
    assert torch.linalg.eigvalsh(V.double()).amin() < 0
    risk = 0.3 * V.mean((-2, -1)) + 1e-6
    x = Portfolio()(c, V, risk)
    exact = Portfolio()(*(block.double() for block in (c, (L.double() @ L.double().mT), risk)))
    assert ((c * x).sum(-1) - (c * exact).sum(-1)).abs().max() < 1e-6


def test_all_but_the_least_risk() -> None:
    # So near to it the multiplier is large and the derivative is larger still, and both are right.
    gamma = torch.tensor((1 + 1e-6) / 3 * 1e-4, dtype=F64, requires_grad=True)
    found = Portfolio(multipliers=True)(RETURNS, I3, gamma)
    # x = 1/3 + a(1, 0, −1), 2a² = 1e-6/3.
    a = math.sqrt(1e-6 / 6)
    torch.testing.assert_close(found.x.detach(), 1 / 3 + a * tensor(1, 0, -1), rtol=0, atol=1e-11)
    (slope,) = torch.autograd.grad(found.x[0], gamma)
    assert float(slope) == pytest.approx(1e4 / (4 * a), rel=1e-6)
