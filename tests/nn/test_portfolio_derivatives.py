"""The portfolio layer: derivatives, shapes, dtypes, transforms, and its place among programs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.nn.portfolio import Form, Portfolio, PortfolioSolution
from tests.portfolios import F64, FORMS, market, wanting


def all_of(layer: Portfolio) -> Callable[..., tuple[Tensor, ...]]:
    """The layer as a function that returns everything with a gradient."""

    def solve(*data: Tensor) -> tuple[Tensor, ...]:
        found = layer(*data)
        assert isinstance(found, PortfolioSolution)
        return tuple(part for part in found[:4] if part is not None)

    return solve


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_derivatives_of_x_and_multipliers_in_all_data(form: Form, n: int) -> None:
    # In units in which finite differences can be taken.
    c, V, level = market(2, n, form, seed=n, scale=1.0)
    c = 20 * c
    level = (V.amax((-2, -1)) * 1.1 if n == 1 else level) if form == "risk-bound" else 0 * level + 1
    solve = all_of(Portfolio(form=form, multipliers=True))
    assert torch.autograd.gradcheck(solve, wanting([c, V, level]), atol=1e-5, rtol=1e-4)
    assert torch.autograd.gradgradcheck(solve, wanting([c, V, level]), atol=1e-4, rtol=1e-3)


def test_shared_data_get_the_sum() -> None:
    c, V, gamma = market(3, 6)
    shared = wanting([c, V[0], gamma[0]])
    full = wanting([c, V[:1].expand(3, 6, 6), gamma[:1].expand(3)])
    w = torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(1))
    one = torch.autograd.grad((Portfolio()(*shared) * w).sum(), shared)
    all_ = torch.autograd.grad((Portfolio()(*full) * w).sum(), full)
    torch.testing.assert_close(one[0], all_[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(one[1], all_[1].sum(0), rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(one[2], all_[2].sum(0), rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_any_shape(form: Form) -> None:
    c, V, level = market(6, 4, form)
    layer = Portfolio(form=form, multipliers=True)
    flat = layer(c, V, level)
    boxed = layer(c.view(2, 3, 4), V.view(2, 3, 4, 4), level.view(2, 3))
    alone = layer(c[4], V[4], float(level[4]))
    for whole, box, one in zip(flat, boxed, alone, strict=True):
        if whole is None:
            assert box is None
            assert one is None
            continue
        assert box.shape == (2, 3, *whole.shape[1:])
        torch.testing.assert_close(box.reshape(whole.shape), whole)
        torch.testing.assert_close(one, whole[4], rtol=1e-10, atol=1e-14)
    only_risk = layer(c[0], V[0], level[:1].expand(5))
    assert only_risk.x.shape == (5, 4)
    torch.testing.assert_close(only_risk.x[3], flat.x[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_single_precision(form: Form) -> None:
    data = market(4, 6, form)
    small = wanting([block.float() for block in data])
    large = wanting([block.double() for block in small])
    w = torch.randn(4, 6, dtype=F64, generator=torch.Generator().manual_seed(1))
    x, y = Portfolio(form=form)(*small), Portfolio(form=form)(*large)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), y, rtol=0, atol=1e-4)
    mine = torch.autograd.grad((x * w.float()).sum(), small)
    theirs = torch.autograd.grad((y * w).sum(), large)
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == torch.float32
        size = float(b.abs().max())
        torch.testing.assert_close(a.double(), b, rtol=1e-2, atol=1e-2 * size)


@pytest.mark.parametrize("form", FORMS)
def test_transforms(form: Form) -> None:
    c, V, level = market(3, 4, form, scale=1.0)
    layer = Portfolio(form=form)

    def of_c(c: Tensor) -> Tensor:
        return layer(c, V, level)

    reverse = torch.func.jacrev(of_c)(c)
    size = float(reverse.abs().max())
    close = torch.testing.assert_close
    close(torch.func.jacfwd(of_c)(c), reverse, rtol=1e-9, atol=1e-10 * size)
    several = torch.stack([c, 1.5 * c, c.flip(0)])
    close(torch.func.vmap(of_c)(several)[2], of_c(c.flip(0)), rtol=0, atol=1e-14)
    gradient = torch.func.vmap(torch.func.grad(lambda c: of_c(c).square().sum()))(several)
    (expected,) = torch.autograd.grad(of_c(q := (1.5 * c).requires_grad_()).square().sum(), q)
    close(gradient[1], expected, rtol=1e-9, atol=1e-10 * size)
    # One sample at a time, all data mapped.
    rows = torch.func.vmap(torch.func.jacrev(lambda *d: layer(*d)))(c, V, level)
    for i in range(3):
        close(rows[i], reverse[i, :, i], rtol=1e-9, atol=1e-10 * size)


def test_the_symmetric_part_counts() -> None:
    c, V, gamma = market(2, 5)
    skew = 1e-5 * torch.randn(2, 5, 5, dtype=F64, generator=torch.Generator().manual_seed(1))
    crooked = (V + skew - skew.mT).requires_grad_()
    x = Portfolio()(c, crooked, gamma)
    torch.testing.assert_close(x, Portfolio()(c, V, gamma), rtol=0, atol=1e-13)
    (gradient,) = torch.autograd.grad(x[:, 0].sum(), crooked)
    torch.testing.assert_close(gradient, gradient.mT)


def test_mean_variance_is_a_quadratic_program() -> None:
    c, V, delta = wanting(market(4, 7, "mean-variance"))
    found = Portfolio(form="mean-variance", multipliers=True)(c, V, delta)
    one = torch.ones(1, dtype=F64)
    qp = fo.nn.QP(multipliers=True)(
        delta[:, None, None] * V, -c, A=one.expand(1, 7), b=one, lower=0.0
    )
    torch.testing.assert_close(found.x, qp.x, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.budget, qp.multipliers.equality[:, 0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.bounds, -qp.multipliers.bounds, rtol=1e-9, atol=1e-12)
    w = torch.randn(4, 7, dtype=F64, generator=torch.Generator().manual_seed(1))
    mine = torch.autograd.grad((found.x * w).sum(), (c, V, delta))
    theirs = torch.autograd.grad((qp.x * w).sum(), (c, V, delta))
    for a, b in zip(mine, theirs, strict=True):
        # Of all of V only the symmetric part counts, which qp's gradient has not been told.
        b = (b + b.mT) / 2 if b.dim() == 3 else b
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9 * float(b.abs().max()))


def test_the_two_forms_meet() -> None:
    # With δ = 2λ of the first form the second has the same portfolio.
    c, V, gamma = market(4, 9)
    first = Portfolio(multipliers=True)(c, V, gamma)
    second = Portfolio(form="mean-variance")(c, V, 2 * first.risk)
    torch.testing.assert_close(second, first.x, rtol=0, atol=1e-12)


def test_lambda_is_what_more_risk_returns() -> None:
    c, V, gamma = wanting(market(4, 9))
    found = Portfolio(multipliers=True)(c, V, gamma)
    (slope,) = torch.autograd.grad((c.detach() * found.x).sum(), gamma)
    torch.testing.assert_close(slope, found.risk.detach(), rtol=1e-10, atol=0)


def test_the_record_holds_both_passes() -> None:
    data = wanting(market(3, 6))
    with fo.record() as seen:
        Portfolio()(*data).sum().backward()
    assert [event.kind for event in seen] == ["forward", "adjoint"]
    assert seen[1].method == "KKT"
    assert all(float(event.residual.max()) < 1e-12 for event in seen)
    assert seen[0].messages == ()
