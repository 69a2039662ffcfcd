"""The total variation layer on wrong and hard inputs, and what it says of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, Status
from foldopt.nn._total_variation import dense
from foldopt.nn.total_variation import TotalVariation
from tests.closed_forms import F64
from tests.total_variation import FORMS, first_differences, layer, operator_of


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_finite_is_named_or_masked(form: str) -> None:
    D, d = operator_of(form), torch.randn(3, 6, dtype=F64)
    bad = d.clone()
    bad[1, 4] = torch.nan
    with pytest.raises(ValueError, match="signal of sample 1 holds nan"):
        layer(bad, 1.0, D)
    weight = torch.tensor([1.0, torch.inf, 1.0], dtype=F64)
    with pytest.raises(ValueError, match="weight of sample 1 holds inf"):
        layer(d, weight, D)
    masked = TotalVariation(on_failure="mask", multipliers=True)
    leaf = bad.requires_grad_()
    weight = torch.full((), 0.5, dtype=F64, requires_grad=True)
    with fo.record() as seen:
        x, _, status = masked(leaf, weight, D)
    assert status.tolist() == [0, int(Status.NONFINITE), 0]
    assert "holds nan" in seen[0].messages[1]
    assert x[1].isnan().all()
    x[[0, 2]].square().sum().backward()
    good = d[[0, 2]].requires_grad_()
    other = torch.full((), 0.5, dtype=F64, requires_grad=True)
    layer(good, other, D).square().sum().backward()
    assert leaf.grad is not None
    assert good.grad is not None
    assert (leaf.grad[1] == 0).all()
    torch.testing.assert_close(leaf.grad[[0, 2]], good.grad)
    torch.testing.assert_close(weight.grad, other.grad)


def test_an_operator_that_is_not_finite() -> None:
    D, d = first_differences(4), torch.randn(2, 4, dtype=F64)
    D[1, 1] = torch.inf
    for kind in (D, D.to_sparse()):
        with pytest.raises(ValueError, match="operator holds inf"):
            TotalVariation(on_failure="mask")(d, 1.0, kind)
    each = torch.stack([first_differences(4), D])
    x = TotalVariation(on_failure="mask")(d, 1.0, each)
    assert x[1].isnan().all()
    torch.testing.assert_close(x[0], layer(d[0], 1.0), rtol=0, atol=1e-13)


def test_what_is_not_solved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(d: Tensor, D: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(bound), torch.tensor([True, False])

    monkeypatch.setattr(dense, "solve_dual", half)
    d = torch.ones(2, 4, dtype=F64)
    with pytest.raises(FoldError, match=r"1 MAX_ITERATIONS \(first: sample 1 of 2"):
        layer(d, 1.0, first_differences(4))
    x = TotalVariation(on_failure="mask")(d, 1.0, first_differences(4))
    assert x[1].isnan().all()
    torch.testing.assert_close(x[0], d[0])


D = torch.ones(3, 4)
d = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([1.0], 1.0), TypeError, "signal must be a tensor of float32 or float64, got list"),
        ((torch.arange(3), 1.0), TypeError, "got torch.int64"),
        ((d.to_sparse(), 1.0), TypeError, "signal must be dense, got torch.sparse_coo"),
        (
            (d, torch.tensor(-1.0, requires_grad=True)),
            ValueError,
            "weight must be 0 or more, got -1",
        ),
        ((torch.tensor(1.0), 1.0), ValueError, r"signal must have shape .*dimensions=1; got \(\)"),
        ((d, "1"), TypeError, "weight must be a number or a tensor, got str"),
        ((d, -1.0), ValueError, "weight must be 0 or more, and finite; got -1.0"),
        ((d, float("nan")), ValueError, "weight must be 0 or more, and finite; got nan"),
        ((d, torch.tensor([1.0, -2.0])), ValueError, r"got -2.0 at \(1,\)\. A learned weight"),
        ((d, torch.tensor(-2.0)), ValueError, r"got -2.0\. A learned weight"),
        ((d, torch.ones(5)), ValueError, r"weight must have shape \(\), \(2,\), \(3,\) .*\(5,\)"),
        ((torch.ones(3, 4), torch.ones(3)), ValueError, r"fits both the batch and the rows"),
        ((d, torch.ones(2).double()), TypeError, "weight is torch.float64 on cpu, signal is"),
        ((d, 1.0, D.tolist()), TypeError, "operator must be a tensor or None, got list"),
        ((d, 1.0, D.double()), TypeError, "operator is torch.float64 on cpu, signal is"),
        ((d, 1.0, D.mT), ValueError, r"operator must have shape .* \(2, 4\); got \(4, 3\)"),
        ((d, 1.0, D.expand(5, 3, 4)), ValueError, r"got \(5, 3, 4\)"),
        ((d, 1.0, D.expand(2, 3, 4).to_sparse()), ValueError, r"a sparse operator must have shape"),
    ],
)
def test_bad_arguments(arguments: tuple, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        layer(*arguments)


def test_a_negative_weight_under_a_transform() -> None:
    with pytest.raises(ValueError, match="weight must be 0 or more, got -1"):
        torch.func.grad(lambda w: layer(d, w).sum())(torch.tensor(-1.0))


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta")
def test_a_layout_that_is_not_served() -> None:
    with pytest.raises(TypeError, match=r"operator is torch\.sparse_csc; give it dense"):
        layer(d, 1.0, D.to_sparse_csc())


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"dimensions": 3}, ValueError, "dimensions must be 1 or 2, got 3"),
        ({"dimensions": 2, "multipliers": True}, ValueError, "images have no unique multipliers"),
        ({"on_failure": "no"}, ValueError, "on_failure must be one of"),
        ({"certify": 1.0}, TypeError, "certify must be a Certify"),
    ],
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        TotalVariation(**settings)


def test_its_text_shows_what_is_not_usual() -> None:
    assert repr(layer) == "TotalVariation()"
    assert "on_failure='mask'" in repr(TotalVariation(on_failure="mask"))


def test_what_overflows_is_not_solved_and_says_so() -> None:
    d = torch.tensor([[1.5e300], [-2.9e299]], dtype=F64)
    with pytest.raises(FoldError):
        TotalVariation(dimensions=2)(d, 1e30)
