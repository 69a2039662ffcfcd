"""The projections against a solver, and what every projection on a convex set obeys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import qpsolvers
import torch
from hypothesis import assume, given, settings
from torch import Tensor

from foldopt.projections import (
    affine,
    ball,
    box,
    capped_simplex,
    half_space,
    nonnegative,
    simplex,
)
from tests.closed_forms import F64, Operator, points, sizes


@dataclasses.dataclass(frozen=True)
class Set:
    """A projection with the parameters of its set, and what is known of the set.

    ``far(g)`` is the support function max {gᵀz : z in the set}, ``outside(x)`` how far a point
    is from feasible.
    """

    project: Callable[[Tensor], Tensor]
    far: Callable[[Tensor], Tensor]
    outside: Callable[[Tensor], Tensor]


def make(name: str, n: int, size: float, whole: Tensor) -> Set:
    """One set in n dimensions of about the given size; ``whole`` is a vector to make it from."""
    if name == "nonnegative":
        return Set(nonnegative, lambda g: torch.where(g > 0, torch.inf, 0).sum(), lambda x: -x)
    if name == "box":
        low, high = whole - size, whole + size
        return Set(
            lambda y: box(y, low, high),
            lambda g: torch.maximum(g * low, g * high).sum(),
            lambda x: torch.maximum(low - x, x - high),
        )
    if name == "simplex":
        return Set(
            lambda y: simplex(y, size),
            lambda g: size * g.max(),
            lambda x: torch.cat([-x, (x.sum() - size).abs().reshape(1) / n]),
        )
    if name == "capped_simplex":
        cap = whole.abs() + size
        total = 0.4 * cap.sum()

        def far(g: Tensor) -> Tensor:  # fill the largest first
            order = g.argsort(descending=True)
            before = cap[order].cumsum(0) - cap[order]
            return (g[order] * (total - before).clamp_min(0).minimum(cap[order])).sum()

        def outside(x: Tensor) -> Tensor:
            return torch.cat([-x, x - cap, (x.sum() - total).abs().reshape(1) / n])

        return Set(lambda y: capped_simplex(y, total, cap), far, outside)
    if name == "ball":
        return Set(
            lambda y: ball(y, size),
            lambda g: size * torch.linalg.vector_norm(g),
            lambda x: torch.linalg.vector_norm(x) - size,
        )
    normal = whole + 0.5
    assume(normal.abs().max() > 0.01)
    if name == "half_space":

        def reach(g: Tensor) -> Tensor:
            part = (g @ normal) / (normal @ normal)
            along = torch.linalg.vector_norm(g - part * normal) <= 1e-9 * (1 + g.abs().max())
            return size * part if along and part >= -1e-12 else torch.tensor(torch.inf, dtype=F64)

        return Set(lambda y: half_space(y, normal, size), reach, lambda x: normal @ x - size)
    assert name == "affine"
    matrix = torch.stack([normal, 2 * normal])  # the second row is redundant
    right = torch.tensor([size, 2 * size], dtype=F64)

    def on_rows(g: Tensor) -> Tensor:
        part = (g @ normal) / (normal @ normal)
        along = torch.linalg.vector_norm(g - part * normal) <= 1e-9 * (1 + g.abs().max())
        return size * part if along else torch.tensor(torch.inf, dtype=F64)

    return Set(
        lambda y: affine(y, matrix, right), on_rows, lambda x: (matrix @ x - right).abs() / 10
    )


NAMES = ["nonnegative", "box", "simplex", "capped_simplex", "ball", "half_space", "affine"]
every = pytest.mark.parametrize("name", NAMES)


@every
@given(three=points(3), size=sizes)
@settings(deadline=None)
def test_projects(name: str, three: list[Tensor], size: float) -> None:
    """Feasible, at the foot of the variational inequality, idempotent and nonexpansive."""
    y, z, whole = three
    s = make(name, len(y), size, whole)
    x, other = s.project(y), s.project(z)
    scale = 1 + float(y.abs().max()) + size + float(whole.abs().max())
    assert s.outside(x).max() <= 1e-12 * scale
    gap = y - x
    assert s.far(torch.where(gap.abs() < 1e-13 * scale, 0, gap)) - gap @ x <= 1e-11 * scale**2
    torch.testing.assert_close(s.project(x), x, rtol=0, atol=1e-11 * scale)
    assert ((x - other) ** 2).sum() <= (x - other) @ (y - z) + 1e-11 * scale**2


def quadratic_program(y: Tensor, **constraints: Any) -> Tensor:
    options: Any = {"solver": "piqp", "eps_abs": 1e-13, "eps_rel": 1e-13, **constraints}
    x = qpsolvers.solve_qp(np.eye(len(y)), -y.numpy(), **options)
    return torch.tensor(x)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_qp_solver(seed: int) -> None:
    torch.manual_seed(seed)
    n = 6
    y, a, cap = 2 * torch.randn(n, dtype=F64), torch.randn(n, dtype=F64), torch.rand(n, dtype=F64)
    A, b = torch.randn(2, n, dtype=F64), torch.randn(2, dtype=F64)
    ones, zeros, total = np.ones((1, n)), np.zeros(n), 0.5 * cap.sum()
    one = np.ones(1)
    for ours, theirs in [
        (simplex(y), quadratic_program(y, A=ones, b=one, lb=zeros)),
        (
            capped_simplex(y, total, cap),
            quadratic_program(y, A=ones, b=total.numpy() * one, lb=zeros, ub=cap.numpy()),
        ),
        (half_space(y, a, -1.0), quadratic_program(y, G=a.numpy()[None], h=-one)),
        (affine(y, A, b), quadratic_program(y, A=A.numpy(), b=b.numpy())),
        (box(y, -cap, cap), quadratic_program(y, lb=-cap.numpy(), ub=cap.numpy())),
    ]:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


def bisect(y: Tensor, total: float, cap: Tensor) -> Tensor:
    """The projection on the capped simplex by bisection for τ: slow, and nothing to get wrong."""
    cap = cap.clamp_max(total)
    low, high = (y - cap).min() - 1, y.max() + 1
    for _ in range(200):
        tau = 0.5 * (low + high)
        too_much = (y - tau).clamp_min(0).minimum(cap).sum() > total
        low, high = (tau, high) if too_much else (low, tau)
    return (y - high).clamp_min(0).minimum(cap)


caps = st.one_of(st.integers(0, 2).map(float), st.just(torch.inf), st.floats(0.0, 5.0))


@given(y=points(), data=st.data())
@settings(deadline=None)
def test_capped_simplex_agrees_with_bisection(y: Tensor, data: st.DataObject) -> None:
    n = len(y)
    cap = torch.tensor(data.draw(st.lists(caps, min_size=n, max_size=n)), dtype=F64)
    most = float(cap.clamp_max(5.0).sum())
    total = data.draw(st.one_of(st.integers(0, int(most)).map(float), st.floats(0, most)))
    x = capped_simplex(y, torch.tensor(total, dtype=F64), cap)
    torch.testing.assert_close(x, bisect(y, total, cap), rtol=0, atol=1e-12)
    assert (x >= 0).all()
    assert (x <= cap).all()


@given(y=points(), total=sizes)
@settings(deadline=None)
def test_simplex_is_the_capped_simplex_without_a_cap(y: Tensor, total: float) -> None:
    for cap in (torch.inf, total, 1e300):
        torch.testing.assert_close(
            capped_simplex(y, total, cap), simplex(y, total), rtol=1e-12, atol=1e-13
        )


# -- scales, shapes, dtypes ----------------------------------------------------------------------

UNIT: dict[str, tuple[Operator, Callable[[float, torch.dtype], tuple[Any, ...]]]] = {
    "nonnegative": (nonnegative, lambda k, d: ()),
    "box": (box, lambda k, d: (-0.5 * k, torch.tensor([k, 0.0, torch.inf], dtype=d))),
    "simplex": (simplex, lambda k, d: (k,)),
    "capped_simplex": (capped_simplex, lambda k, d: (1.5 * k, torch.tensor(k, dtype=d))),
    "ball": (ball, lambda k, d: (k,)),
    "half_space": (half_space, lambda k, d: (torch.tensor([1.0, -2.0, 0.5], dtype=d), -k)),
    "affine": (
        affine,
        lambda k, d: (torch.tensor([[1.0, 1.0, 1.0]], dtype=d), torch.tensor([k], dtype=d)),
    ),
}


@every
@given(y=st.lists(st.floats(-3, 3), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_equivariant_under_scaling(name: str, y: list[float]) -> None:
    project, parameters = UNIT[name]
    point = torch.tensor(y, dtype=F64)
    unit = project(point, *parameters(1.0, F64))
    for scale in (1e-8, 1e8):
        scaled = project(scale * point, *parameters(scale, F64))
        torch.testing.assert_close(scaled, scale * unit, rtol=1e-12, atol=1e-13 * scale)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_keeps_shape_and_dtype_and_rows_are_alone(
    name: str, dtype: torch.dtype, batch: tuple[int, ...]
) -> None:
    project, parameters = UNIT[name]
    y = torch.randn(*batch, 3, dtype=dtype)
    x = project(y, *parameters(1.0, dtype))
    assert (x.shape, x.dtype) == (y.shape, dtype)
    for row, alone in zip(x.reshape(-1, 3), y.reshape(-1, 3), strict=True):
        torch.testing.assert_close(project(alone, *parameters(1.0, dtype)), row)


def test_one_entry() -> None:
    y = torch.tensor([[3.0], [-2.0]], dtype=F64)
    assert simplex(y, 0.7).flatten().tolist() == [0.7, 0.7]
    assert capped_simplex(y, 0.7).flatten().tolist() == [0.7, 0.7]
    assert ball(y).flatten().tolist() == [1.0, -1.0]


def test_entries_of_very_different_size() -> None:
    """The common part of the entries must not cost the digits of the result."""
    y = torch.tensor([1e8, 0.3, 0.299])
    for shift in (0.0, 1e3):
        x = capped_simplex(y + shift, 2.0)
        torch.testing.assert_close(x, torch.tensor([1.0, 0.5005, 0.4995]), rtol=0, atol=1e-4)
        assert x.sum() == 2
    large = torch.full((2,), 1e8)
    torch.testing.assert_close(simplex(large, 1e-8), torch.full((2,), 5e-9))
    torch.testing.assert_close(capped_simplex(large, 1e-8), torch.full((2,), 5e-9))
    torch.testing.assert_close(ball(1e30 * torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8]))
    rows = torch.tensor([[1e8, 0.0], [0.0, 1e-8]])
    x = affine(torch.tensor([2.0, 3.0]), rows, torch.tensor([1e8, 1e-8]))
    torch.testing.assert_close(x, torch.ones(2))


def test_sums_to_the_caps_within_rounding_is_not_empty() -> None:
    x = capped_simplex(torch.randn(10, dtype=F64), 1.0, 0.1)  # ten times 0.1 is below 1
    torch.testing.assert_close(x, torch.full((10,), 0.1, dtype=F64))


def test_nearly_a_vertex() -> None:
    """The caps make up the total, and an entry is nearly full for lack of digits only."""
    y, cap = torch.tensor([4e-15, 0, 20], dtype=F64), torch.tensor([1, 1, 0.6281], dtype=F64)
    torch.testing.assert_close(capped_simplex(y, cap.sum(), cap), cap)


@pytest.mark.parametrize("n", [2, 20])
def test_moved_along_the_normal_from_the_boundary(n: int) -> None:
    """The worst place for rounding: it must not cost the sum, nor leave the bounds by a digit."""
    y, cap = torch.randn(3000, n, dtype=F64), torch.rand(3000, n, dtype=F64)
    total = 0.4 * cap.sum(-1)
    for bound in (cap, torch.tensor(torch.inf, dtype=F64)):
        x = capped_simplex(y, total, bound)
        again = capped_simplex(x + 0.1, total, bound)
        torch.testing.assert_close(again, x, rtol=0, atol=1e-14)
        assert (again >= 0).all()
        assert (again <= bound).all()
        x = simplex(y, total)
        again = simplex(x + 0.1, total)
        torch.testing.assert_close(again, x, rtol=0, atol=1e-14)
        assert (again >= 0).all()


def test_minus_infinity_is_never_chosen() -> None:
    y = torch.tensor([0.2, -torch.inf, 0.1])
    torch.testing.assert_close(simplex(y), torch.tensor([0.55, 0.0, 0.45]))
    torch.testing.assert_close(capped_simplex(y, 2.0), torch.tensor([1.0, 0.0, 1.0]))


def test_affine_without_rows_and_with_rows_of_no_numbers() -> None:
    y, A = torch.randn(2, 3), torch.tensor([[[1.0, torch.nan, 1.0]], [[1.0, 1.0, 1.0]]])
    torch.testing.assert_close(affine(y, torch.zeros(0, 3), torch.zeros(0)), y)
    x = affine(y, A, torch.ones(1))
    assert x[0].isnan().all()
    torch.testing.assert_close(x[1].sum(), torch.tensor(1.0))


def test_no_host_looks_at_the_values() -> None:
    """Everything runs on the meta device, where there are no values."""
    for project, parameters in UNIT.values():
        y = torch.ones(2, 3, device="meta")
        moved = [
            p.to("meta") if isinstance(p, Tensor) else p for p in parameters(1.0, torch.float32)
        ]
        assert project(y, *moved).shape == (2, 3)
