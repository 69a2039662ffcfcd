"""The second-order and the exponential cone: optimality, extreme points, kinks, derivatives."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import hypothesis.strategies as st
import mpmath
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from foldopt.projections import exponential_cone, second_order_cone
from tests.closed_forms import (
    F64,
    Operator,
    differences,
    is_limit_of_jacobians,
    jacobian,
    points,
)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


# -- the second-order cone -----------------------------------------------------------------------


@given(y=points())
@settings(deadline=None)
def test_second_order_cone_splits_into_the_cone_and_its_polar(y: Tensor) -> None:
    """x in K, y − x in −K (the cone is its own dual), and at right angles: that is the KKT."""
    x, scale = second_order_cone(y), 1 + float(y.abs().max())
    for part in (x, x - y):
        assert torch.linalg.vector_norm(part[1:]) <= part[0] + 1e-14 * scale
    assert abs(x @ (y - x)) <= 1e-13 * scale**2


def test_jacobian_of_the_second_order_cone_is_as_documented() -> None:
    y = tensor(1, 3, 0, -4)
    u, ratio = y[1:] / 5, 0.2
    inner = (1 + ratio) * torch.eye(3, dtype=F64) - ratio * torch.outer(u, u)
    documented = 0.5 * torch.cat(
        [torch.cat([tensor(1), u])[None], torch.cat([u[:, None], inner], 1)]
    )
    torch.testing.assert_close(jacobian(second_order_cone, y), documented)
    found = differences(second_order_cone, y)
    torch.testing.assert_close(found, documented, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("y", "x", "slope"),
    [
        ((3, 3, 0), (3, 3, 0), 1),  # on the boundary
        ((-3, 3, 0), (0, 0, 0), 0),  # on that of the polar cone
        ((0, 0, 0), (0, 0, 0), 1),
        ((2, 0, 0), (2, 0, 0), 1),
        ((-2, 0, 0), (0, 0, 0), 0),
        ((3,), (3,), 1),  # a cone of one dimension: a half-line
        ((-3,), (0,), 0),
    ],
)
def test_second_order_cone_at_special_points(y: tuple, x: tuple, slope: float) -> None:
    torch.testing.assert_close(second_order_cone(tensor(*y)), tensor(*x))
    J = jacobian(second_order_cone, tensor(*y))
    torch.testing.assert_close(J, slope * torch.eye(len(y), dtype=F64))
    assert is_limit_of_jacobians(second_order_cone, tensor(*y))


def test_second_order_cone_neither_overflows_nor_vanishes_in_float32() -> None:
    for scale in (1e-30, 1e30):
        y = torch.tensor([0.0, 3.0, 4.0]) * scale
        torch.testing.assert_close(second_order_cone(y) / scale, torch.tensor([2.5, 1.5, 2.0]))


# -- the exponential cone ------------------------------------------------------------------------


def nearest_on_the_curve(y: Tensor) -> Tensor:
    """The projection on a ray μ (r, 1, eʳ), with 60 digits and by bisection alone."""
    with mpmath.workdps(60):
        a, b, c = (mpmath.mpf(value) for value in y.tolist())

        def excess(r: Any) -> Any:
            up, down = ((r - 1) * a + b) * mpmath.exp(r), (a - r * b) * mpmath.exp(-r)
            return up - down - c * (r * r - r + 1)

        # Where the bracket has no end, walk until the sign changes.
        low = 1 - b / a if a > 0 else min(a / b, 0) - 1
        high = a / b if b > 0 else max(low, 0) + 1
        while a <= 0 and excess(low) > 0:
            low *= 2
        while b <= 0 and excess(high) < 0:
            high *= 2
        for _ in range(220):
            middle = (low + high) / 2
            low, high = (low, middle) if excess(middle) > 0 else (middle, high)
        ray = [low * mpmath.exp(-low), mpmath.exp(-low), mpmath.mpf(1)]
        if low < 0:
            ray = [low, mpmath.mpf(1), mpmath.exp(low)]
        along = (a * ray[0] + b * ray[1] + c * ray[2]) / sum(part**2 for part in ray)
        return tensor(*(float(along * part) for part in ray))


def in_general_position(y: Tensor) -> Tensor:
    """The points outside of the cone, of its polar and of what is before its flat face."""
    a, b, c = y.unbind(-1)
    inside = (b > 0) & (b * torch.exp(a / b) <= c)
    polar = (a > 0) & (a * torch.exp(b / a - 1) <= -c)
    return y[~(inside | polar | ((a <= 0) & (b <= 0)))]


@pytest.mark.parametrize("orders", [0, 12, 60])
def test_exponential_cone_to_rounding_over_many_orders_of_magnitude(orders: int) -> None:
    """Entries between 10^−orders/2 and 10^orders/2, drawn each on its own."""
    factor = 10 ** (orders * (torch.rand(90, 3, dtype=F64) - 0.5))
    y = in_general_position(torch.randn(90, 3, dtype=F64) * factor)
    assert len(y) > 30
    expected = torch.stack([nearest_on_the_curve(row) for row in y])
    error = (exponential_cone(y) - expected).abs() / y.abs().amax(-1, keepdim=True)
    assert error.max() < 1e-14


@pytest.mark.parametrize("away", [1e-12, 1e-6, 1.0, 1e6, 1e12])
@given(r=st.floats(-25, 25))
@settings(max_examples=30, deadline=None)
def test_exponential_cone_comes_back_from_along_a_normal(r: float, away: float) -> None:
    e = torch.exp(tensor(r)[0])
    ray = torch.stack([r * e.new_ones(()), e.new_ones(()), e])
    normal = torch.stack([e, (1 - r) * e, -e.new_ones(())])
    ray, normal = ray / torch.linalg.vector_norm(ray), normal / torch.linalg.vector_norm(normal)
    x = exponential_cone(ray + away * normal)
    torch.testing.assert_close(x, ray, rtol=0, atol=1e-15 * (10 + 10 * away))


def generators(count: int = 4001) -> tuple[Tensor, Tensor]:
    """Unit vectors that span the cone, and those that span its polar."""
    r = torch.linspace(-30, 30, count, dtype=F64)
    e, one = torch.exp(r), torch.ones_like(r)
    cone = torch.cat([torch.stack([r, one, e], -1), tensor(-1, 0, 0)[None], tensor(0, 0, 1)[None]])
    polar = torch.stack([e, (1 - r) * e, -one], -1)
    polar = torch.cat([polar, tensor(0, -1, 0)[None], tensor(0, 0, -1)[None]])
    return tuple(
        rays / torch.linalg.vector_norm(rays, dim=-1, keepdim=True) for rays in (cone, polar)
    )


CONE, POLAR = generators()


@given(y=st.lists(st.one_of(st.integers(-3, 3), st.floats(-20, 20)), min_size=3, max_size=3))
@settings(deadline=None)
def test_exponential_cone_splits_into_the_cone_and_its_polar(y: list[float]) -> None:
    point = tensor(*y)
    x, scale = exponential_cone(point), 1 + float(point.abs().max())
    assert (POLAR @ x).max() <= 1e-13 * scale  # x is in K = (K°)°
    assert (CONE @ (point - x)).max() <= 1e-13 * scale  # and y − x in K°
    assert abs(x @ (point - x)) <= 1e-13 * scale**2


@pytest.mark.parametrize(
    "y", [(1.0, 1.0, 1.0), (-2.0, 0.5, -1.0), (0.3, -1.0, 2.0), (2.0, 3.0, 4.0)]
)
def test_exponential_cone_agrees_with_a_cone_solver(y: tuple[float, float, float]) -> None:
    x = cp.Variable(3)
    distance = cp.Minimize(cp.sum_squares(x - tensor(*y).numpy()))
    tight = {f"tol_{what}": 1e-9 for what in ("gap_abs", "gap_rel", "feas")}
    cp.Problem(distance, [cp.ExpCone(x[0], x[1], x[2])]).solve(cp.CLARABEL, **tight)
    found = exponential_cone(tensor(*y))
    torch.testing.assert_close(found, torch.as_tensor(x.value), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("y", "x", "jacobian_there"),
    [
        ((0, 0, 0), (0, 0, 0), (1, 1, 1)),
        ((0, 1, 2), (0, 1, 2), (1, 1, 1)),
        ((-1, 0, 2), (-1, 0, 2), (1, 1, 1)),
        ((-1, -2, 3), (-1, 0, 3), (1, 0, 1)),
        ((-1, -2, -3), (-1, 0, 0), (1, 0, 0)),
        ((0, -2, -3), (0, 0, 0), (0, 0, 0)),
        ((1, 0, -1), (0, 0, 0), (0, 0, 0)),
        ((1, 0, -0.368), (0, 0, 0), (0, 0, 0)),  # e⁻¹ is 0.3679
        ((1e-9, -1, 2), (0, 0, 2), (0, 0, 1)),
        ((-1e9, 1, -1), (-1e9, 1, 0), (1, 1, 0)),
    ],
)
def test_exponential_cone_at_special_points(y: tuple, x: tuple, jacobian_there: tuple) -> None:
    found = exponential_cone(tensor(*y))
    torch.testing.assert_close(found, tensor(*x), rtol=1e-15, atol=2e-9 if y[0] == 1e-9 else 0)
    J = jacobian(exponential_cone, tensor(*y))
    torch.testing.assert_close(J, tensor(*jacobian_there).diag(), rtol=0, atol=2e-8)


@pytest.mark.parametrize(
    "y",
    [
        (0, 1, 1),
        (0, 0, 0),
        (0, 0, 1),
        (-1, 0, 0),
        (-1, 0, -1),
        (0, -1, 0),
        (0, -1, 1),
        (2.718281828459045, 0, -1),
    ],
)
def test_derivative_at_a_kink_of_the_exponential_cone_is_one_of_those_around(y: tuple) -> None:
    assert is_limit_of_jacobians(exponential_cone, tensor(*y), tries=400)


@pytest.mark.parametrize(
    ("y", "order"), [((0.3, 0.7, -0.2), 4), ((-3.0, 0.1, -2.0), 3), ((0.5, -2.0, 4.0), 3)]
)
def test_higher_derivatives_of_the_exponential_cone(y: tuple, order: int) -> None:
    def f(y: Tensor) -> Tensor:
        return (exponential_cone(y) * tensor(1, -2, 0.5)).sum()

    point, derivative = tensor(*y), torch.func.grad(f)
    for _ in range(1, order):
        following = torch.func.jacfwd(derivative)
        expected = differences(derivative, point, h=1e-5)
        scale = float(expected.abs().max())
        torch.testing.assert_close(following(point), expected, rtol=0, atol=1e-7 * (1 + scale))
        derivative = following


def test_exponential_cone_at_the_ends_of_float32() -> None:
    factor = 10 ** (60 * torch.rand(3000, 3) - 30)
    y = (torch.randn(3000, 3) * factor).requires_grad_()
    x = exponential_cone(y)
    size = y.detach().abs().amax(-1, keepdim=True)
    exact = exponential_cone(y.detach().double())
    torch.testing.assert_close((x / size).double(), exact / size, rtol=0, atol=1e-6)
    (slope,) = torch.autograd.grad(x.sum(), y)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize(
    ("operator", "shape", "says"),
    [
        (exponential_cone, (2, 4), r"exponential_cone: y must have shape \(\*batch, 3\).*\(2, 4\)"),
        (second_order_cone, (2, 0), r"second_order_cone: y needs at least one entry.*\(2, 0\)"),
    ],
)
def test_bad_shapes(operator: Operator, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        operator(torch.ones(shape))
