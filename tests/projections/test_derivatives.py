"""The projections' derivatives: closed forms, kinks, vertices, NaN; and bad arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import foldopt as fo
from foldopt.projections import (
    affine,
    ball,
    box,
    capped_simplex,
    half_space,
    nonnegative,
    simplex,
)
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
)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


NORMAL = tensor(1.0, -2.0, 0.5)
MATRIX = torch.stack([tensor(1.0, 1.0, 1.0), NORMAL])

# An operator with arguments after y; a point in general position; its Jacobian in y, by hand.
CLOSED: dict[str, tuple[Operator, tuple[Any, ...], Tensor, Tensor]] = {
    "nonnegative": (nonnegative, (), tensor(1, -2, 3), tensor(1, 0, 1).diag()),
    "box": (box, (tensor(0, -1, 0), 2.0), tensor(1, -2, 3), tensor(1, 0, 0).diag()),
    "simplex": (
        simplex,
        (),
        tensor(0.5, 0.7, -1),
        tensor(1, 1, 0).diag() - torch.outer(tensor(1, 1, 0), tensor(1, 1, 0)) / 2,
    ),
    "capped_simplex": (
        capped_simplex,
        (1.4,),
        tensor(3, 0.4, 0.2),
        tensor(0, 1, 1).diag() - torch.outer(tensor(0, 1, 1), tensor(0, 1, 1)) / 2,
    ),
    "ball": (
        ball,
        (2.0,),
        tensor(3, 0, -4),
        0.4 * (torch.eye(3, dtype=F64) - torch.outer(tensor(3, 0, -4), tensor(3, 0, -4)) / 25),
    ),
    "ball, inside": (ball, (6.0,), tensor(3, 0, -4), torch.eye(3, dtype=F64)),
    "half_space": (
        half_space,
        (NORMAL, -1.0),
        tensor(1, 0.5, 1),
        torch.eye(3, dtype=F64) - torch.outer(NORMAL, NORMAL) / 5.25,
    ),
    "affine": (
        affine,
        (torch.cat([MATRIX, MATRIX[:1]]), tensor(1, 2, 1)),  # with a redundant row
        tensor(1, 0.5, 1),
        torch.eye(3, dtype=F64) - MATRIX.T @ torch.linalg.solve(MATRIX @ MATRIX.T, MATRIX),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_jacobian_is_as_documented(name: str) -> None:
    project, parameters, y, documented = CLOSED[name]
    torch.testing.assert_close(jacobian(project, y, *parameters), documented)
    found = differences(project, y, *parameters)
    torch.testing.assert_close(found, documented, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("project", "arguments", "of", "documented"),
    [
        (simplex, (tensor(0.5, 0.7, -1), tensor(1.0)[0]), 1, tensor(0.5, 0.5, 0)),
        (capped_simplex, (tensor(3, 0.4, 0.2), tensor(1.4)[0]), 1, tensor(0, 0.5, 0.5)),
        (
            capped_simplex,
            (tensor(3, 0.4, 0.2), 1.4, tensor(1, 1, 1)),
            2,
            torch.outer(tensor(1, -0.5, -0.5), tensor(1, 0, 0)),
        ),
        (box, (tensor(1, -2, 3), tensor(0, -1, 0), 2.0), 1, tensor(0, 1, 0).diag()),
        (ball, (tensor(3, 0, -4), tensor(2.0)[0]), 1, tensor(0.6, 0, -0.8)),
        (half_space, (tensor(1, 0.5, 1), NORMAL, tensor(-1.0)[0]), 2, NORMAL / 5.25),
    ],
)
def test_jacobian_in_the_set(
    project: Operator, arguments: tuple[Any, ...], of: int, documented: Tensor
) -> None:
    torch.testing.assert_close(jacobian(project, *arguments, of=of), documented)
    found = differences(project, *arguments, of=of)
    torch.testing.assert_close(found, documented, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shared", [True, False])
def test_first_and_second_derivatives_in_everything(shared: bool) -> None:
    batch = () if shared else (2,)
    y = leaf(2, 4)
    check_derivatives(nonnegative, y)
    check_derivatives(box, y, leaf(*batch, 4, low=-0.8), leaf(*batch, 4, low=0.2))
    check_derivatives(simplex, y, leaf(*batch, low=0.5))
    check_derivatives(capped_simplex, y, leaf(*batch, low=0.2), leaf(*batch, 4, low=0.3))
    check_derivatives(ball, y, leaf(*batch, low=0.5))
    check_derivatives(half_space, y, leaf(*batch, 4), leaf(*batch, low=-2))
    check_derivatives(affine, y, leaf(*batch, 2, 4), leaf(*batch, 2))


@pytest.mark.parametrize(
    ("project", "parameters", "y"),
    [
        (nonnegative, (), tensor(0, 1, -1)),
        (box, (-1.0, 1.0), tensor(-1, 1, 0)),
        (simplex, (), tensor(0.6, 0.4, 0)),  # feasible, on the boundary
        (simplex, (), tensor(1, 0, 0)),
        (simplex, (), tensor(1, 1, 1)),
        (simplex, (0.0,), tensor(1, 1, 0)),
        (capped_simplex, (1.0,), tensor(1, 0, 0)),
        (capped_simplex, (1.5,), tensor(1, 0.5, 0)),
        (capped_simplex, (1.5, tensor(1, 0.5, 0)), tensor(1, 1, 1)),
        (ball, (5.0,), tensor(3, 4)),
        (half_space, (NORMAL, 0.0), tensor(2, 1, 0)),
    ],
)
def test_derivative_at_a_kink_is_one_of_those_around(
    project: Operator, parameters: tuple[Any, ...], y: Tensor
) -> None:
    assert is_limit_of_jacobians(project, y, *parameters)


@given(y=points())
@settings(max_examples=40, deadline=None)
def test_derivative_is_that_of_a_projection(y: Tensor) -> None:
    for project in (nonnegative, simplex, capped_simplex, ball):
        assert_derivative_of_a_projection(torch.func.jacrev(project)(y))


@pytest.mark.parametrize(
    ("y", "k"),
    [((5, 5, 0), 2), ((5, 0, 0), 1), ((0, 0, 0), 3), ((0, 0, 0), 0), ((5, 5, -5, -5, -5), 2)],
)
def test_capped_simplex_does_not_move_at_a_vertex_however_the_entries_tie(
    y: tuple[float, ...], k: int
) -> None:
    """The k largest are at 1, the others at 0: exactly what top-k layers ask for."""
    point, total = tensor(*y), torch.tensor(k, dtype=F64)
    assert capped_simplex(point, total).tolist() == [1.0] * k + [0.0] * (len(y) - k)
    assert (jacobian(capped_simplex, point, total) == 0).all()
    assert (differences(capped_simplex, point, total) == 0).all()
    # What s gains goes to one entry: the derivative of the sum is 1 all the same.
    assert jacobian(capped_simplex, point, total, of=1).sort().values.tolist()[-2:] == [0, 1]


def test_a_set_of_one_point_has_jacobian_zero() -> None:
    zero, half = torch.zeros(3, dtype=F64), torch.full((3,), 0.5, dtype=F64)
    for project, parameters, y in [
        (ball, (0.0,), zero),
        (box, (0.5, 0.5), half),
        (box, (half, half), half),
        (simplex, (0.0,), tensor(1, 1, -1)),
        (capped_simplex, (0.0,), zero),
        (capped_simplex, (1.5, 0.5), half),
    ]:
        assert (jacobian(project, y, *parameters) == 0).all(), project


def test_infinite_sizes_have_finite_derivatives() -> None:
    inf = torch.tensor(torch.inf, dtype=F64, requires_grad=True)
    y = leaf(4)
    for x in (
        box(y, -inf, inf),
        ball(y, inf),
        half_space(y, normal := leaf(4), inf),
        capped_simplex(y, 2.0, inf),
    ):
        assert torch.isfinite(x).all()
        grads = torch.autograd.grad(x.square().sum(), (y, inf, normal), allow_unused=True)
        assert all(torch.isfinite(grad).all() for grad in grads if grad is not None)


def test_vmap_of_grad_over_points_and_sets() -> None:
    y, total, cap = leaf(4, 3), leaf(4, low=0.2), leaf(4, 3, low=0.5)
    for project, rest in [(simplex, (total,)), (capped_simplex, (total, cap)), (ball, (total,))]:
        grad = torch.func.grad(
            lambda y, *rest, project=project: (project(y, *rest) ** 3).sum(),
            tuple(range(1 + len(rest))),
        )
        together = torch.func.vmap(grad)(y, *rest)
        for row in range(4):
            alone = grad(y[row], *(part[row] for part in rest))
            torch.testing.assert_close(tuple(part[row] for part in together), alone)


# -- NaN and bad arguments -----------------------------------------------------------------------


def test_nan_in_the_point_is_not_hidden() -> None:
    y = torch.tensor([[torch.nan, 0.1, 0.2], [0.3, 0.1, 0.2]])
    assert nonnegative(y)[0].isnan().any()
    assert box(y, -1.0, 0.0)[0].isnan().any()
    for x in (
        simplex(y),
        capped_simplex(y, 1.5),
        capped_simplex(y, 2.0),
        ball(y, 10.0),
        ball(y, 0.1),
        half_space(y, torch.ones(3), 0.1),
        affine(y, torch.ones(1, 3), torch.ones(1)),
    ):
        assert x[0].isnan().all()
        assert torch.isfinite(x[1]).all()


@pytest.mark.parametrize("bad", [torch.nan, -1.0])
def test_nan_or_an_empty_set_given_by_tensors_is_not_hidden(bad: float) -> None:
    y, size = torch.tensor([[0.3, 0.1], [0.3, 0.1]]), torch.tensor([bad, 1.0])
    for x in (
        box(y, 0.0, size.unsqueeze(-1)),
        box(y, -size.unsqueeze(-1), 0.0),
        simplex(y, size),
        capped_simplex(y, size),
        capped_simplex(y, 0.0, size.unsqueeze(-1)),
        ball(y, size),
    ):
        assert x[0].isnan().all()
        assert torch.isfinite(x[1]).all()
    assert capped_simplex(y, torch.tensor(2.1)).isnan().all()


def test_folding_an_empty_set_names_the_sample_and_masks_it() -> None:
    step = fo.steps.projected_gradient(
        lambda x, c, s: 0.5 * ((x - c) ** 2).sum(-1), capped_simplex, 1.0, projection_params=(1,)
    )
    c, total = leaf(2, 3), torch.tensor([1.0, 4.0], dtype=F64)
    x_star = capped_simplex(c.detach(), torch.tensor([1.0, 3.0], dtype=F64))
    with pytest.raises(fo.FoldError, match=r"1 NONFINITE \(first: sample 1 of 2"):
        fo.fold(step, x_star, c, total)
    fo.fold(step, x_star, c, total, on_failure="mask").square().sum().backward()
    assert c.grad is not None
    alone = c.detach()[:1].requires_grad_()
    capped_simplex(alone, 1.0).square().sum().backward()
    torch.testing.assert_close(c.grad[:1], alone.grad)
    assert (c.grad[1] == 0).all()


Y = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: box(Y, 1.0, 0.0), ValueError, "box: lower=1.0 must be at most upper=0.0"),
        (lambda: box(Y, 0.0, torch.ones(2)), ValueError, r"box: upper of shape \(2,\).*\(2, 3\)"),
        (lambda: nonnegative(torch.ones(2, dtype=torch.int)), TypeError, "nonnegative: y must be"),
        (lambda: simplex(Y, -1.0), ValueError, "simplex: total must be 0 or more"),
        (lambda: simplex(Y, torch.ones(2, 1)), ValueError, r"simplex: total of shape \(2, 1\)"),
        (lambda: simplex(Y, torch.ones((), dtype=F64)), TypeError, "total is torch.float64 and y"),
        (lambda: simplex(Y[:, :0]), ValueError, r"y needs at least one entry.*\(2, 0\)"),
        (lambda: simplex(torch.tensor(1.0)), ValueError, r"simplex: y must have shape \(\*batch"),
        (lambda: capped_simplex(Y, 3.1), ValueError, r"is empty: total=3.1 .* cap=1.0"),
        (lambda: capped_simplex(Y, 1.0, -1.0), ValueError, "cap must be 0 or more"),
        (lambda: capped_simplex(Y, 1.0, torch.ones(2)), ValueError, r"cap of shape \(2,\)"),
        (lambda: ball(Y, -1.0), ValueError, "ball: radius must be 0 or more"),
        (lambda: ball(Y, torch.ones(3)), ValueError, r"radius of shape \(3,\).*\(2,\)"),
        (lambda: half_space(Y, torch.ones(1), 0.0), ValueError, r"normal must .*\(3,\).*\(1,\)"),
        (lambda: half_space(Y, 1.0, 0.0), ValueError, "normal must be a tensor"),  # type: ignore
        (lambda: affine(Y, torch.ones(3), torch.ones(1)), ValueError, r"matrix must .*\(3,\)"),
        (lambda: affine(Y, torch.ones(1, 2), torch.ones(1)), ValueError, r"matrix .*got \(1, 2\)"),
        (lambda: affine(Y, torch.ones(2, 3), torch.ones(1)), ValueError, r"right .*got \(1,\)"),
        (lambda: affine(Y, torch.ones(4, 1, 3), torch.ones(1)), ValueError, r"\(4, 1, 3\)"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"projections.*{says}"):
        call()
