"""The portfolio layer: values, derivatives, scales, shapes, transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foldopt as fo
from foldopt import Status, solvers
from foldopt.nn._portfolio import forward
from foldopt.nn.portfolio import Form, Portfolio, PortfolioSolution

F64 = torch.float64
FORMS: tuple[Form, ...] = ("risk-bound", "mean-variance")


def market(
    B: int, n: int, form: Form = "risk-bound", seed: int = 0, scale: float = 1e-4
) -> list[Tensor]:
    """Returns, covariances of size ``scale``, and a risk that binds with several assets held."""
    g = torch.Generator().manual_seed(seed)
    L = torch.randn(B, n, n, generator=g, dtype=F64)
    V = scale * (L @ L.mT / n + 0.3 * torch.eye(n, dtype=F64))
    c = 0.05 + 0.02 * torch.randn(B, n, generator=g, dtype=F64)
    level = V.mean((-2, -1)) * 2 if form == "risk-bound" else 0.02 / V.mean((-2, -1)) / n
    return [c, V, level]


def wanting(data: list[Tensor]) -> list[Tensor]:
    return [block.clone().requires_grad_() for block in data]


def all_of(layer: Portfolio) -> Callable[..., tuple[Tensor, ...]]:
    """The layer as a function that returns everything with a gradient."""

    def solve(*data: Tensor) -> tuple[Tensor, ...]:
        found = layer(*data)
        assert isinstance(found, PortfolioSolution)
        return tuple(part for part in found[:4] if part is not None)

    return solve


def kkt_gap(data: list[Tensor], found: PortfolioSolution, form: Form) -> float:
    """The largest violation of an optimality condition, in units of the data."""
    c, V, level = data
    x, lam, nu, zeta, _ = found
    Vx = (V @ x.unsqueeze(-1)).squeeze(-1)
    weight = 2 * lam if lam is not None else level
    size = (c.amax(-1) - c.amin(-1)).unsqueeze(-1)
    size = torch.where(size > 0, size, 1)
    force = -c + weight.unsqueeze(-1) * Vx + nu.unsqueeze(-1) - zeta
    gaps = [force / size, x.sum(-1) - 1, x.clamp_max(0), (zeta / size).clamp_max(0)]
    gaps.append(torch.minimum(x.abs(), (zeta / size).abs()))
    if lam is not None:
        slack = 1 - (x * Vx).sum(-1) / level
        gaps += [slack.clamp_max(0), lam.clamp_max(0)]
        gaps.append(torch.minimum(slack.abs(), (lam * level / size.squeeze(-1)).abs()))
    return max(float(gap.abs().max()) for gap in gaps)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("B", "n"), [(64, 2), (64, 5), (32, 20), (4, 100)])
@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1e6])
def test_solutions_are_exact_at_any_scale(
    form: Form, B: int, n: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a definite covariance needs no other engine")

    monkeypatch.setattr(forward, "_ask", never)
    data = market(B, n, form, scale=scale)
    found = Portfolio(form=form, multipliers=True)(*data)
    assert isinstance(found, PortfolioSolution)
    assert found.status.eq(0).all()
    assert kkt_gap(data, found, form) < 1e-12


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 12),
    rank=st.integers(0, 12),
    level=st.floats(-1, 3),
    size=st.floats(-7, 7),
    whole=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_hard_and_easy_programs(
    form: Form, n: int, rank: int, level: float, size: float, whole: bool, seed: int
) -> None:
    """Optimal to rounding, or proved to have no solution; equal returns and singular V too."""
    g = torch.Generator().manual_seed(seed)
    L = torch.randn(3, n, rank, generator=g, dtype=F64)
    V = 10**size * (L @ L.mT) / max(1, rank)
    c = torch.randn(3, n, generator=g, dtype=F64)
    c = c.round() if whole else c
    one = torch.ones(1, dtype=F64)
    least = solvers.QP()(V, 0 * c, None, None, one.expand(1, n), one, 0.0, None).x
    least = ((V @ least.unsqueeze(-1)).squeeze(-1) * least).sum(-1)
    unit = 10**size if form == "risk-bound" else 10**-size
    risk = unit * torch.full((3,), 10.0**level, dtype=F64)
    found = Portfolio(form=form, multipliers=True, on_failure="mask")(c, V, risk)
    assert isinstance(found, PortfolioSolution)
    feasible = (least < risk * (1 - 1e-6)) if form == "risk-bound" else risk > 0
    good = found.status == Status.CONVERGED
    assert (good | ~feasible).all()
    if form == "risk-bound":
        impossible = least > risk * (1 + 1e-6)
        assert (found.status[impossible] == Status.INFEASIBLE).all()
    if bool(good.any()):
        lam = None if found.risk is None else found.risk[good]
        rest = (found.budget[good], found.bounds[good], found.status[good])
        some = PortfolioSolution(found.x[good], lam, *rest)
        assert kkt_gap([c[good], V[good], risk[good]], some, form) < 1e-8


def test_the_digits_of_a_portfolio() -> None:
    """Against Newton's method in fifty digits, on the support that was found."""
    c, V, gamma = market(1, 8, seed=3)
    data = wanting([c, V, gamma])
    x = Portfolio()(*data)
    assert isinstance(x, Tensor)
    w = torch.linspace(-1, 1, 8, dtype=F64)
    by_c, by_gamma = torch.autograd.grad((x * w).sum(), (data[0], data[2]))
    mpmath.mp.dps = 50
    held = torch.nonzero(x[0] > 0).flatten().tolist()
    k = len(held)
    assert 2 < k < 8
    W = mpmath.matrix([[mpmath.mpf(float(V[0, i, j])) for j in held] for i in held])
    cost = mpmath.matrix([mpmath.mpf(float(c[0, i])) for i in held])
    y = mpmath.matrix([mpmath.mpf(float(x[0, i].detach())) for i in held])
    level, lam, nu = mpmath.mpf(float(gamma)), mpmath.mpf(1), mpmath.mpf(0)

    def system() -> tuple[Any, Any]:
        K, F = mpmath.zeros(k + 2, k + 2), mpmath.zeros(k + 2, 1)
        Wy = W * y
        for i in range(k):
            F[i] = -cost[i] + 2 * lam * Wy[i] + nu
            F[k] += y[i] * Wy[i]
            F[k + 1] += y[i]
            K[i, k] = K[k, i] = 2 * Wy[i]
            K[i, k + 1] = K[k + 1, i] = 1
            for j in range(k):
                K[i, j] = 2 * lam * W[i, j]
        F[k] -= level
        F[k + 1] -= 1
        return K, F

    lam = mpmath.mpf(100)
    for _ in range(12):
        K, F = system()
        d = mpmath.lu_solve(K, -F)
        y, lam, nu = y + d[:k], lam + d[k], nu + d[k + 1]
    exact = torch.zeros(8, dtype=F64)
    exact[held] = torch.tensor([float(v) for v in y], dtype=F64)
    torch.testing.assert_close(x[0].detach(), exact, rtol=0, atol=1e-15)
    right = mpmath.matrix([mpmath.mpf(float(w[i])) for i in held] + [0, 0])
    v = mpmath.lu_solve(system()[0], right)
    gradient = torch.zeros(8, dtype=F64)
    gradient[held] = torch.tensor([float(v[i]) for i in range(k)], dtype=F64)
    torch.testing.assert_close(by_c[0], gradient, rtol=1e-12, atol=1e-12 * float(by_c.abs().max()))
    torch.testing.assert_close(float(by_gamma), float(v[k]), rtol=1e-12, atol=0)


def test_units_change_nothing() -> None:
    c, V, gamma = market(4, 6)
    plain, other = wanting([c, V, gamma]), wanting([1e3 * c - 7, 1e9 * V, 1e9 * gamma])
    layer = Portfolio(multipliers=True)
    a, b = layer(*plain), layer(*other)
    torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(1e3 * a.risk, 1e9 * b.risk, rtol=1e-11, atol=0)
    torch.testing.assert_close(1e3 * a.budget - 7, b.budget, rtol=1e-11, atol=1e-12)
    w = torch.randn(4, 6, dtype=F64, generator=torch.Generator().manual_seed(1))
    one = torch.autograd.grad((a.x * w).sum(), plain)
    two = torch.autograd.grad((b.x * w).sum(), other)
    for mine, theirs, unit in zip(one, two, (1e3, 1e9, 1e9), strict=True):
        size = float(mine.abs().max())
        torch.testing.assert_close(mine, unit * theirs, rtol=1e-10, atol=1e-10 * size)


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
