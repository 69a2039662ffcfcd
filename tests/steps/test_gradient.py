"""Gradient, projected-gradient and proximal-gradient steps: fixed points, gradients, misuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import qpsolvers
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt import projections, prox, steps
from tests.closed_forms import F64, leaf

N = 5


def spd(*batch: int, n: int = N) -> Tensor:
    """Symmetric positive definite matrices with eigenvalues between 1 and about 5."""
    a = torch.randn(*batch, n, n, dtype=F64)
    return torch.eye(n, dtype=F64) + a @ a.mT / n


def quadratic(x: Tensor, c: Tensor, Q: Tensor, *_rest: Any) -> Tensor:
    """½ xᵀQx − cᵀx."""
    return 0.5 * (x * (Q @ x.unsqueeze(-1)).squeeze(-1)).sum(-1) - (c * x).sum(-1)


def settle(step: Callable[..., Any], x: Any, *params: Any, iterations: int = 250) -> Any:
    return fo.unroll(step, x, *params, iterations=iterations)


def agrees_with_unrolling(step: steps.Step, *params: Tensor, tolerance: float = 1e-10) -> Tensor:
    """Fold the converged point, and compare value and gradients with the recorded iteration."""
    unrolled = settle(step, torch.zeros(params[0].shape, dtype=F64), *params)
    folded = fo.fold(step, unrolled.detach(), *params)
    weight = torch.randn_like(unrolled)
    wanted = torch.autograd.grad((weight * unrolled.sin()).sum(), params)
    found = torch.autograd.grad((weight * folded.sin()).sum(), params)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    return folded.detach()


# -- gradient ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 10.0])
def test_gradient_step_has_the_closed_form_derivative_for_every_step_size(alpha: float) -> None:
    Q, c = spd(3), leaf(3, N)
    x_star = torch.linalg.solve(Q, c.detach())
    step = steps.gradient(quadratic, alpha)
    torch.testing.assert_close(step(x_star, c, Q), x_star)
    J = fo.jacobian(step, x_star, c, Q)[0]
    torch.testing.assert_close(J, torch.linalg.inv(Q), rtol=0, atol=1e-10)


def curved(x: Tensor, c: Tensor, Q: Tensor) -> Tensor:
    return quadratic(x, c, Q) + 0.1 * (x**4).sum(-1) + 0.1 * torch.cos(x.sum(-1) + c.sum(-1))


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_step_agrees_with_unrolling(shared: bool) -> None:
    Q = spd() if shared else spd(3)
    agrees_with_unrolling(steps.gradient(curved, 0.15), leaf(3, N), Q.requires_grad_())


def phi(step: steps.Step, x: Tensor, *params: Tensor) -> Tensor:
    jacobian = torch.func.jacrev(step)(x, *params)
    torch.testing.assert_close(torch.func.jacfwd(step)(x, *params), jacobian)
    return jacobian


def test_gradient_step_says_that_phi_is_symmetric_only_where_it_is() -> None:
    x, c, Q = torch.randn(3, N, dtype=F64)[0], torch.randn(N, dtype=F64), spd()
    for alpha in (0.1, torch.tensor(0.1, dtype=F64), torch.tensor([0.1], dtype=F64)):
        step = steps.gradient(curved, alpha)
        assert step.symmetric
        torch.testing.assert_close(phi(step, x, c, Q), phi(step, x, c, Q).mT)
    varying = steps.gradient(curved, torch.linspace(0.1, 0.2, N, dtype=F64))
    assert not varying.symmetric
    assert (phi(varying, x, c, Q) - phi(varying, x, c, Q).mT).abs().max() > 1e-3
    assert not steps.projected_gradient(curved, projections.simplex, 0.1).symmetric


def test_step_size_may_differ_between_samples_and_entries() -> None:
    for alpha in (torch.tensor([[0.14], [0.17], [0.2]]), torch.linspace(0.14, 0.2, N)):
        step = steps.gradient(curved, alpha.double())
        agrees_with_unrolling(step, leaf(3, N), spd(3).requires_grad_())


def test_conjugate_gradients_serve_a_gradient_step() -> None:
    c, Q = leaf(2, N), spd(2)
    x = fo.fold(
        steps.gradient(quadratic, 0.1), torch.linalg.solve(Q, c.detach()), c, Q, adjoint=fo.CG()
    )
    (grad,) = torch.autograd.grad(x[:, 0].sum(), c)
    torch.testing.assert_close(grad, torch.linalg.inv(Q)[:, 0], rtol=0, atol=1e-8)


# -- projected and proximal gradient -------------------------------------------------------------


def piqp(Q: Tensor, c: Tensor, **constraints: Any) -> Tensor:
    """The minimisers of ½ xᵀQx − cᵀx under constraints, one sample at a time."""
    options: Any = {"solver": "piqp", "eps_abs": 1e-13, "eps_rel": 1e-13, **constraints}
    rows = [
        torch.tensor(qpsolvers.solve_qp(q, -p, **options))
        for q, p in zip(Q.detach().numpy(), c.detach().numpy(), strict=True)
    ]
    return torch.stack(rows)


ONES, ZEROS = np.ones((1, N)), np.zeros(N)
# Each: the projection of (y, size), and the constraints for size 1 as a QP solver takes them.
PROJECTED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], dict[str, Any]]] = {
    "simplex": (projections.simplex, {"A": ONES, "b": np.ones(1), "lb": ZEROS}),
    "capped": (
        lambda y, s: projections.capped_simplex(y, s, 0.4),
        {"A": ONES, "b": np.ones(1), "lb": ZEROS, "ub": 0.4 + ZEROS},
    ),
    "box": (
        lambda y, s: projections.box(y, 0.0, 0.3 * s[..., None]),
        {"lb": ZEROS, "ub": ZEROS + 0.3},
    ),
    "half_space": (
        lambda y, s: projections.half_space(y, torch.ones(N, dtype=F64), s),
        {"G": ONES, "h": np.ones(1)},
    ),
    "affine": (
        lambda y, s: projections.affine(y, torch.ones(1, N, dtype=F64), s[..., None]),
        {"A": ONES, "b": np.ones(1)},
    ),
}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", PROJECTED)
def test_projected_gradient_finds_and_differentiates_the_solution(name: str, shared: bool) -> None:
    project, constraints = PROJECTED[name]
    step = steps.projected_gradient(quadratic, project, 0.15, projection_params=[2])
    Q, c = spd(4).requires_grad_(), leaf(4, N)
    size = torch.ones(() if shared else (4,), dtype=F64, requires_grad=True)
    x = agrees_with_unrolling(step, c, Q, size)
    torch.testing.assert_close(x, piqp(Q, c, **constraints), rtol=0, atol=1e-8)


PROXIMAL: dict[str, Callable[..., Tensor]] = {
    "l1": lambda y, a, w: prox.l1(y, a * w[..., None]),
    "l2": lambda y, a, w: prox.l2(y, a * w),
    "squared_l2": lambda y, a, w: prox.squared_l2(y, a * w[..., None]),
}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", PROXIMAL)
def test_proximal_gradient_differentiates_the_solution(name: str, shared: bool) -> None:
    step = steps.proximal_gradient(quadratic, PROXIMAL[name], 0.15, prox_params=(-1,))
    Q, c = spd(4).requires_grad_(), leaf(4, N)
    weight = torch.full(() if shared else (4,), 0.3, dtype=F64, requires_grad=True)
    x = agrees_with_unrolling(step, c, Q, weight)
    gap = c.detach() - (Q.detach() @ x.unsqueeze(-1)).squeeze(-1)  # −∇f, in w ∂g(x)
    if name == "l1":
        assert (gap.abs() <= 0.3 + 1e-10).all()
        assert (x == 0).any()
        torch.testing.assert_close(gap[x != 0], 0.3 * x.sign()[x != 0])
    elif name == "l2":
        torch.testing.assert_close(gap, 0.3 * x / torch.linalg.vector_norm(x, dim=-1, keepdim=True))
    else:
        torch.testing.assert_close(gap, 0.3 * x)


def test_derivative_of_a_qp_by_finite_differences_of_the_solver() -> None:
    project, constraints = PROJECTED["simplex"]
    step = steps.projected_gradient(quadratic, project, 0.15, projection_params=(2,))
    c, Q, size = leaf(1, N), spd(1), torch.ones((), dtype=F64)
    J = fo.jacobian(step, piqp(Q, c, **constraints), c, Q, size)[0]
    h = 1e-4
    for k in range(N):
        moved = h * torch.eye(N, dtype=F64)[k]
        ends = [piqp(Q, c + sign * moved, **constraints) for sign in (1, -1)]
        torch.testing.assert_close((ends[0] - ends[1]) / (2 * h), J[..., k], rtol=0, atol=1e-5)


# -- every kind of derivative, structure and batch -----------------------------------------------

STEPS: dict[str, steps.Step] = {
    "gradient": steps.gradient(curved, 0.15),
    "projected": steps.projected_gradient(curved, projections.simplex, 0.15),
    "proximal": steps.proximal_gradient(curved, lambda y, a: prox.l1(y, 0.2 * a), 0.15),
}


@pytest.mark.parametrize("name", STEPS)
def test_second_and_forward_derivatives(name: str) -> None:
    step = STEPS[name]

    def solution(c: Tensor, Q: Tensor) -> Tensor:
        return fo.fixed_point(step, torch.zeros_like(c), c, Q, rtol=1e-14)

    arguments = (leaf(1, 2), spd(1, n=2).requires_grad_())
    assert gradcheck(solution, arguments, check_forward_ad=True)
    assert gradgradcheck(solution, arguments)


@pytest.mark.parametrize("name", STEPS)
def test_vmap_of_grad_is_the_loop(name: str) -> None:
    def loss(c: Tensor, Q: Tensor, x: Tensor) -> Tensor:
        return (fo.fold(STEPS[name], x, c, Q, batch_dims=0) ** 3).sum()

    c, Q = torch.randn(3, N, dtype=F64), spd(3)
    x = settle(STEPS[name], torch.zeros_like(c), c, Q)
    together = torch.func.vmap(torch.func.grad(loss, (0, 1)))(c, Q, x)
    for row in range(3):
        alone = torch.func.grad(loss, (0, 1))(c[row], Q[row], x[row])
        torch.testing.assert_close(tuple(part[row] for part in together), alone)


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_batch_dimensions(batch: tuple[int, ...]) -> None:
    c, Q = leaf(*batch, N), spd(*batch)
    step = STEPS["projected"]
    x = fo.fold(step, settle(step, torch.zeros_like(c), c, Q).detach(), c, Q, batch_dims=len(batch))
    (grad,) = torch.autograd.grad((x**2).sum(), c)
    unrolled = settle(step, torch.zeros_like(c), c, Q)
    torch.testing.assert_close(grad, torch.autograd.grad((unrolled**2).sum(), c)[0])


@pytest.mark.parametrize("alpha", [0.1, torch.tensor(0.1, dtype=F64)])
def test_nested_x_gives_what_the_flat_one_does(alpha: float | Tensor) -> None:
    def nested(x: dict[str, Any], c: Tensor, Q: Tensor) -> Tensor:
        return curved(torch.cat([x["a"], x["b"][0]], -1), c, Q)

    c, Q = leaf(3, N), spd(3)
    start = {"a": torch.zeros(3, 2, dtype=F64), "b": (torch.zeros(3, N - 2, dtype=F64),)}
    x = fo.fixed_point(steps.gradient(nested, alpha), start, c, Q, rtol=1e-14)
    flat = fo.fixed_point(steps.gradient(curved, 0.1), torch.zeros_like(c), c, Q, rtol=1e-14)
    found = torch.cat([x["a"], x["b"][0]], -1)
    torch.testing.assert_close(found, flat, rtol=0, atol=1e-11)
    weight = torch.randn_like(flat)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), c),
        torch.autograd.grad((flat * weight).sum(), c),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", STEPS)
def test_float32_stays_float32(name: str) -> None:
    c, Q = leaf(2, N).detach().float().requires_grad_(), spd(2).float()
    x = fo.fixed_point(STEPS[name], torch.zeros_like(c), c, Q)
    (grad,) = torch.autograd.grad(x.square().sum(), c)
    exact = c.detach().double().requires_grad_()
    y = fo.fixed_point(STEPS[name], torch.zeros_like(exact), exact, Q.double())
    (wanted,) = torch.autograd.grad(y.square().sum(), exact)
    assert (x.dtype, grad.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-3, atol=1e-3)
