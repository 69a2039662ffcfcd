"""Total variation of sequences: optimality, exact pieces, derivatives."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from foldopt.prox import total_variation
from tests.closed_forms import (
    F64,
    differences,
    entries,
    is_limit_of_jacobians,
    jacobian,
    leaf,
    sizes,
)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def violation(y: Tensor, x: Tensor, w: float) -> float:
    """How far x is from optimal: y − x = Dᵀp with |pᵢ| ≤ w, and pᵢ = w sign(xᵢ₊₁ − xᵢ) at jumps.

    The pᵢ are the sums x₁ − y₁ + … + xᵢ − yᵢ; the last one, of everything, is zero.
    """
    scale = float(y.abs().max()) + w + 1e-300
    p = (x - y).cumsum(-1)
    inner, jump = p[..., :-1], x.diff(dim=-1)
    across = jump.abs() > 1e-12 * scale
    worst = [p[..., -1].abs().max(), (inner.abs() - w).clamp_min(0).amax() if len(inner) else 0]
    if across.any():
        worst.append((inner - w * jump.sign())[across].abs().max())
    return max(map(float, worst)) / scale


# -- values --------------------------------------------------------------------------------------


@given(y=st.lists(entries, min_size=1, max_size=30), w=sizes)
@settings(deadline=None, max_examples=200)
def test_is_optimal(y: list[float], w: float) -> None:
    point = tensor(*y)
    assert violation(point, total_variation(point, w), w) < 1e-13


@pytest.mark.parametrize("n", [2, 65, 1000])
@pytest.mark.parametrize("w", [1e-3, 0.3, 5.0, 1e3])
@pytest.mark.parametrize("shape", ["noise", "walk", "whole", "geometric"])
def test_is_optimal_in_long_sequences(n: int, w: float, shape: str) -> None:
    y = torch.randn(n, dtype=F64)
    if shape == "walk":
        y = y.cumsum(0)
    elif shape == "whole":
        y = y.mul(2).round()
    elif shape == "geometric":  # splits off one entry a round: the worst for the number of rounds
        y = 1.5 ** torch.arange(n, dtype=F64).clamp_max(200)
    assert violation(y, total_variation(y, w), w) < 1e-12


def test_agrees_with_a_cone_solver() -> None:
    y, w = torch.randn(12, dtype=F64), 0.4
    x = cp.Variable(12)
    objective = w * cp.norm1(cp.diff(x)) + 0.5 * cp.sum_squares(x - y.numpy())
    tight = {f"tol_{what}": 1e-10 for what in ("gap_abs", "gap_rel", "feas")}
    cp.Problem(cp.Minimize(objective)).solve(cp.CLARABEL, **tight)
    expected = torch.as_tensor(x.value)
    torch.testing.assert_close(total_variation(y, w), expected, rtol=0, atol=1e-6)


def test_rows_with_their_own_weights_end_in_rounds_of_their_own() -> None:
    y, w = torch.randn(6, 40, dtype=F64), tensor(0, 0.1, 0.5, 2, 50, torch.inf)
    x = total_variation(y, w)
    for row in range(6):
        torch.testing.assert_close(x[row], total_variation(y[row], float(w[row])), rtol=0, atol=0)
    torch.testing.assert_close(x[0], y[0], rtol=0, atol=0)
    for joined in (4, 5):
        torch.testing.assert_close(x[joined], y[joined].mean().expand(40))


def test_pieces_are_constant_exactly() -> None:
    x = total_variation(torch.randn(5, 200), 2.0)
    assert 10 < int((x.diff(dim=-1) != 0).sum()) < 300


def test_a_large_common_part_costs_no_digits() -> None:
    y = torch.tensor([0.0, 1.0, 0.0, 8.0, 7.0])
    torch.testing.assert_close(
        total_variation(1e6 + y, 0.75) - 1e6, total_variation(y, 0.75), rtol=0, atol=0.07
    )
    y = y.double()
    near = total_variation(1e8 + y, 0.75) - 1e8
    torch.testing.assert_close(near, total_variation(y, 0.75), rtol=0, atol=3e-8)


def test_mapped_over_points_and_weights() -> None:
    y, w = torch.randn(3, 4, 9, dtype=F64), torch.rand(3, dtype=F64)
    mapped = torch.func.vmap(torch.func.vmap(total_variation, (0, None)))(y, w)
    torch.testing.assert_close(mapped, total_variation(y, w[:, None]), rtol=0, atol=0)


# -- derivatives ---------------------------------------------------------------------------------


def test_jacobians_are_as_documented() -> None:
    y, w = tensor(1, 0.2, 5, 6, 0.5), torch.tensor(0.75, dtype=F64)
    torch.testing.assert_close(total_variation(y, w), tensor(0.975, 0.975, 4.75, 4.75, 1.25))
    in_y = torch.zeros(5, 5, dtype=F64)
    in_y[:2, :2] = in_y[2:4, 2:4] = 0.5
    in_y[4, 4] = 1
    in_w = tensor(0.5, 0.5, -1, -1, 1)  # up by w/2, down by 2w/2, up by w
    for of, documented in ((0, in_y), (1, in_w)):
        torch.testing.assert_close(jacobian(total_variation, y, w, of=of), documented)
        found = differences(total_variation, y, w, of=of)
        torch.testing.assert_close(found, documented, rtol=0, atol=1e-8)


@pytest.mark.parametrize("y", [(1, 1, 1), (0, 1, 0), (2, 0, 1, 1), (0, 2, 2, 0), (3,)])
@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 2.0])
def test_derivative_at_a_tie_is_one_of_those_around(y: tuple, w: float) -> None:
    assert is_limit_of_jacobians(total_variation, tensor(*y), w)


def test_no_weight_is_the_identity_and_infinite_weight_the_mean() -> None:
    y, w = tensor(1, 1, 3, 3), torch.tensor([0.0, torch.inf], dtype=F64)
    rows = y.expand(2, 4)
    in_y = torch.func.vmap(torch.func.jacrev(total_variation))(rows, w)
    torch.testing.assert_close(in_y[0], torch.eye(4, dtype=F64))
    torch.testing.assert_close(in_y[1], torch.full((4, 4), 0.25, dtype=F64))
    in_w = torch.func.vmap(torch.func.jacrev(total_variation, 1))(rows, w)
    torch.testing.assert_close(in_w[1], torch.zeros(4, dtype=F64))


def test_integer_weight_and_a_constant_sequence() -> None:
    y = leaf(2, 4)
    assert torch.equal(total_variation(y, torch.tensor(1)), total_variation(y, 1.0))
    flat = torch.full((4,), 2.0, dtype=F64)
    torch.testing.assert_close(total_variation(flat, 1.0), flat)
    average = torch.full((4, 4), 0.25, dtype=F64)
    torch.testing.assert_close(jacobian(total_variation, flat, 1.0), average)


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_nan_is_in_all_of_its_row_whatever_the_weight(w: float) -> None:
    y = torch.arange(12.0).reshape(2, 6)
    y[0, 1] = torch.nan
    x = total_variation(y, w)
    assert x[0].isnan().all()
    assert torch.isfinite(x[1]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((torch.ones(2, 3), -1.0), ValueError, "weight must be 0 or more, got -1.0"),
        ((torch.ones(2, 3), torch.ones(3)), ValueError, r"weight of shape \(3,\) .* \(2,\)"),
        ((torch.ones(2, 3), "1"), TypeError, "weight must be a number or a tensor, got str"),
        ((torch.ones(2, 3), torch.ones((), dtype=F64)), TypeError, "weight is torch.float64"),
        (([1.0],), TypeError, "y must be a real.* got list"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"prox.total_variation: {says}"):
        total_variation(*arguments)
