"""The study on real prices: its data see no future, and its layer is right."""

from __future__ import annotations

import itertools
import math

import numpy as np
import piqp
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.experiments.market import LAGS, Market, load_sp500, observe, split
from foldopt.experiments.markowitz import mean_variance
from foldopt.experiments.markowitz.mean_variance import MeanVariance, portfolio_layer, solve
from foldopt.learning import mean_regret, regret
from tests.prices import invented_prices

F64 = torch.float64
GAMMA = 0.05
OBJECTIVE = MeanVariance(GAMMA)
DECIDE = portfolio_layer(OBJECTIVE)


@pytest.fixture(scope="module")
def small() -> Market:
    return observe(*invented_prices(330, 4))


@pytest.fixture(scope="module")
def real() -> Market:
    return observe(*load_sp500())


# --- the data


def test_what_is_known_of_a_decision_by_hand() -> None:
    days, prices, assets = invented_prices(300, 3)
    market = observe(days, prices, assets, holding=5, window=60)
    assert len(market) == 9  # closes 250, 255, …, 290: the next, 295, would need day 300
    for number, close in enumerate(range(250, 295, 5)):
        daily = 100 * (prices[close - 59 : close + 1] / prices[close - 60 : close] - 1)
        assert market.days[number] == days[close]
        np.testing.assert_allclose(market.covariance[number], 5 * np.cov(daily.T), rtol=1e-12)
        np.testing.assert_allclose(market.trailing_mean[number], 5 * daily.mean(0), rtol=1e-12)
        for position, lag in enumerate(LAGS):
            past = 100 * (prices[close] - prices[close - lag]) / prices[close - lag]
            expected = past / daily.std(0, ddof=1) / math.sqrt(lag)
            np.testing.assert_allclose(market.features[number, :, position], expected, rtol=1e-12)
        held = 100 * (prices[close + 5] - prices[close]) / prices[close]
        np.testing.assert_allclose(market.realised[number], held, rtol=1e-12)


def test_the_future_is_not_known() -> None:
    days, prices, assets = invented_prices(400)
    before = observe(days, prices, assets)
    known = ("features", "covariance", "trailing_mean")
    for number in range(0, len(before) - 1, 7):
        close = int(np.flatnonzero(days == before.days[number])[0])
        other = prices.copy()
        other[close + 1 :] *= np.random.default_rng(1).uniform(0.5, 2, other[close + 1 :].shape)
        after = observe(days, other, assets)
        for name in known:
            was, is_now = getattr(before, name), getattr(after, name)
            assert torch.equal(was[: number + 1], is_now[: number + 1])
            assert not torch.equal(was[number + 1 :], is_now[number + 1 :])
        assert torch.equal(before.realised[:number], after.realised[:number])
        assert not torch.equal(before.realised[number], after.realised[number])


def test_the_split_is_in_time_and_complete(small: Market) -> None:
    parts = split(small)
    together = np.concatenate([part.days for part in parts])
    np.testing.assert_array_equal(together, small.days)
    for earlier, later in itertools.pairwise(parts):
        # What the earlier part earned was over before the later part decided.
        assert earlier.days[-1] + np.timedelta64(5, "D") <= later.days[0]
    for part in parts:
        assert torch.equal(
            part.features, small.features[torch.from_numpy(np.isin(small.days, part.days))]
        )


def test_data_that_do_not_fit_are_refused(small: Market) -> None:
    days, prices, assets = invented_prices(300)
    with pytest.raises(ValueError, match="one column an asset"):
        observe(days, prices[:, :3], assets)
    with pytest.raises(ValueError, match="every price must be above 0"):
        observe(days, np.where(prices == prices[7, 2], np.nan, prices), assets)
    with pytest.raises(ValueError, match="window above the number of assets"):
        observe(days, prices, assets, window=4)
    with pytest.raises(ValueError, match="leave no decision"):
        observe(days[:255], prices[:255], assets)
    with pytest.raises(ValueError, match="none may be empty"):
        split(small.between(0, 2))


def test_the_prices_that_skfolio_ships(real: Market) -> None:
    days, prices, assets = load_sp500()
    assert prices.shape == (8313, 20)
    assert (str(days[0]), str(days[-1])) == ("1990-01-02", "2022-12-28")
    assert np.all(np.diff(days) > np.timedelta64(0, "D"))
    assert len(assets) == len(set(assets)) == 20
    assert len(real) == 1612


# --- the layer


def by_active_set(c: np.ndarray, v: np.ndarray, gamma: float = GAMMA) -> tuple[np.ndarray, Tensor]:
    """x* and ∂x*/∂c from the KKT system, by trying every set of assets held."""
    n = len(c)
    for size in range(1, n + 1):
        for held in itertools.combinations(range(n), size):
            inside = list(held)
            kkt = np.zeros((size + 1, size + 1))
            kkt[:size, :size] = gamma * v[np.ix_(inside, inside)]
            kkt[:size, size] = kkt[size, :size] = 1
            inverse = np.linalg.inv(kkt)
            solution = inverse @ np.append(c[inside], 1)
            x = np.zeros(n)
            x[inside] = solution[:size]
            multiplier = gamma * v @ x - c + solution[size]
            if (x >= 0).all() and (np.delete(multiplier, inside) >= 0).all():
                jacobian = np.zeros((n, n))
                jacobian[np.ix_(inside, inside)] = inverse[:size, :size]
                return x, torch.from_numpy(jacobian)
    raise AssertionError("a strictly convex problem on a simplex has a solution")


