"""What every closed-form operator promises, whatever its set or function is.

The oracles of each one stand in a file of its kind; the older ones have files of their own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from foldopt import projections, prox
from tests.closed_forms import (
    F64,
    Operator,
    assert_derivative_of_a_projection,
    check_derivatives,
    differences,
    entries,
    jacobian,
    leaf,
)

GROUPS = torch.tensor([1, 0, 1, 2])


@dataclasses.dataclass(frozen=True)
class Case:
    """An operator, the shape of one y, and what it takes after y.

    ``parameters(scale, dtype)``: of the size of y; ``leaves(batch)``: differentiable ones.
    ``mixes``: whether every entry of x depends on all of y; ``looks``: whether a parameter is
    looked at.
    """

    operator: Operator
    event: tuple[int, ...]
    parameters: Callable[[float, torch.dtype], tuple[Any, ...]] = lambda k, dtype: ()
    leaves: Callable[[tuple[int, ...]], tuple[Tensor, ...]] = lambda batch: ()
    mixes: bool = True
    looks: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.event)


def size_of_a_set(k: float, dtype: torch.dtype) -> tuple[Any, ...]:
    return (torch.tensor(1.1 * k, dtype=dtype),)


def one_size(batch: tuple[int, ...]) -> tuple[Tensor, ...]:
    return (leaf(*batch, low=0.3),)


def one_each(batch: tuple[int, ...]) -> tuple[Tensor, ...]:
    return (leaf(*batch, 3, low=0.2),)


def orders(k: float, dtype: torch.dtype) -> tuple[Any, ...]:
    return (torch.tensor([-k, 2 * k, 0.5 * k, k], dtype=dtype),)


def grouped(y: Tensor, weight: Tensor | float) -> Tensor:
    return prox.group_l2(y, weight, GROUPS.to(y.device))


CASES = {
    "l1_ball": Case(projections.l1_ball, (4,), size_of_a_set, one_size),
    "linf_ball": Case(projections.linf_ball, (4,), size_of_a_set, one_size, mixes=False),
    "second_order_cone": Case(projections.second_order_cone, (4,)),
    "exponential_cone": Case(projections.exponential_cone, (3,)),
    "positive_semidefinite": Case(projections.positive_semidefinite, (3, 3)),
    "isotonic": Case(projections.isotonic, (5,)),
    "permutahedron": Case(
        projections.permutahedron, (4,), orders, lambda batch: (leaf(*batch, 4),)
    ),
    "linf": Case(prox.linf, (4,), size_of_a_set, one_size),
    "group_l2": Case(grouped, (4,), size_of_a_set, one_each, mixes=False, looks=True),
    "nuclear": Case(prox.nuclear, (2, 3), size_of_a_set, one_size),
    "total_variation": Case(prox.total_variation, (5,), size_of_a_set, one_size),
}


def over(names: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(CASES[k], id=k) for k in names])


every = over(CASES)
with_a_size = over(k for k, case in CASES.items() if case.leaves is one_size)


# -- values --------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_keeps_shape_dtype_device_and_rows_are_alone(
    case: Case, dtype: torch.dtype, batch: tuple[int, ...], device: torch.device
) -> None:
    y = torch.randn(*batch, *case.event, dtype=dtype, device=device)
    parameters = [p.to(device) for p in case.parameters(1.0, dtype)]
    x = case.operator(y, *parameters)
    assert (x.shape, x.dtype, x.device) == (y.shape, dtype, y.device)
    rows = zip(x.reshape(-1, *case.event), y.reshape(-1, *case.event), strict=True)
    for row, alone in rows:
        torch.testing.assert_close(case.operator(alone, *parameters), row)


@every
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_firmly_nonexpansive(case: Case, data: st.DataObject) -> None:
    """(p − q)ᵀ(p − q) ≤ (p − q)ᵀ(y − z): so is every proximal operator, and little else."""
    drawn = st.lists(entries, min_size=case.size, max_size=case.size)
    y, z = (torch.tensor(data.draw(drawn), dtype=F64).reshape(case.event) for _ in range(2))
    change = case.operator(y, *case.parameters(1.0, F64)) - case.operator(
        z, *case.parameters(1.0, F64)
    )
    scale = 1 + float(y.abs().max()) + float(z.abs().max())
    assert change.square().sum() <= (change * (y - z)).sum() + 1e-13 * scale**2


@every
@pytest.mark.parametrize("scale", [1e-8, 1e8, 1e-150, 1e150])
def test_equivariant_under_scaling(case: Case, scale: float) -> None:
    y = 2 * torch.randn(50, *case.event, dtype=F64)
    unit = case.operator(y, *case.parameters(1.0, F64))
    scaled = case.operator(scale * y, *case.parameters(scale, F64))
    torch.testing.assert_close(scaled / scale, unit, rtol=1e-12, atol=1e-13)


@every
def test_single_precision_is_the_double_one_rounded(case: Case) -> None:
    y = 2 * torch.randn(200, *case.event)
    exact = case.operator(y.double(), *case.parameters(1.0, F64))
    x = case.operator(y, *case.parameters(1.0, torch.float32))
    torch.testing.assert_close(x.double(), exact, rtol=0, atol=2e-5)


@every
def test_nan_is_not_hidden_and_stays_in_its_row(case: Case) -> None:
    for place in range(case.size):
        y = torch.randn(3, *case.event)
        y[1].view(-1)[place] = torch.nan
        x = case.operator(y, *case.parameters(1.0, torch.float32))
        assert x[1].isnan().any()
        assert not case.mixes or x[1].isnan().all()
        assert torch.isfinite(x[0]).all()
        assert torch.isfinite(x[2]).all()


@with_a_size
@pytest.mark.parametrize("bad", [torch.nan, -1.0])
def test_a_size_that_is_bad_gives_nan(case: Case, bad: float) -> None:
    y, size = torch.randn(2, *case.event), torch.tensor([bad, 1.0])
    x = case.operator(y, size)
    assert x[0].isnan().all()
    assert torch.isfinite(x[1]).all()
    if bad < 0:
        with pytest.raises(ValueError, match="must be 0 or more, got -1"):
            case.operator(y, bad)


@over(k for k, case in CASES.items() if not case.looks)
def test_runs_on_the_meta_device(case: Case) -> None:
    """Where there are no values, and no loop may wait for them."""
    y = torch.ones(2, *case.event, device="meta")
    parameters = [p.to("meta") for p in case.parameters(1.0, torch.float32)]
    assert case.operator(y, *parameters).shape == y.shape


# -- derivatives ---------------------------------------------------------------------------------


@every
def test_first_and_second_derivatives_in_everything(case: Case) -> None:
    rows = 4 if case.operator is projections.exponential_cone else 2
    check_derivatives(case.operator, leaf(rows, *case.event), *case.leaves((rows,)))


@over(k for k, case in CASES.items() if case.leaves(()))
def test_derivatives_in_a_parameter_that_samples_share(case: Case) -> None:
    check_derivatives(case.operator, leaf(2, *case.event), *case.leaves(()))


@every
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_jacobian_is_that_of_finite_differences_and_of_a_proximal_operator(
    case: Case, scale: float
) -> None:
    y, parameters = scale * torch.randn(case.event, dtype=F64), case.parameters(0.5 * scale, F64)
    J = jacobian(case.operator, y, *parameters)
    found = differences(case.operator, y, *parameters, h=1e-6 * scale)
    torch.testing.assert_close(J, found, rtol=0, atol=1e-8)
    assert_derivative_of_a_projection(J.reshape(case.size, case.size))


@every
def test_vmap_of_grad_over_points_and_parameters(case: Case) -> None:
    y, parameters = torch.randn(4, *case.event, dtype=F64), case.leaves((4,))
    grad = torch.func.grad(
        lambda y, *rest: (case.operator(y, *rest) ** 3).sum(), tuple(range(1 + len(parameters)))
    )
    together = torch.func.vmap(grad)(y, *parameters)
    for row in range(4):
        alone = grad(y[row], *(part[row] for part in parameters))
        torch.testing.assert_close(tuple(part[row] for part in together), alone)


@every
def test_hessian_in_every_order_of_modes(case: Case) -> None:
    y, parameters = torch.randn(case.event, dtype=F64), case.parameters(0.5, F64)

    def f(y: Tensor) -> Tensor:
        return (case.operator(y, *parameters) ** 3).sum()

    expected = differences(torch.func.grad(f), y)
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        hessian = outer(torch.func.jacrev(f))(y)
        torch.testing.assert_close(hessian, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacfwd(f))(y), hessian)


@every
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_derivative_is_finite_and_of_a_proximal_operator_at_ties(
    case: Case, data: st.DataObject
) -> None:
    """Whole numbers tie, lie on boundaries, and make singular and repeated eigenvalues."""
    whole = st.lists(st.integers(-2, 2).map(float), min_size=case.size, max_size=case.size)
    y = torch.tensor(data.draw(whole), dtype=F64).reshape(case.event)
    k = data.draw(st.sampled_from([0.0, 1.0, 3.0]))
    parameters = case.parameters(k / 1.1, F64)
    J = torch.func.jacrev(case.operator)(y, *parameters).reshape(case.size, case.size)
    assert_derivative_of_a_projection(J)
    second = torch.func.hessian(lambda y: (case.operator(y, *parameters) ** 2).sum())(y)
    assert torch.isfinite(second).all()


# -- bad arguments that all refuse ---------------------------------------------------------------


@every
def test_a_point_of_the_wrong_kind(case: Case) -> None:
    parameters = case.parameters(1.0, torch.float32)
    name = "group_l2" if case.operator is grouped else case.operator.__name__
    place = "prox" if hasattr(prox, name) else "projections"
    with pytest.raises(TypeError, match=rf"{place}.{name}: y must be .* got torch.int64"):
        case.operator(torch.ones(case.event, dtype=torch.int64), *parameters)
    with pytest.raises(ValueError, match=rf"{place}.{name}: y must have shape \(\*batch"):
        case.operator(torch.tensor(1.0), *parameters)
