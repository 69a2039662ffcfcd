"""The proximal operators against their optimality conditions, and their derivatives."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import foldopt as fo
from foldopt import projections, prox
from tests.closed_forms import (
    F64,
    Operator,
    assert_derivative_of_a_projection,
    check_derivatives,
    differences,
    is_limit_of_jacobians,
    jacobian,
    leaf,
    points,
    sizes,
)

ALL: dict[str, Operator] = {"l1": prox.l1, "l2": prox.l2, "squared_l2": prox.squared_l2}
every = pytest.mark.parametrize("operator", ALL.values(), ids=ALL.keys())


# -- values --------------------------------------------------------------------------------------


@given(y=points(), w=sizes)
@settings(deadline=None)
def test_l1_leaves_a_subgradient_of_the_norm(y: Tensor, w: float) -> None:
    x = prox.l1(y, w)
    gap = y - x
    assert (gap.abs() <= w + 1e-12).all()
    torch.testing.assert_close(gap[x != 0], w * x.sign()[x != 0])


@given(y=points(), w=sizes)
@settings(deadline=None)
def test_l2_leaves_a_subgradient_of_the_norm(y: Tensor, w: float) -> None:
    x = prox.l2(y, w)
    gap, length = y - x, torch.linalg.vector_norm(x)
    assert torch.linalg.vector_norm(gap) <= w + 1e-12
    if length > 0:
        torch.testing.assert_close(gap, w * x / length, rtol=1e-6, atol=1e-9)


@given(y=points(), w=sizes)
@settings(deadline=None)
def test_squared_l2_leaves_the_gradient(y: Tensor, w: float) -> None:
    x = prox.squared_l2(y, w)
    torch.testing.assert_close(y - x, w * x)


@pytest.mark.parametrize("name", ALL)
def test_minimises_as_a_solver_does(name: str) -> None:
    y, w = np.array([3.0, -0.2, 1.0, -4.0]), 0.7
    x = cp.Variable(4)
    g = {"l1": cp.norm1(x), "l2": cp.norm2(x), "squared_l2": 0.5 * cp.sum_squares(x)}[name]
    tight = {f"tol_{what}": 1e-10 for what in ("gap_abs", "gap_rel", "feas")}
    cp.Problem(cp.Minimize(w * g + 0.5 * cp.sum_squares(x - y))).solve(cp.CLARABEL, **tight)
    torch.testing.assert_close(
        ALL[name](torch.tensor(y), w), torch.as_tensor(x.value), rtol=0, atol=1e-6
    )


@every
@given(pair=points(2), w=sizes)
@settings(deadline=None)
def test_firmly_nonexpansive(operator: Operator, pair: list[Tensor], w: float) -> None:
    (y, z), (p, q) = pair, (operator(point, w) for point in pair)
    assert ((p - q) ** 2).sum() <= ((p - q) * (y - z)).sum() + 1e-10


@given(y=points(), w=sizes)
@settings(deadline=None)
def test_moreau_l2_and_ball(y: Tensor, w: float) -> None:
    torch.testing.assert_close(prox.l2(y, w) + projections.ball(y, w), y)


@given(y=points(), w=sizes)
@settings(deadline=None)
def test_moreau_l1_and_box(y: Tensor, w: float) -> None:
    torch.testing.assert_close(prox.l1(y, w) + projections.box(y, -w, w), y)


# -- derivatives ---------------------------------------------------------------------------------


@every
def test_derivatives_in_the_point_and_the_weight(operator: Operator) -> None:
    weight = leaf(2, low=0.2)
    check_derivatives(operator, leaf(2, 3), weight if operator is prox.l2 else weight[:, None])
    check_derivatives(operator, leaf(2, 3), leaf(low=0.2))


def test_jacobian_of_l1_is_as_documented() -> None:
    y, w = torch.tensor([3.0, -0.5, -2.0], dtype=F64), torch.tensor(1.0, dtype=F64)
    torch.testing.assert_close(jacobian(prox.l1, y, w), torch.tensor([1.0, 0, 1], dtype=F64).diag())
    torch.testing.assert_close(jacobian(prox.l1, y, w, of=1), torch.tensor([-1.0, 0, 1], dtype=F64))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_jacobian_of_l2_is_as_documented(scale: float) -> None:
    y = scale * torch.tensor([3.0, -1.0, 2.0], dtype=F64)
    w = torch.tensor(1.5 * scale, dtype=F64)
    length = torch.linalg.vector_norm(y)
    documented = (1 - w / length) * torch.eye(3, dtype=F64) + w * torch.outer(y, y) / length**3
    J = jacobian(prox.l2, y, w)
    torch.testing.assert_close(J, documented)
    torch.testing.assert_close(differences(prox.l2, y, w, h=1e-6 * scale), J, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(jacobian(prox.l2, y, w, of=1), -y / length)


@pytest.mark.parametrize(
    "y", [[1.0, -1.0, 0.0, 2.0], [0.0, 0.0], [3.0, 4.0]], ids=["ties", "zero", "sphere"]
)
@pytest.mark.parametrize("w", [0.0, 1.0, 5.0])
@every
def test_derivative_at_a_kink_is_one_of_those_around(
    operator: Operator, y: list[float], w: float
) -> None:
    point = torch.tensor(y, dtype=F64)
    assert is_limit_of_jacobians(operator, point, w)
    assert_derivative_of_a_projection(jacobian(operator, point, w))


@every
def test_zero_weight_is_the_identity_and_so_is_its_jacobian(operator: Operator) -> None:
    y = torch.tensor([0.0, 0.0], dtype=F64)
    torch.testing.assert_close(jacobian(operator, y, 0.0), torch.eye(2, dtype=F64))


def test_second_derivative_at_zero_is_finite() -> None:
    y = torch.zeros(3, dtype=F64)
    for w in (0.0, 1.0):
        assert torch.isfinite(torch.func.hessian(lambda y, w=w: prox.l2(y, w).sum())(y)).all()


@every
def test_vmap_of_grad_over_points_and_weights(operator: Operator) -> None:
    y, w = torch.randn(4, 3, dtype=F64), torch.rand(4, dtype=F64)
    grad = torch.func.grad(lambda y, w: (operator(y, w) ** 2).sum(), (0, 1))
    together = torch.func.vmap(grad)(y, w)
    for row in range(4):
        alone = grad(y[row], w[row])
        torch.testing.assert_close(tuple(part[row] for part in together), alone)


# -- shapes, scales, dtypes, NaN -----------------------------------------------------------------


@every
@given(y=points())
@settings(max_examples=30, deadline=None)
def test_equivariant_under_scaling(operator: Operator, y: Tensor) -> None:
    for scale in (1e-8, 1e8):
        weight = 1.5 if operator is prox.squared_l2 else 1.5 * scale
        torch.testing.assert_close(
            operator(scale * y, weight), scale * operator(y, 1.5), rtol=1e-12, atol=1e-13 * scale
        )


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_l2_neither_overflows_nor_vanishes_in_float32(scale: float) -> None:
    y = torch.tensor([3.0, 4.0]) * scale
    torch.testing.assert_close(prox.l2(y, 2.5 * scale), y / 2)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1,), (2, 3, 4)])
def test_keeps_shape_and_dtype(
    operator: Operator, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    y = torch.randn(shape).to(dtype)
    for weight in (0.3, torch.tensor(0.3, dtype=dtype), torch.tensor(1)):
        x = operator(y, weight)
        assert (x.shape, x.dtype) == (y.shape, dtype)


def test_l2_of_a_single_entry_is_l1() -> None:
    y = torch.randn(5, 1, dtype=F64)
    torch.testing.assert_close(prox.l2(y, 0.5), prox.l1(y, 0.5))


@every
def test_nan_is_not_hidden(operator: Operator) -> None:
    nan = torch.tensor([torch.nan, 0.1])
    assert operator(nan, 1.0)[0].isnan()
    assert operator(torch.tensor([0.1, 2.0]), torch.tensor(torch.nan)).isnan().all()
    assert operator(torch.tensor([0.1, 2.0]), torch.tensor(-1.0)).isnan().all()


@pytest.mark.parametrize("operator", [prox.l1, prox.l2])
def test_infinite_weight_gives_zero_with_a_finite_derivative(operator: Operator) -> None:
    y, w = leaf(3), torch.tensor(torch.inf, dtype=F64, requires_grad=True)
    x = operator(y, w)
    x.sum().backward()
    assert y.grad is not None
    assert w.grad is not None
    assert (x == 0).all()
    assert (y.grad == 0).all()
    assert w.grad == 0


@every
@pytest.mark.parametrize(
    ("y", "weight", "error", "says"),
    [
        (torch.ones(2), -1.0, ValueError, "weight must be 0 or more, got -1.0"),
        (torch.ones(2), float("nan"), ValueError, "weight must be 0 or more, got nan"),
        (torch.ones(2), "1", TypeError, "weight must be a number or a tensor, got str"),
        (torch.ones(2), torch.ones(3), ValueError, r"weight of shape \(3,\)"),
        (torch.ones(2), torch.ones(2, 1), ValueError, r"weight of shape \(2, 1\)"),
        (torch.ones(2), torch.ones((), dtype=F64), TypeError, "weight is torch.float64"),
        (torch.ones(2), torch.ones((), dtype=torch.cfloat), TypeError, "weight is torch.complex64"),
        (torch.ones(2, dtype=torch.int64), 1.0, TypeError, "y must be a real.* got torch.int64"),
        ([1.0], 1.0, TypeError, "y must be a real.* got list"),
    ],
)
def test_bad_arguments(
    operator: Operator, y: Any, weight: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=f"prox.{operator.__name__}: {says}"):
        operator(y, weight)


def test_l2_needs_a_dimension() -> None:
    with pytest.raises(ValueError, match=r"prox.l2: y must have shape \(\*batch, n\)"):
        prox.l2(torch.tensor(1.0))


def test_folding_a_nan_weight_says_which_sample() -> None:
    step = fo.steps.proximal_gradient(
        lambda x, c, w: 0.5 * ((x - c) ** 2).sum(-1),
        lambda y, a, w: prox.l1(y, a * w.unsqueeze(-1)),
        step_size=1.0,
        prox_params=(1,),
    )
    c, w = torch.tensor([[3.0], [3.0]]), torch.tensor([1.0, -1.0], requires_grad=True)
    with pytest.raises(fo.FoldError, match=r"1 NONFINITE \(first: sample 1 of 2"):
        fo.fold(step, torch.tensor([[2.0], [4.0]]), c, w)
