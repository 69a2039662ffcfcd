"""The portfolio layer on what has no solution or no meaning, and what it says of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, Status
from foldopt.nn._portfolio import interior_points
from foldopt.nn.portfolio import Portfolio
from foldopt.operators import PrimalDual
from foldopt.status import Solution
from tests.portfolios import F64, I3, RETURNS, tensor

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
        ((C, V.to_sparse(), 1.0), TypeError, r"covariance must be dense, got torch\.sparse_coo"),
        ((torch.ones(2, 3).to_sparse(), V, 1.0), TypeError, "returns must be dense"),
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


def test_no_samples_with_a_covariance_of_no_number() -> None:
    x = Portfolio(form="risk-bound", on_failure="mask")(
        torch.ones(0, 3), torch.full((3, 3), torch.nan), 1.0
    )
    assert x.shape == (0, 3)
