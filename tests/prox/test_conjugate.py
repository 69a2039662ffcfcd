"""Moreau's identity: prox.conjugate, and what it connects."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from foldopt import projections, prox
from tests.closed_forms import F64, Operator, check_derivatives, leaf, points, sizes

steps = st.floats(0.01, 20)


def spectral_ball(y: Tensor) -> Tensor:
    """The projection on {‖X‖₂ ≤ 1}: singular values above 1 become 1."""
    U, sigma, Vh = torch.linalg.svd(y, full_matrices=False)
    return U @ torch.diag_embed(sigma.clamp_max(1)) @ Vh


# A norm's proximal operator, and the projection on the unit ball of the dual norm.
DUALS: dict[str, tuple[Operator, Operator]] = {
    "l1": (prox.l1, projections.linf_ball),
    "l2": (prox.l2, projections.ball),
    "linf": (prox.linf, projections.l1_ball),
}


@pytest.mark.parametrize("name", DUALS)
@given(y=points(), sigma=steps)
@settings(deadline=None)
def test_the_conjugate_of_a_norm_is_the_dual_ball(name: str, y: Tensor, sigma: float) -> None:
    operator, project = DUALS[name]
    x = prox.conjugate(operator)(y, sigma)
    torch.testing.assert_close(x, project(y), rtol=0, atol=1e-13 * (1 + float(y.abs().max())))


@pytest.mark.parametrize("name", DUALS)
@given(y=points(), w=sizes)
@settings(deadline=None)
def test_prox_and_projection_add_up(name: str, y: Tensor, w: float) -> None:
    operator, project = DUALS[name]
    total = operator(y, w) + project(y, w)
    torch.testing.assert_close(total, y, rtol=0, atol=1e-13 * (1 + float(y.abs().max())))


@given(values=st.lists(st.floats(-9, 9), min_size=6, max_size=6), sigma=steps)
@settings(deadline=None)
def test_the_conjugate_of_the_nuclear_norm_is_the_spectral_ball(
    values: list[float], sigma: float
) -> None:
    y = torch.tensor(values, dtype=F64).reshape(2, 3)
    x = prox.conjugate(prox.nuclear)(y, sigma)
    torch.testing.assert_close(x, spectral_ball(y), rtol=0, atol=1e-12)


@given(y=points(), sigma=steps)
@settings(deadline=None)
def test_the_conjugate_of_a_square_is_a_square(y: Tensor, sigma: float) -> None:
    torch.testing.assert_close(prox.conjugate(prox.squared_l2)(y, sigma), y / (1 + sigma))


CONES: dict[str, Operator] = {
    "nonnegative": projections.nonnegative,
    "second_order_cone": projections.second_order_cone,
    "isotonic": projections.isotonic,
    "exponential_cone": lambda y: projections.exponential_cone(y[:3]),
}


@pytest.mark.parametrize("name", CONES)
@given(y=points(), sigma=steps)
@settings(deadline=None, max_examples=50)
def test_the_conjugate_of_a_cone_is_the_polar_cone(name: str, y: Tensor, sigma: float) -> None:
    """y = P_K(y) + P_K°(y) at right angles, and nothing depends on σ."""
    project = CONES[name]
    y = torch.cat([y, y, y])[:3] if name == "exponential_cone" else y
    x = project(y)
    polar = prox.conjugate(lambda y, _: project(y))(y, sigma)
    scale = 1 + float(y.abs().max())
    torch.testing.assert_close(x + polar, y, rtol=0, atol=1e-13 * scale)
    assert abs(x @ polar) <= 1e-12 * scale**2
    torch.testing.assert_close(project(polar), torch.zeros_like(x), rtol=0, atol=1e-6 * scale)


@given(y=points(), sigma=steps)
@settings(deadline=None)
def test_the_conjugate_of_the_simplex_is_the_maximum(y: Tensor, sigma: float) -> None:
    """prox of σ max: y − x is σ times a point of the simplex, on the largest entries of x alone."""
    x = prox.conjugate(lambda y, _: projections.simplex(y))(y, sigma)
    share = (y - x) / sigma
    scale = (1 + float(y.abs().max())) / sigma
    assert share.min() >= -1e-14 * scale
    assert abs(share.sum() - 1) <= 1e-13 * scale
    assert (share * (x.max() - x)).sum() <= 1e-12 * scale**2 * max(1.0, sigma)


def test_twice_is_the_operator_itself() -> None:
    """g** = g."""
    twice = prox.conjugate(prox.conjugate(prox.l2))
    y, w = torch.randn(20, 3, dtype=F64), 0.7
    torch.testing.assert_close(twice(y, w), prox.l2(y, w))


def test_hands_on_what_comes_after_the_weight() -> None:
    groups = torch.tensor([0, 0, 1])
    y = torch.tensor([3.0, 4.0, 0.5])
    x = prox.conjugate(prox.group_l2)(y, 2.0, groups)
    torch.testing.assert_close(x, torch.tensor([0.6, 0.8, 0.5]))


def test_derivatives_in_the_point_and_the_weight() -> None:
    weight = leaf(low=0.5)
    check_derivatives(prox.conjugate(prox.squared_l2), leaf(2, 3), weight)
    check_derivatives(prox.conjugate(lambda y, _: projections.simplex(y)), leaf(2, 3), weight)
    check_derivatives(prox.conjugate(prox.l2), 3 * leaf(2, 3), weight)


@pytest.mark.parametrize("bad", [torch.nan, 0.0, -1.0])
def test_a_bad_weight_given_as_a_tensor_gives_nan(bad: float) -> None:
    assert prox.conjugate(prox.l1)(torch.ones(2), torch.tensor(bad)).isnan().all()


CONJUGATED = prox.conjugate(prox.l1)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: prox.conjugate(3.0), TypeError, "operator must be callable.*got float"),  # type: ignore
        (lambda: CONJUGATED(torch.ones(2), 0.0), ValueError, "weight must be above 0, got 0.0"),
        (lambda: CONJUGATED(torch.ones(2), -1), ValueError, "weight must be above 0, got -1"),
        (
            lambda: CONJUGATED(torch.ones(2), float("nan")),
            ValueError,
            "weight must be above 0, got nan",
        ),
        (lambda: CONJUGATED(torch.ones(2), torch.ones(2)), ValueError, r"weight of shape \(2,\)"),
        (lambda: CONJUGATED(torch.ones(2, dtype=torch.int64)), TypeError, "y must be a real"),
        (lambda: CONJUGATED([1.0]), TypeError, "y must be a real.*got list"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"prox.conjugate: {says}"):
        call()
