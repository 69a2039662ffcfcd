"""Isotonic regression and the permutahedron: optimality, exactness, blocks, derivatives."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import qpsolvers
import torch
from hypothesis import given, settings
from torch import Tensor

from foldopt import prox
from foldopt.projections import isotonic, permutahedron, simplex
from tests.closed_forms import (
    F64,
    Operator,
    differences,
    entries,
    is_limit_of_jacobians,
    jacobian,
    points,
)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


# -- isotonic ------------------------------------------------------------------------------------


def pool_adjacent_violators(y: Tensor) -> Tensor:
    """The textbook's algorithm, one entry after the other."""
    blocks: list[tuple[float, int]] = []
    for value in y.tolist():
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (right, many), (left, more) = blocks.pop(), blocks.pop()
            blocks.append(((left * more + right * many) / (many + more), many + more))
    return tensor(*itertools.chain(*([mean] * size for mean, size in blocks)))


@given(y=st.lists(entries, min_size=1, max_size=40))
@settings(deadline=None)
def test_isotonic_pools_adjacent_violators(y: list[float]) -> None:
    point = tensor(*y)
    x = isotonic(point)
    torch.testing.assert_close(x, pool_adjacent_violators(point), rtol=1e-13, atol=1e-13)
    assert (x.diff() >= 0).all()


@pytest.mark.parametrize("n", [2, 3, 100, 1000, 1025])
@pytest.mark.parametrize("trend", [-1.0, 0.0, 0.01, 1.0])
def test_isotonic_in_long_sequences(n: int, trend: float) -> None:
    y = torch.randn(2, n, dtype=F64) + trend * torch.arange(n, dtype=F64)
    expected = torch.stack([pool_adjacent_violators(row) for row in y])
    torch.testing.assert_close(isotonic(y), expected, rtol=1e-12, atol=1e-12)


def test_isotonic_keeps_the_digits_beside_a_large_common_part() -> None:
    y = torch.tensor([1.0, 3.0, 2.0, 2.0, 4.0])
    x = isotonic(1e6 + y) - 1e6
    torch.testing.assert_close(x, torch.tensor([1.0, 2.3125, 2.3125, 2.3125, 4.0]), rtol=0, atol=0)
    # Means of different blocks may be rounded out of order.
    assert (isotonic(40_000 + 0.03 * torch.randn(3000, 20)).diff(dim=-1) >= 0).all()


def test_isotonic_is_idempotent_and_leaves_order_alone() -> None:
    y = torch.randn(50, 9, dtype=F64).sort(-1).values
    assert torch.equal(isotonic(y), y)
    x = isotonic(torch.randn(50, 9, dtype=F64))
    torch.testing.assert_close(isotonic(x), x, rtol=0, atol=1e-15)


def test_jacobian_of_isotonic_averages_over_blocks() -> None:
    y = tensor(1, 5, 3, 3.5, 9, 8)
    documented = torch.zeros(6, 6, dtype=F64)
    documented[0, 0], documented[1:4, 1:4], documented[4:, 4:] = 1, 1 / 3, 1 / 2
    torch.testing.assert_close(jacobian(isotonic, y), documented)
    torch.testing.assert_close(differences(isotonic, y), documented, rtol=0, atol=1e-8)


@pytest.mark.parametrize("y", [(1, 1, 1), (0, 0, 1, 1), (2, 1, 1.5), (1, 2, 1, 2), (3,)])
def test_derivative_of_isotonic_at_a_tie_is_one_of_those_around(y: tuple) -> None:
    assert is_limit_of_jacobians(isotonic, tensor(*y))


# -- the permutahedron ---------------------------------------------------------------------------


@given(pair=points(2))
@settings(deadline=None)
def test_permutahedron_solves_the_variational_inequality(pair: list[Tensor]) -> None:
    """The support function is Σ g₍ᵢ₎ w₍ᵢ₎, both sorted; feasible is what w majorizes."""
    y, w = pair
    x, scale = permutahedron(y, w), 1 + float(y.abs().max()) + float(w.abs().max())
    above = w.sort(descending=True).values.cumsum(0) - x.sort(descending=True).values.cumsum(0)
    assert above.min() >= -1e-13 * scale
    assert abs(above[-1]) <= 1e-13 * scale
    gap = y - x
    farthest = (gap.sort().values * w.sort().values).sum()
    assert farthest - gap @ x <= 1e-12 * scale**2


def test_permutahedron_agrees_with_a_qp_over_its_vertices() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        y, w = 2 * torch.randn(4, dtype=F64), torch.randn(4, dtype=F64)
        V = np.array(list(itertools.permutations(w.tolist()))).T  # x = V a, a in the simplex
        a = qpsolvers.solve_qp(
            V.T @ V + 1e-12 * np.eye(24),
            -V.T @ y.numpy(),
            A=np.ones((1, 24)),
            b=np.ones(1),
            lb=np.zeros(24),
            solver="piqp",
            eps_abs=1e-12,
        )
        torch.testing.assert_close(permutahedron(y, w), torch.tensor(V @ a), rtol=0, atol=1e-6)


