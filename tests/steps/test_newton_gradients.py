"""Folded Newton, KKT and SQP steps: every kind of derivative, against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt import steps
from foldopt.operators import PrimalDual
from tests.kkt import (
    BUILDERS,
    FULL,
    ball,
    build,
    fold_lowest,
    leaves_of,
    linear,
    lowest,
)
from tests.programs import F64

N = 3


def accuracy(name: str) -> float:
    return 1e-7 if "qpth" in name else 1e-9


def assert_same_gradients(found: Tensor, wanted: Tensor, leaves: Any, atol: float = 1e-9) -> None:
    weights = torch.randn(wanted.shape, dtype=wanted.dtype)
    pair = [
        torch.autograd.grad((weights * y).sum(), leaves, retain_graph=True) for y in (found, wanted)
    ]
    torch.testing.assert_close(pair[0], pair[1], rtol=0, atol=atol)


# -- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("name", BUILDERS)
def test_least_linear_function_on_a_ball(name: str, alpha: float) -> None:
    c, r = leaves_of((4, N), (4,))
    found = fold_lowest(build(name, linear, ball, None, alpha), c, r)
    wanted = lowest(c, r)
    assert_same_gradients(found.x, wanted.x, (c, r), accuracy(name))
    assert_same_gradients(found.inequality, wanted.inequality, (c, r), accuracy(name))


def quadratic(x: Tensor, Q: Tensor, p: Tensor, A: Tensor, b: Tensor) -> Tensor:
    return 0.5 * x @ Q @ x + p @ x


def equations(x: Tensor, Q: Tensor, p: Tensor, A: Tensor, b: Tensor) -> Tensor:
    return A @ x - b


def equality_qp(Q: Tensor, p: Tensor, A: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """x and ν from the KKT matrix, by LAPACK."""
    Q, k = (Q + Q.mT) / 2, A.shape[-2]  # all that xᵀQx sees
    zero = A.new_zeros(*A.shape[:-2], k, k)
    K = torch.cat([torch.cat([Q, A.mT], -1), torch.cat([A, zero], -1)], -2)
    z = torch.linalg.solve(K, torch.cat([-p, b], -1))
    return z[..., : p.shape[-1]], z[..., p.shape[-1] :]


def qp_data(samples: int, k: int = 2) -> list[Tensor]:
    R = torch.randn(samples, 4, 4, dtype=F64)
    Q = torch.eye(4, dtype=F64) + R @ R.mT
    return [Q.requires_grad_(), *leaves_of((samples, 4), (samples, k, 4), (samples, k))[:2],
            torch.randn(samples, k, dtype=F64, requires_grad=True)]  # fmt: skip


@pytest.mark.parametrize("name", BUILDERS)
def test_quadratic_program_with_equalities(name: str) -> None:
    data = qp_data(3)
    x, nu = equality_qp(*data)
    z = PrimalDual(x.detach(), torch.zeros(3, 0, dtype=F64), nu.detach())
    found = fo.fold(build(name, quadratic, None, equations), z, *data)
    assert_same_gradients(found.x, x, data, accuracy(name))
    assert_same_gradients(found.equality, nu, data, accuracy(name))


@pytest.mark.parametrize("name", ["newton", *BUILDERS])
def test_no_constraints_at_all(name: str) -> None:
    """x* = log c, where f = Σ eˣ − cᵀx."""
    step = build(name, bowl) if name in BUILDERS else steps.newton(bowl)
    c = (1 + torch.rand(3, N, dtype=F64)).requires_grad_()
    none = torch.zeros(3, 0, dtype=F64)
    state = c.detach().log() if name == "newton" else (c.detach().log(), none, none)
    found = step.solution(fo.fold(step, state, c), c)
    assert_same_gradients(found, c.log(), (c,))


def bowl(x: Tensor, c: Tensor) -> Tensor:
    return (x.exp() - c * x).sum()


# -- gradcheck and transforms ------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("name", FULL)
def test_first_and_second_derivatives(name: str, alpha: float) -> None:
    step = build(name, linear, ball, None, alpha)

    def solution(c: Tensor, r: Tensor) -> Tensor:
        return torch.cat(fold_lowest(step, c, r)[:2], -1)

    leaves = leaves_of((1, 2), (1,))
    assert gradcheck(solution, leaves)
    assert gradgradcheck(solution, leaves)


def test_first_and_second_derivatives_of_newton() -> None:
    step = steps.newton(bowl)
    c = (1 + torch.rand(2, 2, dtype=F64)).requires_grad_()

    def solution(c: Tensor) -> Tensor:
        return fo.fold(step, c.detach().log(), c)

    assert gradcheck(solution, c, check_forward_ad=True)
    assert gradgradcheck(solution, c)
    point = c.detach()[0]
    third = torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(
        lambda c: fo.fold(step, c.detach().log(), c, batch_dims=0).sum())))(point)  # fmt: skip
    torch.testing.assert_close(third[0, 0, 0], 2 / point[0] ** 3)


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "jacrev": torch.func.jacrev,
    "jacfwd": torch.func.jacfwd,
    "hessian": torch.func.hessian,
    "jacrev of jacfwd": lambda f: torch.func.jacrev(torch.func.jacfwd(f)),
    "jacrev of jacrev": lambda f: torch.func.jacrev(torch.func.jacrev(f)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", FULL)
def test_transforms(name: str, transform: str) -> None:
    step = build(name, linear, ball)

    def found(c: Tensor) -> Tensor:
        return fold_lowest(step, c, 1.5, batch_dims=0).x

    def wanted(c: Tensor) -> Tensor:
        return lowest(c, 1.5).x

    c = torch.randn(2, N, dtype=F64)
    mapped = [torch.func.vmap(TRANSFORMS[transform](f))(c) for f in (found, wanted)]
    torch.testing.assert_close(*mapped, rtol=0, atol=1e-9)
    if transform in ("jacrev", "jacfwd"):
        alone = TRANSFORMS[transform](found)(c[0])
        torch.testing.assert_close(alone, mapped[0][0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("part", ["x", "inequality"])
@pytest.mark.parametrize("name", FULL)
def test_dual_numbers(name: str, part: str) -> None:
    c, t = torch.randn(2, 4, N, dtype=F64)
    step = build(name, linear, ball)
    with forward_ad.dual_level():
        point = fold_lowest(step, forward_ad.make_dual(c, t), 1.5)
        found = forward_ad.unpack_dual(getattr(point, part)).tangent
    wanted = torch.func.jvp(lambda c: getattr(lowest(c, 1.5), part), (c,), (t,))[1]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


# -- batches and structures --------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_a_sample_alone_is_its_row_in_the_batch(name: str) -> None:
    step = build(name, linear, ball)
    c, r = leaves_of((4, N), (4,))
    together = fold_lowest(step, c, r)
    weights = torch.randn(4, N, dtype=F64)
    grads = torch.autograd.grad((weights * together.x).sum(), (c, r))
    for row in range(4):
        one = fold_lowest(step, c[row : row + 1], r[row : row + 1])
        alone = fold_lowest(step, c[row], r[row], batch_dims=0)
        for x in (one.x[0], alone.x):
            torch.testing.assert_close(x, together.x[row])
            found = torch.autograd.grad((weights[row] * x).sum(), (c, r))
            torch.testing.assert_close(found[0][row], grads[0][row])
            torch.testing.assert_close(found[1][row], grads[1][row])


@pytest.mark.parametrize("name", BUILDERS)
def test_what_samples_share_gets_the_sum_of_gradients(name: str) -> None:
    """By its position in ``shared``, or as a number ``()``; within a structure, too."""
    c, r = leaves_of((4, N), (4,))
    scale = torch.randn(N, dtype=F64).requires_grad_()
    one = (1 + torch.rand((), dtype=F64)).requires_grad_()

    def objective(x: Tensor, d: dict[str, Any], s: Tensor, one: Tensor) -> Tensor:
        return (d["c"] * s) @ x

    def inequality(x: Tensor, d: dict[str, Any], s: Tensor, one: Tensor) -> Tensor:
        return x @ x - (one * d["r"][0]) ** 2

    step = build(name, objective, inequality, shared=[1])
    params = {"c": c, "r": [r]}, scale, one
    wanted = lowest(c * scale, one * r)
    point = PrimalDual(*(part.detach() for part in wanted))
    found = fo.fold(step, point, *params)
    assert_same_gradients(found.x, wanted.x, (c, r, scale, one), accuracy(name))
    # The same positions, counted from the end.
    again = fo.fold(build(name, objective, inequality, shared=(-2,)), point, *params)
    torch.testing.assert_close(again.x, found.x)


@pytest.mark.parametrize("name", BUILDERS)
def test_float32_stays_float32(name: str) -> None:
    c, r = (leaf.detach().float().requires_grad_() for leaf in leaves_of((4, N), (4,)))
    found = fold_lowest(build(name, linear, ball), c, r)
    assert all(part.dtype == torch.float32 for part in found)
    assert_same_gradients(found.x, lowest(c, r).x, (c, r), atol=1e-4)


@pytest.mark.parametrize("name", FULL)
def test_an_empty_batch(name: str) -> None:
    c, r = leaves_of((0, N), (0,))
    x = fold_lowest(build(name, linear, ball), c, r).x
    assert torch.autograd.grad(x.sum(), c)[0].shape == (0, N)
