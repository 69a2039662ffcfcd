"""Batches, shapes and attributes of the parameters and variables of CVXPY problems."""

from __future__ import annotations

from typing import Any

import pytest

cp: Any = pytest.importorskip("cvxpy", minversion="1.9")

import numpy as np  # noqa: E402
import torch  # noqa: E402

import foldopt as fo  # noqa: E402
from foldopt.cvxpy import CvxpyLayer  # noqa: E402
from tests import cvxpy_problems as problems  # noqa: E402
from tests.cvxpy_problems import F64, layer_of, leaves  # noqa: E402


def test_shared_and_batched_parameters_mix() -> None:
    case = problems.linear_rows()
    layer = layer_of(case)
    batch = case.draw(3, torch.Generator().manual_seed(0))
    q, G, h, d = batch[0], batch[1][0], batch[2], batch[3][0]
    both = leaves(q, G, h, d)
    (seen, *_) = layer(*both)
    each = [layer(q[i], G, h[i], d)[0] for i in range(3)]
    assert seen.shape == (3, 5)
    assert torch.allclose(seen, torch.stack(each), atol=1e-10)
    w = problems.normal(torch.Generator().manual_seed(1), 3, 5)
    gradients = torch.autograd.grad((w * seen).sum(), both)
    whole = [q, G.expand(3, 6, 5), h, d.expand(3)]
    spread = leaves(*whole)
    others = torch.autograd.grad((w * layer(*spread)[0]).sum(), spread)
    assert torch.allclose(gradients[1], others[1].sum(0), atol=1e-9)  # the sum
    assert torch.allclose(gradients[3], others[3].sum(0), atol=1e-9)


def test_a_batch_of_one_stays_a_batch() -> None:
    for case in (problems.linear_rows(), problems.second_order()):
        values = case.draw(1, torch.Generator().manual_seed(0))
        for one, alone in zip(
            layer_of(case)(*values), layer_of(case)(*(v[0] for v in values)), strict=True
        ):
            assert one.shape == (1, *alone.shape)
            assert torch.allclose(one[0], alone, atol=1e-10)


def test_a_batch_of_cone_programs_is_its_samples() -> None:
    case = problems.second_order()
    values = case.draw(4, torch.Generator().manual_seed(0))
    layer = layer_of(case)
    for i in range(4):
        for one, alone in zip(layer(*values), layer(*(v[i] for v in values)), strict=True):
            assert torch.allclose(one[i], alone, atol=1e-9)


def test_parameters_that_broadcast_inside_the_problem() -> None:
    x, a = cp.Variable((3, 4)), cp.Parameter((3, 1))
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [x >= 0]), [a], [x])
    value = torch.tensor([[1.0], [-1.0], [2.0]], dtype=F64)
    assert torch.allclose(layer(value)[0], value.clamp_min(0).expand(3, 4), atol=1e-12)
    assert torch.autograd.gradcheck(layer, leaves(value))


def test_variables_of_three_dimensions() -> None:
    x, a = cp.Variable((2, 3, 4)), cp.Parameter((2, 3, 4))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a)), [x >= 0])
    layer = CvxpyLayer(problem, [a], [x], canon_backend="SCIPY")  # the default warns
    value = problems.normal(torch.Generator().manual_seed(0), 5, 2, 3, 4)
    assert torch.allclose(layer(value)[0], value.clamp_min(0), atol=1e-12)


def test_variables_with_attributes() -> None:
    C = cp.Parameter((3, 3))
    value = problems.symmetric(torch.Generator().manual_seed(0), 3, 3)
    diagonal = cp.Variable((3, 3), diag=True)
    definite = cp.Variable((3, 3), PSD=True)
    places = ([0, 1, 2], [2, 1, 0])
    sparse = cp.Variable((3, 3), sparsity=places)
    right = {
        diagonal: torch.diag(value.diagonal()),
        definite: fo.projections.positive_semidefinite(value),
        sparse: torch.zeros(3, 3, dtype=F64).index_put(
            tuple(torch.tensor(p) for p in places), value[places]
        ),
    }
    for variable, expected in right.items():
        layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(variable - C))), [C], [variable])
        assert torch.allclose(layer(value)[0], expected, atol=1e-9)


def test_parameters_with_attributes() -> None:
    x = cp.Variable(3)
    matrix = problems.normal(torch.Generator().manual_seed(0), 3, 3)
    for kind, value in (
        ({"symmetric": True}, (matrix + matrix.mT) / 2),
        ({"diag": True}, torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=F64))),
        ({"sparsity": ([0, 1, 2], [1, 2, 0])}, None),
        ({"nonneg": True}, matrix.abs()),
    ):
        M = cp.Parameter((3, 3), **kind)
        if value is None:
            value = torch.zeros(3, 3, dtype=F64)
            value[[0, 1, 2], [1, 2, 0]] = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(M @ x - np.ones(3))))
        (seen,) = CvxpyLayer(problem, [M], [x])(value)
        right = torch.linalg.solve(value, torch.ones(3, dtype=F64))
        assert torch.allclose(seen, right, atol=1e-9)


def test_many_dimensional_power_cones() -> None:
    y, x, q = cp.Variable(), cp.Variable(3), cp.Parameter(3)
    alpha = np.array([0.2, 0.3, 0.5])
    objective = cp.Minimize(-y + 0.05 * cp.sum_squares(x))
    problem = cp.Problem(
        objective, [cp.PowConeND(x, y, alpha), x <= q, cp.Variable((2, 2), PSD=True) == np.eye(2)]
    )
    value = torch.tensor([0.5, 1.0, 1.5], dtype=F64)
    layer = CvxpyLayer(problem, [q], [x, y])
    assert torch.allclose(layer(value)[1], (value ** torch.tensor(alpha)).prod(), atol=1e-9)
    assert torch.autograd.gradcheck(layer, leaves(value))


def test_a_problem_without_parameters() -> None:
    x = cp.Variable(2)
    (seen,) = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1))), [], [x])()
    assert torch.allclose(seen.double(), torch.ones(2, dtype=F64))