def test_simplex_is_the_permutahedron_of_a_unit_vector() -> None:
    y = torch.randn(20, 5, dtype=F64)
    w = tensor(0, 0, 0.7, 0, 0)
    torch.testing.assert_close(permutahedron(y, w), simplex(y, 0.7), rtol=0, atol=1e-14)


def test_of_one_value_it_is_a_point_and_of_one_entry_too() -> None:
    y, w = torch.randn(3, dtype=F64), torch.full((3,), 2.0, dtype=F64)
    torch.testing.assert_close(permutahedron(y, w), w)
    torch.testing.assert_close(jacobian(permutahedron, y, w), torch.zeros(3, 3, dtype=F64))
    torch.testing.assert_close(permutahedron(tensor(5), tensor(-1)), tensor(-1))


def test_far_apart_it_ranks_exactly() -> None:
    """Ranks of entries that are far apart, without loss of a digit; and a soft rank near ties."""
    y = torch.tensor([[0.3, -1e8, 7e7, 1e8], [0.0, 1.0, 1.0, 2.0]])
    rank = permutahedron(-1e4 * y, torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert rank.tolist() == [[3, 4, 2, 1], [4, 2.5, 2.5, 1]]


def test_soft_sort_tends_to_the_sorted_values() -> None:
    y = torch.randn(6, dtype=F64)
    positions = torch.arange(6, 0, -1, dtype=F64)
    hard = permutahedron(positions / 1e-6, y)
    torch.testing.assert_close(hard, y.sort(descending=True).values)
    soft = permutahedron(positions / 1e6, y)
    torch.testing.assert_close(soft, y.mean().expand(6), rtol=0, atol=1e-5)


def test_jacobians_of_the_permutahedron_are_as_documented() -> None:
    y, w = tensor(0.2, 3, 0.5, -4), tensor(1, 0, 2, 3)  # 3 and 1 stay alone, 0.5 and 0.2 meet
    meet = torch.zeros(4, 4, dtype=F64)
    for i, j in itertools.product((0, 2), repeat=2):
        meet[i, j] = 0.5
    in_y = tensor(1, 0, 1, 0).diag() - meet
    in_w = torch.zeros(4, 4, dtype=F64)
    in_w[1, 3] = in_w[3, 1] = 1
    in_w[0, [0, 2]] = in_w[2, [0, 2]] = 0.5
    for of, documented in ((0, in_y), (1, in_w)):
        torch.testing.assert_close(jacobian(permutahedron, y, w, of=of), documented)
        found = differences(permutahedron, y, w, of=of)
        torch.testing.assert_close(found, documented, rtol=0, atol=1e-8)


@pytest.mark.parametrize("y", [(1, 1, 1), (3, 2, 1), (0, 0, 5), (2, 2, -2), (1.5, 0.5, 0)])
@pytest.mark.parametrize("w", [(3, 2, 1), (1, 1, 0), (0, 0, 0)])
def test_derivative_of_the_permutahedron_at_a_tie_is_one_of_those_around(
    y: tuple, w: tuple
) -> None:
    assert is_limit_of_jacobians(permutahedron, tensor(*y), tensor(*w))


# -- shapes --------------------------------------------------------------------------------------


def test_no_entries() -> None:
    assert isotonic(torch.zeros(2, 0)).shape == (2, 0)
    assert permutahedron(torch.zeros(2, 0), torch.zeros(0)).shape == (2, 0)
    assert prox.total_variation(torch.zeros(2, 0)).shape == (2, 0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_in_w_reaches_every_row_that_has_it(bad: float) -> None:
    w = torch.tensor([[1.0, bad, 2.0], [1.0, 2.0, 3.0]])
    x = permutahedron(torch.randn(2, 3), w)
    assert x[0].isnan().all()
    assert torch.isfinite(x[1]).all()


Y = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("operator", "arguments", "error", "says"),
    [
        (permutahedron, (Y, torch.ones(2)), ValueError, r"w must be.*\(3,\) or.*got \(2,\)"),
        (permutahedron, (Y, torch.ones(4, 3)), ValueError, r"w of shape \(4, 3\) does not"),
        (permutahedron, (Y, 1.0), ValueError, "w must be a tensor of shape .* got float"),
        (permutahedron, (Y, torch.ones(3, dtype=F64)), TypeError, "w is torch.float64 and y"),
    ],
)
def test_bad_arguments(
    operator: Operator, arguments: tuple[Any, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=f"projections.{operator.__name__}: {says}"):
        operator(*arguments)
