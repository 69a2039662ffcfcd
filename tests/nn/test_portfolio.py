"""The portfolio layer: values, digits and scales."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foldopt import Status, solvers
from foldopt.nn._portfolio import forward
from foldopt.nn.portfolio import Form, Portfolio, PortfolioSolution
from tests.portfolios import F64, FORMS, market, wanting


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
