"""The portfolio layer on what has no solution, no derivative or no meaning, and what it says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, Status
from foldopt.nn._portfolio import interior_points
from foldopt.nn.portfolio import Form, Portfolio
from foldopt.operators import PrimalDual
from foldopt.status import Solution

F64 = torch.float64
FORMS: tuple[Form, ...] = ("risk-bound", "mean-variance")
I3 = 1e-4 * torch.eye(3, dtype=F64)
RETURNS = torch.tensor([0.03, 0.02, 0.01], dtype=F64)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


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


TROUBLE = {
    "too little": (Status.INFEASIBLE, RETURNS, I3, 0.3e-4, "can have is 1.11111 times the risk"),
    "no interior": (Status.FAILED, RETURNS, I3, 1e-4 / 3, "risk is the least that a portfolio"),
    "no risk": (Status.INFEASIBLE, RETURNS, I3, 0.0, "not above 0"),
    "negative risk": (Status.INFEASIBLE, RETURNS, I3, -1e-4, "not above 0"),
    "not convex": (Status.FAILED, RETURNS, -I3, 1e-4, "not positive semidefinite"),
    "equal returns": (Status.INFEASIBLE, 0 * RETURNS, I3, 0.3e-4, "can have is 1.11111 times"),
    "nan returns": (Status.NONFINITE, math.nan * RETURNS, I3, 1e-4, "returns of sample 1 holds"),
    "nan covariance": (Status.NONFINITE, RETURNS, math.nan * I3, 1e-4, "covariance of sample 1"),
    "nan risk": (Status.NONFINITE, RETURNS, I3, math.nan, "risk of sample 1 holds NaN"),
    "inf risk": (Status.NONFINITE, RETURNS, I3, math.inf, "risk of sample 1 holds NaN or inf"),
}


def pair(kind: str) -> list[Tensor]:
    """A sound sample and a bad one."""
    _, c, V, gamma, _ = TROUBLE[kind]
    sound = (RETURNS, I3, tensor(0.5e-4)[0])
    bad = (c, V, tensor(gamma)[0])
    return [torch.stack(blocks).requires_grad_() for blocks in zip(sound, bad, strict=True)]


@pytest.mark.parametrize("kind", TROUBLE)
def test_one_bad_sample_of_two(kind: str) -> None:
    status, says = TROUBLE[kind][0], TROUBLE[kind][-1]
    data = pair(kind)
    with fo.record() as seen:
        found = Portfolio(multipliers=True, on_failure="mask")(*data)
    assert found.status.tolist() == [0, int(status)]
    assert says in seen[0].messages[1]
    assert found.x[1].isnan().all()
    assert found.risk is not None
    (found.x[0] * RETURNS).sum().backward()
    alone = [block.detach()[0].requires_grad_() for block in data]
    x = Portfolio()(*alone)
    torch.testing.assert_close(found.x[0], x, rtol=0, atol=1e-14)
    (x * RETURNS).sum().backward()
    for both, one in zip(data, alone, strict=True):
        assert both.grad is not None
        assert one.grad is not None
        torch.testing.assert_close(both.grad[0], one.grad, rtol=1e-10, atol=1e-12)
        assert both.grad[1].eq(0).all()


@pytest.mark.parametrize("kind", [kind for kind in TROUBLE if kind[:3] not in ("nan", "inf")])
def test_a_bad_sample_is_an_error(kind: str) -> None:
    status, says = TROUBLE[kind][0], TROUBLE[kind][-1]
    with pytest.raises(FoldError, match=f"1 {status.name} .first: sample 1 of 2.") as caught:
        Portfolio()(*pair(kind))
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", ["nan returns", "nan covariance", "nan risk", "inf risk"])
def test_what_is_no_number_is_an_error(kind: str) -> None:
    with pytest.raises(ValueError, match=TROUBLE[kind][-1]):
        Portfolio()(*pair(kind))


def test_an_engine_that_errs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(c: Tensor, V: Tensor, gamma: Tensor) -> Solution:
        worst = torch.zeros_like(c)
        worst[:, 2] = 1.0
        state = PrimalDual(worst, torch.ones(1, 4, dtype=F64), torch.ones(1, 1, dtype=F64))
        return Solution(state, torch.zeros(1, dtype=torch.int64))

    monkeypatch.setattr(interior_points, "solve", wrong)
    with pytest.raises(FoldError, match=r"1 INACCURATE.*conditions were not met to working"):
        Portfolio()(tensor(0.03, 0.03, 0.01), I3, 0.45e-4)


def test_a_warning_leaves_the_rest_running() -> None:
    data = [block.detach() for block in pair("too little")]
    with pytest.warns(fo.FoldWarning, match="1 INFEASIBLE .first: sample 1 of 2."):
        x = Portfolio(on_failure="warn")(*data)
    assert x[0].isfinite().all()
    assert x[1].isnan().all()


def test_shared_nan_leaves_no_sample() -> None:
    with pytest.raises(ValueError, match="covariance holds NaN or inf"):
        Portfolio(on_failure="mask")(RETURNS.expand(2, 3), math.nan * I3, 1e-4)


def test_an_aversion_below_zero_is_not_convex() -> None:
    with pytest.raises(FoldError, match="risk, here the aversion to it, is below 0"):
        Portfolio(form="mean-variance")(RETURNS, I3, -1.0)
    x = Portfolio(form="mean-variance")(RETURNS, I3, 0.0)
    assert x.tolist() == [1.0, 0.0, 0.0]


def test_all_but_the_least_risk() -> None:
    # So near to it the multiplier is large and the derivative is larger still, and both are right.
    gamma = torch.tensor((1 + 1e-6) / 3 * 1e-4, dtype=F64, requires_grad=True)
    found = Portfolio(multipliers=True)(RETURNS, I3, gamma)
    # x = 1/3 + a(1, 0, −1), 2a² = 1e-6/3.
    a = math.sqrt(1e-6 / 6)
    torch.testing.assert_close(found.x.detach(), 1 / 3 + a * tensor(1, 0, -1), rtol=0, atol=1e-11)
    (slope,) = torch.autograd.grad(found.x[0], gamma)
    assert float(slope) == pytest.approx(1e4 / (4 * a), rel=1e-6)


# -- wrong arguments -------------------------------------------------------------------------------

C, V = torch.ones(3), torch.eye(3)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([1.0], V, 1.0), TypeError, "returns must be a tensor of float32 or float64, got list"),
        ((torch.ones(3, dtype=torch.int64), V, 1.0), TypeError, r"got torch\.int64"),
        ((torch.tensor(1.0), V, 1.0), ValueError, r"returns must have shape \(\*batch, n\).*\(\)"),
        ((C, [[1.0]], 1.0), TypeError, "covariance must be a tensor, got list"),
        ((C, V, None), TypeError, "risk must be a tensor or a number, got NoneType"),
        ((C, torch.eye(2), 1.0), ValueError, r"covariance must have shape \(3, 3\).*\(2, 2\)"),
        ((C, V.double(), 1.0), TypeError, r"covariance is torch\.float64 on cpu, returns is"),
        (
            (torch.ones(2, 3), V.expand(4, 3, 3), 1.0),
            ValueError,
            "batch shapes differ: returns has .2,., covariance .4,.",
        ),
    ],
)
def test_wrong_data(arguments: tuple, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Portfolio()(*arguments)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="form must be 'risk-bound' or 'mean-variance', got 'x'"):
        Portfolio(form="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_failure must be one of"):
        Portfolio(on_failure="ignore")  # type: ignore[arg-type]
    layer = Portfolio(form="mean-variance", multipliers=True)
    assert repr(layer) == "Portfolio(form='mean-variance', multipliers=True)"
