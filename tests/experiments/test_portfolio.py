"""Eq. 20: its exact solver against Clarabel, its gradient against finite differences, its data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foldopt.experiments.portfolio.data import Instances, chronological, sp500, synthetic
from foldopt.experiments.portfolio.engines import ENGINES, engine_of
from foldopt.experiments.portfolio.layers import flat_step, folded_portfolio
from foldopt.nn._portfolio.interior_points import residual, solve
from foldopt.status import Status


def _factor(count: int, n: int, seed: int) -> Instances:
    """Programs of which some have an asset that is safe enough alone: the risk need not bind."""
    random = torch.Generator().manual_seed(seed)
    L = torch.randn(count, n, n, generator=random, dtype=torch.float64)
    V = 1e-7 * (L @ L.mT + torch.eye(n, dtype=torch.float64))
    c = torch.randn(count, n, generator=random, dtype=torch.float64)
    return Instances(c, c, V, 1.3 * V.mean((-2, -1)))


@pytest.mark.parametrize(
    "data",
    [
        synthetic(8, degree=1, noise=0.1, seed=1),
        synthetic(8, degree=16, noise=1.0, seed=2),
        _factor(24, 3, 3),
        _factor(8, 30, 4),
    ],
    ids=["tau 0.1", "tau 1", "three assets", "thirty assets"],
)
def test_exact_solver_agrees_with_clarabel_at_1e_10(data: Instances) -> None:
    pytest.importorskip("clarabel")
    args = (data.returns, data.covariance, data.risk)
    found = solve(*args)
    assert (found.status == Status.CONVERGED).all()
    assert residual(found.x, *args).max() < 1e-12
    by_clarabel = engine_of("clarabel")(*args)
    assert (found.x.x - by_clarabel.x).abs().max() < 1e-7
    value = (data.returns * (found.x.x - by_clarabel.x)).sum(-1)
    assert value.abs().max() < 1e-9


def test_some_of_those_programs_are_not_bound_by_their_risk() -> None:
    data = _factor(24, 3, 3)
    risk = solve(data.returns, data.covariance, data.risk).x.inequality[:, 0]
    assert (risk == 0).any()
    assert (risk > 0).any()


def test_two_assets_in_closed_form() -> None:
    # x² + (1 − x)² = γ has the larger root x = (1 + √(2γ − 1)) / 2.
    gamma = torch.tensor([0.52, 0.68, 0.9, 2.0], dtype=torch.float64)
    c = torch.tensor([2.0, 1.0], dtype=torch.float64).expand(4, 2)
    V = torch.eye(2, dtype=torch.float64).expand(4, 2, 2)
    wanted = ((1 + (2 * gamma - 1).sqrt()) / 2).clamp_max(1.0)
    assert torch.allclose(solve(c, V, gamma).x.x[:, 0], wanted, rtol=0, atol=1e-14)


def test_units_of_returns_and_of_risk_change_no_portfolio() -> None:
    data = synthetic(4, degree=2, noise=0.1)
    x = solve(data.returns, data.covariance, data.risk).x
    other = solve(1e3 * data.returns - 7, 1e6 * data.covariance, 1e6 * data.risk).x
    assert torch.allclose(x.x, other.x, rtol=0, atol=1e-12)
    assert torch.allclose(1e3 * x.inequality, other.inequality, rtol=1e-9, atol=1e-12)


def test_a_risk_that_no_portfolio_meets_is_no_solution() -> None:
    data = synthetic(3, degree=1, noise=1.0)
    least = 0.5 / torch.linalg.inv(data.covariance).sum((-2, -1))  # half of the least there is
    found = solve(data.returns, data.covariance, least)
    assert (found.status == Status.INACCURATE).all()
    assert (residual(found.x, data.returns, data.covariance, least) > 1e-3).all()


def test_wrong_shapes_and_numbers_are_refused() -> None:
    data = synthetic(3, degree=1, noise=1.0)
    with pytest.raises(ValueError, match=r"c must have shape \(B, n\).*\(3, 20\).*\(20, 20\)"):
        solve(data.returns, data.covariance[0], data.risk)
    with pytest.raises(ValueError, match="c holds NaN or inf"):
        solve(data.returns * math.nan, data.covariance, data.risk)


@pytest.mark.parametrize("method", ["sqp", "newton"])
def test_gradient_is_that_of_finite_differences(method) -> None:
    data = synthetic(3, degree=2, noise=0.1, assets=6, seed=5)
    layer = folded_portfolio(solve, method)
    c = data.returns.clone().requires_grad_()
    random = torch.Generator().manual_seed(0)
    g = torch.randn(c.shape, generator=random, dtype=c.dtype)
    (gradient,) = torch.autograd.grad(layer(c, data.covariance, data.risk), c, g)

    def value(c: Tensor) -> Tensor:
        return (g * solve(c, data.covariance, data.risk).x.x).sum(-1)

    wanted = _differences(value, data.returns, 1e-6)
    assert gradient.abs().max() > 1
    assert torch.allclose(gradient, wanted, rtol=1e-5, atol=1e-4)


def _differences(value: Callable[[Tensor], Tensor], c: Tensor, step: float) -> Tensor:
    columns = []
    for i in range(c.shape[-1]):
        e = torch.zeros_like(c)
        e[:, i] = step
        columns.append((value(c + e) - value(c - e)) / (2 * step))
    return torch.stack(columns, -1)


def test_where_the_risk_does_not_bind_the_portfolio_does_not_move() -> None:
    data = _factor(24, 3, 3)
    free = solve(data.returns, data.covariance, data.risk).x.inequality[:, 0] == 0
    c = data.returns.clone().requires_grad_()
    x = folded_portfolio(solve, "newton")(c, data.covariance, data.risk)
    g = torch.tensor([1.0, 2.0, 4.0], dtype=c.dtype).expand_as(x)
    (gradient,) = torch.autograd.grad(x, c, g)
    assert gradient[free].abs().max() < 1e-12
    assert gradient[~free].abs().amax(-1).min() >= 0
    assert gradient[~free].abs().max() > 1e-3


def test_flat_step_is_the_step_of_the_layer() -> None:
    data = synthetic(2, degree=1, noise=1.0, assets=4)
    known = (data.covariance, data.risk)
    state = solve(data.returns, *known).x
    step = flat_step(folded_portfolio(solve))
    z = torch.cat([*state], -1)
    assert torch.allclose(step(z, data.returns, *known), z, rtol=0, atol=1e-9)
    moved = step(z + 0.01, data.returns, *known)
    assert (moved - z).abs().max() > 1e-6


@pytest.mark.parametrize("name", list(ENGINES))
def test_engines_agree_with_the_exact_solver(name) -> None:
    package = ENGINES[name]
    if package is not None:
        pytest.importorskip(package)
    data = synthetic(3, degree=2, noise=0.1, assets=6)
    args = (data.returns, data.covariance, data.risk)
    found = engine_of(name, 1e6)(*args)
    x = found.x if isinstance(found.x, Tensor) else found.x.x
    assert (torch.as_tensor(found.status) == Status.CONVERGED).all()
    assert (x - solve(*args).x.x).abs().max() < 2e-4


def test_an_unknown_or_missing_engine_is_named(monkeypatch) -> None:
    with pytest.raises(ValueError, match="no engine 'cplex'"):
        engine_of("cplex")
    monkeypatch.setitem(ENGINES, "gurobi", "not_a_package")
    with pytest.raises(ImportError, match="pip install not_a_package"):
        engine_of("gurobi")


def test_synthetic_data_has_the_stated_moments() -> None:
    data = synthetic(40_000, degree=1, noise=1.0, assets=4, seed=3)
    V = data.covariance[0]
    assert torch.allclose(data.risk, torch.full_like(data.risk, float(2.25 * V.mean())))
    # Degree 1: r = 0.05 B a / √p + 0.1 + noise of covariance V, so that cov(r) − V is that of B a.
    B = torch.linalg.lstsq(data.features, data.returns - 0.1).solution.mT * math.sqrt(5) / 0.05
    assert (B - B.round()).abs().max() < 0.02
    assert set(B.round().unique().tolist()) <= {0.0, 1.0}
    noise = data.returns - 0.1 - 0.05 / math.sqrt(5) * data.features @ B.round().mT
    assert torch.allclose(noise.T.cov(), V, rtol=0, atol=4e-6)
    assert noise.mean(0).abs().max() < 3e-4


def test_degree_bends_the_mean_return() -> None:
    a, b = (synthetic(5, degree=d, noise=1e-9, seed=1) for d in (1, 4))
    inner = a.returns - 0.1  # 0.05 B a / √p
    assert torch.allclose(b.returns, (inner + 0.1**0.25) ** 4, rtol=0, atol=1e-9)


def test_risk_binds_everywhere_in_the_synthetic_data() -> None:
    for degree in (1, 16):
        data = synthetic(200, degree=degree, noise=0.1)
        multiplier = solve(data.returns, data.covariance, data.risk).x.inequality[:, 0]
        assert (multiplier > 0).all()
        # Why: no asset alone is safe enough.
        assert (data.covariance.diagonal(dim1=-2, dim2=-1) > data.risk[:, None]).all()


def test_wrong_data_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="degree must be at least 1, got 0"):
        synthetic(3, degree=0, noise=1.0)
    with pytest.raises(ValueError, match=r"noise and risk must be above 0, got 0\.0"):
        synthetic(3, degree=1, noise=0.0)
    with pytest.raises(ValueError, match="none may be empty"):
        chronological(synthetic(2, degree=1, noise=1.0))
    with pytest.raises(ValueError, match="risk must be above 0"):
        sp500(risk=0.0)


def test_parts_are_in_the_order_of_time() -> None:
    data = dataclasses.replace(synthetic(10, degree=1, noise=1.0), risk=torch.arange(10.0))
    parts = chronological(data)
    assert torch.cat([part.risk for part in parts]).tolist() == list(range(10))


def test_real_decisions_see_no_future() -> None:
    pytest.importorskip("skfolio")
    data = sp500(risk=1.0)
    assert data.returns.shape[1:] == (20,)
    assert len(data) > 1500
    equal = torch.full_like(data.returns, 1 / 20)
    risks = torch.einsum("bi,bij,bj->b", equal, data.covariance, equal)
    assert torch.allclose(risks, data.risk)
    # The features are lagged returns: the next one is nearly unrelated to each of them.
    week = data.features[:, :, 1].flatten()
    both = torch.stack([week, data.returns.flatten()])
    assert both.corrcoef()[0, 1].abs() < 0.1
