"""The rate of a curve: known curves, floors, transients; and what a trace refuses."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import foldopt as fo
from foldopt.diagnose import Curve, Trace
from tests.systems import F64

EPS = torch.finfo(F64).eps


def curve(error: Tensor) -> Curve:
    return Curve(torch.arange(len(error)), error, EPS)


def steps(count: int) -> Tensor:
    return torch.arange(count, dtype=F64)


@given(rate=st.floats(0.02, 2.5), power=st.sampled_from([0, 1, 2]))
@settings(max_examples=50, deadline=None)
def test_powers_are_fitted_exactly(rate: float, power: int) -> None:
    k = steps(max(30, math.ceil(25 / rate)))
    error = k.clamp_min(1) ** power * torch.exp(-rate * k)
    assert curve(error).fitted_rate(power) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("floor", [0.0, 1e-14, 1e-9])
@pytest.mark.parametrize("plateau", [0.4, 2.0])
def test_the_floor_does_not_count(rate: float, floor: float, plateau: float) -> None:
    fall = -math.log(max(floor, 1e-16)) / rate
    k = steps(math.ceil((1 + plateau) * fall))
    noise = floor * (1 + 0.5 * torch.sin(k * k))
    assert curve(torch.exp(-rate * k) + noise).fitted_rate() == pytest.approx(rate, rel=0.02)


@given(second=st.floats(0.5, 0.97), share=st.floats(0, 5), rate=st.floats(0.05, 0.7))
@settings(max_examples=50, deadline=None)
def test_another_eigenvalue_nearby(second: float, share: float, rate: float) -> None:
    k = steps(math.ceil(32 / rate))
    error = torch.exp(-rate * k) * (1 + share * second**k) / (1 + share)
    late = share * second ** (0.8 * len(k))  # what is left of it where it is fitted
    assert curve(error).fitted_rate() == pytest.approx(rate, rel=0.02 + 0.1 * late)


@given(angle=st.floats(0.2, 3.0), phase=st.floats(0, 3.0), rate=st.floats(0.03, 0.3))
@settings(max_examples=50, deadline=None)
def test_oscillation(angle: float, phase: float, rate: float) -> None:
    """A complex pair, seen through several components, as an L1 norm sees it."""
    k = steps(math.ceil(32 / rate))
    waves = [torch.cos(angle * k + phase + shift).abs() for shift in (0.0, 0.9, 2.0)]
    error = torch.exp(-rate * k) * torch.stack(waves).sum(0)
    assert curve(error).fitted_rate() == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize(
    ("rate", "second", "share"),
    [(0.2, 0.8, 1e5), (0.2, 0.9, 1e3), (0.05, 0.95, 1e5), (0.05, 0.99, 10.0)],
)
def test_another_eigenvalue_that_dominates_for_long(
    rate: float, second: float, share: float
) -> None:
    """A line through the last two thirds would be off by 4 to 30 %."""
    k = steps(math.ceil(32 / rate))
    error = torch.exp(-rate * k) * (1 + share * second**k) / (1 + share)
    assert curve(error).fitted_rate() == pytest.approx(rate, rel=0.05 if share > 10 else 0.02)


def test_growth_and_immediate_convergence() -> None:
    assert curve(torch.exp(0.3 * steps(20))).fitted_rate() == pytest.approx(-0.3)
    assert curve(torch.tensor([1.0, 0, 0, 0, 0, 0])).fitted_rate() == math.inf
    assert curve(torch.tensor([1.0, 1e-15, 3e-16, 2e-16])).fitted_rate() == math.inf


def test_curves_that_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match=r"3 point\(s\) lie above.*fit needs 4.*raise iterations"):
        curve(torch.tensor([1.0, 0.5, 0.25])).fitted_rate()
    with pytest.raises(ValueError, match="no finite point"):
        curve(torch.tensor([math.nan, math.nan])).fitted_rate()


def test_first_below() -> None:
    falling = Curve(torch.tensor([0, 2, 4, 6]), torch.tensor([1.0, 1e-3, 1e-2, 1e-4]), EPS)
    assert falling.first_below(0.5) == 2
    assert falling.first_below(5e-3) == 6  # it rises again in between
    assert falling.first_below(1e-5) is None
    assert falling.first_below(2.0) == 0


def trace(**options: Any) -> Trace:
    c = torch.ones(1, 2, dtype=F64)
    given = {"iterations": 12, **options}
    return fo.backward_trace(lambda x, c: 0.5 * x + c, 2 * c, c, **given)


def test_a_trace_is_plain_data() -> None:
    found = trace(every=3)
    data = json.loads(json.dumps(found.as_dict()))
    assert data["start"] == "fixed_point"
    assert data["iterations"] == [0, 3, 6, 9, 12]
    assert data["backward"] == found.backward.error.tolist()
    assert data["forward"] == [0.0] * 5
    assert data["adjoints"]["LFPI"]["spent"] == [0, 3, 6, 9, 12]
    assert set(data["adjoints"]) == {"LFPI", "GMRES", "BiCGSTAB"}


def test_rates_by_name() -> None:
    found = trace(start=torch.zeros(1, 2, dtype=F64), iterations=40)
    assert found.fitted_rate("forward") == pytest.approx(math.log(2), rel=1e-4)
    assert found.fitted_rate("LFPI") == pytest.approx(math.log(2), rel=1e-4)
    assert found.fitted_rate("backward", power=0) == pytest.approx(math.log(2), rel=1e-4)
    with pytest.raises(KeyError, match="no curve 'CG' in this trace; there are forward, backward"):
        found.fitted_rate("CG")


X = torch.full((1, 2), 2.0, dtype=F64)
C = torch.ones(1, 2, dtype=F64)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"iterations": -1}, ValueError, "iterations must be an integer of 0 or more, got -1"),
        ({"products": 1.5}, ValueError, "products must be an integer of 0 or more, got 1.5"),
        ({"every": 0}, ValueError, "every must be an integer of 1 or more, got 0"),
        ({"start": "zero"}, ValueError, "start must be 'fixed_point', 'random' or a point like x"),
        ({"start": C[0]}, ValueError, "start must have the structure and shapes of x, (1, 2)"),
        ({"cotangent": (C, C)}, ValueError, "cotangent must have the structure and shapes of x"),
        ({"cotangent": C, "loss": torch.sum}, ValueError, "give loss or cotangent, not both"),
        ({"loss": 3}, TypeError, "loss must be callable, loss(x) -> tensor, got int"),
        (
            {"loss": lambda x: x.detach().sum()},
            ValueError,
            "loss: it does not depend on x as far as autograd can see",
        ),
        ({"adjoints": [fo.Dense()]}, TypeError, "adjoints must be iterative solvers"),
    ],
)
def test_arguments_of_another_kind(options: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        trace(**options)


def test_problems_that_have_no_trace() -> None:
    with pytest.raises(fo.FoldError, match="there is nothing that an error could be relative to"):
        fo.backward_trace(lambda x, c: 0.5 * x + 1 + 0 * c, X, C)
    with pytest.raises(fo.FoldError, match=r"backward_trace: the reference: .* I − Φ is singular"):
        fo.backward_trace(lambda x, c: x + 0 * c, X, C)
    with pytest.raises(fo.FoldError, match="mixes samples"):
        fo.backward_trace(lambda x, c: x - x.mean(0) + c, torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="x_star is empty"):
        fo.backward_trace(lambda x, c: 0.5 * x + c, X[:0], C[:0])
    with pytest.warns(fo.FoldWarning, match=r"the step moves x_star by up to .* 1.1e-01"):
        fo.backward_trace(lambda x, c: 0.5 * x + c, 1.5 * C, C, iterations=1)
    with pytest.raises(fo.FoldError, match="call it outside"):
        torch.func.vmap(lambda c: fo.backward_trace(lambda x, c: 0.5 * x + c, X, c).forward)(C)


def test_inference_mode() -> None:
    with torch.inference_mode():
        found = fo.backward_trace(lambda x, c: 0.5 * x + c, X + 0, C + 0, iterations=12)
    assert found.fitted_rate() == pytest.approx(math.log(2), rel=1e-3)
