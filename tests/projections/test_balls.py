"""The balls of ‖·‖₁ and ‖·‖∞, and the norms that are their duals: linf, and l2 by groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from foldopt import prox
from foldopt.projections import l1_ball, linf_ball
from tests.closed_forms import (
    F64,
    Operator,
    differences,
    is_limit_of_jacobians,
    jacobian,
    leaf,
    points,
    sizes,
)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


# -- values --------------------------------------------------------------------------------------


@given(y=points(), r=sizes)
@settings(deadline=None)
def test_l1_ball_solves_the_variational_inequality(y: Tensor, r: float) -> None:
    """gᵀz ≤ gᵀx for g = y − x and every z in the ball, whose support function is r ‖g‖∞."""
    x, scale = l1_ball(y, r), 1 + float(y.abs().max()) + r
    gap = y - x
    assert x.abs().sum() <= r + 1e-14 * scale
    assert r * gap.abs().max() - gap @ x <= 1e-13 * scale**2


def bisect(y: Tensor, r: float) -> Tensor:
    """The projection on the ℓ₁ ball by bisection for the threshold."""
    low, high = 0.0, float(y.abs().max())
    for _ in range(200):
        tau = 0.5 * (low + high)
        too_much = (y.abs() - tau).clamp_min(0).sum() > r
        low, high = (tau, high) if too_much else (low, tau)
    return y.sign() * (y.abs() - high).clamp_min(0)


@given(y=points(), r=sizes)
@settings(deadline=None)
def test_l1_ball_agrees_with_bisection(y: Tensor, r: float) -> None:
    torch.testing.assert_close(l1_ball(y, r), bisect(y, r), rtol=0, atol=1e-13)


@given(y=points(), r=sizes)
@settings(deadline=None)
def test_linf_ball_is_the_nearest_number_in_each_coordinate(y: Tensor, r: float) -> None:
    assert linf_ball(y, r).tolist() == [max(-r, min(r, value)) for value in y.tolist()]


@given(y=points(), w=sizes)
@settings(deadline=None)
def test_linf_leaves_a_subgradient_of_the_norm(y: Tensor, w: float) -> None:
    """‖g‖₁ ≤ w and gᵀx = w ‖x‖∞, for g = y − x."""
    x, scale = prox.linf(y, w), 1 + float(y.abs().max()) + w
    gap = y - x
    assert gap.abs().sum() <= w + 1e-13 * scale
    assert w * x.abs().max() - gap @ x <= 1e-13 * scale**2


@given(y=points(), w=sizes)
@settings(deadline=None)
def test_groups_are_shrunk_as_vectors_of_their_own(y: Tensor, w: float) -> None:
    groups = torch.tensor([2, 0, 2, 1, 0, 2, 0])[: len(y)]
    weights = w * tensor(1.0, 0.5, 2.0)[: int(groups.max()) + 1]
    x = prox.group_l2(y, weights, groups)
    for group in range(len(weights)):
        members = groups == group
        if members.any():
            alone = prox.l2(y[members], float(weights[group]))
            torch.testing.assert_close(x[members], alone, rtol=1e-14, atol=1e-14)


def test_groups_with_a_weight_each_in_each_sample() -> None:
    y, groups = torch.randn(5, 4, dtype=F64), torch.tensor([0, 0, 1, 1], dtype=torch.int32)
    weight = torch.rand(5, 2, dtype=F64)
    x = prox.group_l2(y, weight, groups)
    torch.testing.assert_close(x[:, :2], prox.l2(y[:, :2], weight[:, 0]))
    torch.testing.assert_close(x[:, 2:], prox.l2(y[:, 2:], weight[:, 1]))
    each_sample = prox.group_l2(y, weight[:, :1], groups)
    torch.testing.assert_close(each_sample[:, 2:], prox.l2(y[:, 2:], weight[:, 0]))


def test_a_label_that_nothing_has_is_an_empty_group() -> None:
    y = tensor(3.0, 4.0)
    x = prox.group_l2(y, tensor(1.0, 9.0, 2.0), torch.tensor([0, 2]))
    torch.testing.assert_close(x, tensor(2.0, 2.0))


def test_labels_may_be_any_numbers() -> None:
    # A tensor with an entry for each group that might be would not fit into memory.
    groups = torch.tensor([7, 2**50, 7, 0])
    y, weight = torch.randn(3, 4, dtype=F64), torch.rand(3, 1, dtype=F64, requires_grad=True)
    x = prox.group_l2(y, weight, groups)
    torch.testing.assert_close(
        x, prox.group_l2(y, weight, torch.tensor([1, 2, 1, 0])), rtol=0, atol=0
    )
    assert torch.autograd.gradcheck(lambda w: prox.group_l2(y, w, groups), weight)
    each = torch.rand(9, dtype=F64)
    x = prox.group_l2(y, each, torch.tensor([8, 2, 8, 0]))
    expected = prox.group_l2(y, each[torch.tensor([0, 2, 8])], torch.tensor([2, 1, 2, 0]))
    torch.testing.assert_close(x, expected, rtol=0, atol=0)


@pytest.mark.parametrize("operator", [l1_ball, linf_ball, prox.linf])
def test_no_entries_and_one_entry(operator: Operator) -> None:
    assert operator(torch.zeros(2, 0)).shape == (2, 0)
    x = operator(tensor(3.0, -0.2).unsqueeze(-1), 0.5).flatten()
    expected = {l1_ball: [0.5, -0.2], linf_ball: [0.5, -0.2], prox.linf: [2.5, 0.0]}[operator]
    torch.testing.assert_close(x, tensor(*expected))


def test_no_entries_in_no_group() -> None:
    assert prox.group_l2(torch.zeros(2, 0), 1.0, torch.zeros(0, dtype=torch.int64)).shape == (2, 0)


def test_large_entries_keep_the_digits_of_a_small_ball() -> None:
    y = torch.tensor([1e8, -1e8])
    torch.testing.assert_close(l1_ball(y, 1e-8), torch.tensor([5e-9, -5e-9]))
    y = torch.tensor([3e30, 4e30, 0.0, 0.0])
    x = prox.group_l2(y, 2.5e30, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(x, y / 2)


# -- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "y", "size", "in_y", "in_size"),
    [
        (
            l1_ball,
            tensor(2, -1.5, 0.1),
            tensor(1.0)[0],
            torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0]], dtype=F64),
            tensor(0.5, -0.5, 0),
        ),
        (l1_ball, tensor(0.2, -0.3), tensor(1.0)[0], torch.eye(2, dtype=F64), tensor(0, 0)),
        (linf_ball, tensor(2, -1.5, 0.1), tensor(1.0)[0], tensor(0, 0, 1).diag(), tensor(1, -1, 0)),
        (
            prox.linf,
            tensor(2, -1.9, 0.1),
            tensor(1.0)[0],
            torch.tensor([[0.5, -0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]], dtype=F64),
            tensor(-0.5, 0.5, 0),
        ),
        (prox.linf, tensor(0.2, -0.3), tensor(1.0)[0], torch.zeros(2, 2, dtype=F64), tensor(0, 0)),
    ],
)
def test_jacobians_are_as_documented(
    operator: Operator, y: Tensor, size: Tensor, in_y: Tensor, in_size: Tensor
) -> None:
    torch.testing.assert_close(jacobian(operator, y, size), in_y)
    torch.testing.assert_close(jacobian(operator, y, size, of=1), in_size)
    torch.testing.assert_close(differences(operator, y, size), in_y, rtol=0, atol=1e-8)
    torch.testing.assert_close(differences(operator, y, size, of=1), in_size, rtol=0, atol=1e-8)


@pytest.mark.parametrize("operator", [l1_ball, linf_ball, prox.linf])
@pytest.mark.parametrize("size", [0.0, 1.0, 3.0])
@pytest.mark.parametrize(
    "y", [[1.0, -1.0, 1.0], [1.0, 0.0, 0.0], [0.5, -0.5, 0.0], [3.0, 0.0, -1.0], [0.0, 0.0, 0.0]]
)
def test_derivative_at_a_kink_is_one_of_those_around(
    operator: Operator, size: float, y: list[float]
) -> None:
    assert is_limit_of_jacobians(operator, tensor(*y), size)


def test_a_point_has_jacobian_zero_and_no_weight_the_identity() -> None:
    y, zero, one = torch.zeros(3, dtype=F64), torch.zeros(3, 3, dtype=F64), torch.eye(3, dtype=F64)
    for project in (l1_ball, linf_ball):
        torch.testing.assert_close(jacobian(project, y, 0.0), zero)
    for operator in (prox.linf, lambda y, w: prox.group_l2(y, w, torch.tensor([0, 1, 0]))):
        for point in (y, tensor(1, 2, -1)):
            torch.testing.assert_close(jacobian(operator, point, 0.0), one)


@pytest.mark.parametrize("operator", [l1_ball, linf_ball, prox.linf])
def test_infinite_size_has_finite_derivatives(operator: Operator) -> None:
    y, size = leaf(3), torch.tensor(torch.inf, dtype=F64, requires_grad=True)
    x = operator(y, size)
    torch.testing.assert_close(x, torch.zeros_like(x) if operator is prox.linf else y)
    slope, in_size = torch.autograd.grad(x.sum(), (y, size))
    assert slope.tolist() == [0.0 if operator is prox.linf else 1.0] * 3
    assert in_size == 0


Y, GROUPS = torch.ones(2, 3), torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: l1_ball(Y, torch.ones(3)), ValueError, r"s.l1_ball: radius of shape \(3,\).*\(2,"),
        (lambda: l1_ball(Y, "1"), TypeError, "l1_ball: radius must be a number"),  # type: ignore
        (lambda: linf_ball(Y, torch.ones(2, 3)), ValueError, r"linf_ball: radius of shape \(2, 3"),
        (lambda: linf_ball(Y, torch.ones((), dtype=F64)), TypeError, "radius is torch.float64"),
        (lambda: prox.linf(Y, torch.ones(3)), ValueError, r"prox.linf: weight of shape \(3,\)"),
        (lambda: prox.group_l2(Y, -1, GROUPS), ValueError, "group_l2: weight must be 0 or more"),
        (lambda: prox.group_l2(Y, torch.ones(3), GROUPS), ValueError, r"\(3,\) does not.*\(2, 2\)"),
        (lambda: prox.group_l2(Y, 1, GROUPS[:2]), ValueError, r"shape \(3,\), the.*got \(2,\)"),
        (lambda: prox.group_l2(Y, 1, GROUPS - 1), ValueError, "numbered from 0, got -1"),
        (lambda: prox.group_l2(Y, 1, GROUPS > 0), TypeError, "groups must be .* got torch.bool"),
        (lambda: prox.group_l2(Y, 1, [0, 0, 1]), TypeError, "must be .* got list"),  # type: ignore
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()