def covariances(samples: int, n: int) -> Tensor:
    root = torch.randn(samples, n, 2 * n, dtype=F64)
    return 10 * root @ root.mT / (2 * n)


def test_the_layer_against_the_active_set() -> None:
    c, v = torch.randn(12, 5, dtype=F64), covariances(12, 5)
    c.requires_grad_()
    x = DECIDE(c, v)
    rows = [torch.autograd.grad(x[:, i].sum(), c, retain_graph=True)[0] for i in range(5)]
    jacobian = torch.stack(rows, 1)
    kinds = set()
    for sample in range(12):
        expected, derivative = by_active_set(c[sample].detach().numpy(), v[sample].numpy())
        kinds.add(int((expected > 0).sum()))
        np.testing.assert_allclose(x[sample].detach(), expected, atol=1e-7)
        np.testing.assert_allclose(jacobian[sample], derivative, atol=1e-9)
    assert len(kinds) > 1  # several sizes of active sets were seen


def test_the_layer_against_finite_differences_on_real_data(real: Market) -> None:
    index = torch.arange(0, 1600, 200)
    c = (0.2 * torch.randn(8, 20, dtype=F64)).requires_grad_()
    v = real.covariance[index].clone().requires_grad_()
    g = torch.randn(8, 20, dtype=F64)
    (DECIDE(c, v) * g).sum().backward()
    toward_c = torch.randn(8, 20, dtype=F64)
    skew = torch.randn(8, 20, 20, dtype=F64)
    assert c.grad is not None
    assert v.grad is not None
    for direction_c, direction_v in (
        (toward_c, torch.zeros_like(skew)),
        (torch.zeros_like(toward_c), skew + skew.mT),
    ):
        h = 1e-5
        ends = [
            solve(
                (c + s * h * direction_c).detach().numpy(),
                (v + s * h * direction_v).detach().numpy(),
                GAMMA,
            ).x
            for s in (1, -1)
        ]
        expected = (torch.from_numpy(ends[0] - ends[1]) * g).sum(-1) / (2 * h)
        found = (c.grad * direction_c).sum(-1) + (v.grad * direction_v).sum((-2, -1))
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_stock_that_is_not_held_has_no_gradient() -> None:
    c = torch.tensor([[1.0, 1.2, -50.0]], dtype=F64, requires_grad=True)
    x = DECIDE(c, 10 * torch.eye(3, dtype=F64).unsqueeze(0))
    (x * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert c.grad is not None
    assert x[0, 2].item() == pytest.approx(0, abs=1e-9)
    assert c.grad[0, 2] == 0
    assert c.grad[0, :2].abs().min() > 0.1


def test_the_certificate_is_silent_on_every_real_day(real: Market) -> None:
    with fo.record() as seen:
        for c in (real.realised, real.trailing_mean, torch.zeros_like(real.realised)):
            DECIDE(c, real.covariance)  # a FoldWarning would be an error here
    assert max(float(event.residual.max()) for event in seen) < 1e-6


def test_regret_of_real_decisions(real: Market) -> None:
    known = (real.realised, real.covariance)
    best = DECIDE(*known)
    assert mean_regret(OBJECTIVE, best, best, *known) == 0
    for x in (DECIDE(real.trailing_mean, real.covariance), torch.full_like(best, 0.05)):
        assert regret(OBJECTIVE, x, best, *known).min() > -1e-8


def test_a_day_that_cannot_be_solved() -> None:
    c, v = torch.randn(3, 4, dtype=F64), covariances(3, 4)
    spoiled = c.clone()
    spoiled[1, 2] = torch.nan
    with pytest.raises(fo.FoldError, match=r"1 MAX_ITERATIONS.*sample 1 of 3") as caught:
        DECIDE(spoiled.requires_grad_(), v)
    assert caught.value.status is not None
    assert caught.value.status.tolist() == [0, 1, 0]

    gradients = []
    for given in (c, spoiled.detach()):
        given = given.clone().requires_grad_()
        x = portfolio_layer(OBJECTIVE, on_failure="mask")(given, v)
        x[:, 0].sum().backward()
        assert given.grad is not None
        gradients.append(given.grad)
    whole, masked = gradients
    assert masked[1].eq(0).all()
    assert torch.equal(masked[[0, 2]], whole[[0, 2]])


def test_statuses_have_the_names_that_piqp_gives() -> None:
    assert set(mean_variance._STATUS) <= set(dir(piqp.Status))


def test_the_solver_stopped_early_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mean_variance._TOLERANCE, "max_iter", 2)
    with pytest.raises(fo.FoldError, match="MAX_ITERATIONS"):
        DECIDE(torch.randn(2, 4, dtype=F64), covariances(2, 4))


def test_risk_aversion_must_be_positive() -> None:
    with pytest.raises(ValueError, match="risk_aversion must be above 0"):
        MeanVariance(0.0)
