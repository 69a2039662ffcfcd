"""The dual proximal gradient step and Douglas–Rachford: solutions, gradients, rates, misuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt import projections, prox, steps
from foldopt.steps import douglas_rachford, fdpg
from tests.closed_forms import leaf
from tests.quadratic import F64, apply, assert_slopes, solve
from tests.steps.test_gradient import phi, quadratic, spd

N, M = 6, 4


# -- the dual proximal gradient ----------------------------------------------------------------


def variation(d: Tensor, D: Tensor, weight: Tensor | float) -> Tensor:
    """argmin ½‖x − d‖² + ‖diag(weight) D x‖₁ as a quadratic program in x and t ≥ |Dx|."""
    m, n = D.shape[-2:]
    D = D.expand(*d.shape[:-1], m, n)
    none, eye = D.new_zeros(m, m), torch.eye(m, dtype=F64).expand(*d.shape[:-1], m, m)
    Q = torch.block_diag(torch.eye(n, dtype=F64), none)
    p = torch.cat([-d, torch.as_tensor(weight, dtype=F64).expand(*d.shape[:-1], m)], -1)
    G = torch.cat([torch.cat([D, -eye], -1), torch.cat([-D, -eye], -1)], -2)
    nothing = D.new_zeros(0, n + m)
    return solve(Q, p, G, G.new_zeros(2 * m), nothing, nothing[:, 0]).x[..., :n]


def denoised(step: steps.Step, d: Tensor, D: Tensor, *rest: Any) -> Tensor:
    start = torch.zeros(*d.shape[:-1], D.shape[-2], dtype=d.dtype)
    w = fo.fixed_point(step, start, d, D, *rest, rtol=1e-13, max_iterations=5000)
    return step.solution(w, d, D, *rest)


@pytest.mark.parametrize("batched", [False, True])
def test_the_step_of_the_paper(batched: bool) -> None:
    """Eq. 28b, and the projected gradient step that it is for λ‖·‖₁."""
    d, w = torch.randn(3, N, dtype=F64), torch.randn(3, M, dtype=F64)
    D = torch.randn(*([3] * batched), M, N, dtype=F64)
    L = torch.linalg.matrix_norm(D, 2)[..., None] ** 2
    u = d + apply(D.mT, w)
    soft = apply(D, u) - L * w
    soft = soft.sign() * (soft.abs() - 0.7 * L).clamp_min(0)
    found = fdpg()(w, d, D, 0.7)
    torch.testing.assert_close(found, w - apply(D, u) / L + soft / L)
    torch.testing.assert_close(found, (w - apply(D, u) / L).clamp(-0.7, 0.7))
    torch.testing.assert_close(fdpg().solution(w, d, D, 0.7), u)


@pytest.mark.parametrize("size", [1.0, 5.0])
@pytest.mark.parametrize("batched", [False, True])
def test_total_variation_with_a_learned_operator(batched: bool, size: float) -> None:
    """‖D‖² is about 10 and 250, where the 4 of first differences would not do."""
    d, D = leaf(3, N), size * torch.randn(*([3] * batched), M, N, dtype=F64)
    assert torch.linalg.matrix_norm(D, 2).min() ** 2 > 5
    D.requires_grad_()
    for weight in (0.3, torch.rand(3, M, dtype=F64).requires_grad_()):
        x = denoised(fdpg(), d, D, weight)
        given = torch.as_tensor(weight, dtype=F64)
        torch.testing.assert_close(x, variation(d, D, weight), rtol=0, atol=1e-8)
        assert_slopes(variation, x, (d, D, given))


@pytest.mark.parametrize("shape", [(), (M,), (3, 1), (3, M)])
def test_a_weight_gets_the_sum_of_what_it_weighs(shape: tuple[int, ...]) -> None:
    d, D = leaf(3, N), torch.randn(M, N, dtype=F64, requires_grad=True)
    weight = (0.2 + torch.rand(shape, dtype=F64)).requires_grad_()
    x = denoised(fdpg(), d, D, weight)
    torch.testing.assert_close(x, variation(d, D, weight), rtol=0, atol=1e-8)
    assert_slopes(variation, x, (d, D, weight))


def groups(y: Tensor, factor: Tensor, weight: Tensor) -> Tensor:
    """The proximal operator of ``weight`` times the sum of the lengths of two halves."""
    halves = y.unflatten(-1, (2, -1))
    return prox.l2(halves, (factor * weight).expand(halves.shape[:-1])).flatten(-2)


@pytest.mark.parametrize("batched", [False, True])
def test_another_proximal_operator(batched: bool) -> None:
    d, weight = leaf(3, N), torch.tensor(0.5, dtype=F64, requires_grad=True)
    D = leaf(*([3] * batched), M, N)
    step = fdpg(groups)
    x = denoised(step, d, D, weight)
    w = fo.unroll(step, torch.zeros(3, M, dtype=F64), d, D, weight, iterations=600)
    unrolled = step.solution(w, d, D, weight)
    torch.testing.assert_close(x, unrolled, rtol=0, atol=1e-9)
    weights = torch.randn_like(x)
    found, wanted = (
        torch.autograd.grad((weights * y).sum(), (d, D, weight)) for y in (x, unrolled)
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)
    # The optimality condition: d − x = −Dᵀw with w in the subdifferential at Dx.
    halves = [part.unflatten(-1, (2, -1)) for part in (apply(D, x), -w)]
    length = torch.linalg.vector_norm(halves[0], dim=-1, keepdim=True)
    gap = halves[1] - weight * halves[0] / length
    assert (gap.abs().amax(-1)[length[..., 0] > 1e-6] < 1e-8).all()


def test_phi_of_the_dual_step() -> None:
    d, D = torch.randn(N, dtype=F64), torch.randn(M, N, dtype=F64)
    step = fdpg()
    w = fo.fixed_point(step, torch.zeros(M, dtype=F64), d, D, 0.4, rtol=1e-13, batch_dims=0)
    free = w.abs() < 0.4 - 1e-9
    assert 0 < int(free.sum()) < M
    J = phi(step, w, d, D, torch.tensor(0.4, dtype=F64))
    L = torch.linalg.matrix_norm(D, 2) ** 2
    F = torch.diag(free.to(F64))
    torch.testing.assert_close(J, F @ (torch.eye(M, dtype=F64) - D @ D.mT / L))
    eigenvalues = torch.linalg.eigvals(J)
    assert eigenvalues.imag.abs().max() < 1e-9
    assert eigenvalues.real.min() > -1e-9
    assert eigenvalues.abs().max() < 1 - 1e-4  # the free rows are independent


def test_derivatives_of_total_variation() -> None:
    d, D, weight = leaf(1, 4), leaf(2, 4), torch.tensor(0.2, dtype=F64, requires_grad=True)

    def x(d: Tensor, D: Tensor, weight: Tensor) -> Tensor:
        return denoised(fdpg(), d, D, weight)

    assert gradcheck(x, (d, D, weight), check_forward_ad=True)
    assert gradgradcheck(x, (d, D, weight))


def test_an_operator_of_zeros_leaves_d_alone() -> None:
    """And the dual solution undetermined, so that there is no derivative in D."""
    d, D = leaf(2, N), torch.zeros(M, N, dtype=F64, requires_grad=True)
    x = denoised(fdpg(), d, D, 0.3)
    torch.testing.assert_close(x, d)
    with pytest.raises(fo.FoldError, match="singular to working precision"):
        x.sum().backward()


def test_misuse_of_the_dual_step() -> None:
    wrong: Any = 3
    with pytest.raises(TypeError, match="prox must be callable, got int"):
        fdpg(wrong)
    w, d, D = torch.zeros(2, M), torch.zeros(2, N), torch.zeros(M, N)
    for params in ((d,), (d, 1.0), (3, D)):
        with pytest.raises(
            TypeError, match=r"steps\.fdpg: the step takes d, D and what prox takes"
        ):
            fdpg()(w, *params)
    for bad in (torch.zeros(N), torch.zeros(M, N + 1), torch.zeros(3, M, N)):
        with pytest.raises(ValueError, match=r"steps\.fdpg: D must have shape \(m, n\).*got D"):
            fdpg()(w, d, bad, 1.0)


# -- Douglas–Rachford ------------------------------------------------------------------------------


def near(y: Tensor, alpha: float, c: Tensor, Q: Tensor) -> Tensor:
    """The proximal operator of ½xᵀQx − cᵀx."""
    K = torch.eye(y.shape[-1], dtype=y.dtype) + alpha * (Q + Q.mT) / 2
    return torch.linalg.solve(K, (y + alpha * c).unsqueeze(-1)).squeeze(-1)


def test_lasso_with_an_orthogonal_design_in_closed_form() -> None:
    """½‖x − c‖² + w‖x‖₁, whose solution is the soft threshold of c."""
    c, w = leaf(3, N), torch.tensor(0.4, dtype=F64, requires_grad=True)
    eye = torch.eye(N, dtype=F64)
    step = douglas_rachford(
        lambda y, a, w: prox.l1(y, a * w),
        lambda y, a, c: near(y, a, c, eye),
        f_params=[1],
        g_params=[0],
    )
    s = fo.fixed_point(step, torch.zeros(3, N, dtype=F64), c, w, rtol=1e-13)
    x, wanted = step.solution(s, c, w), prox.l1(c, w)
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-10)
    weights = torch.randn_like(x)
    pair = [torch.autograd.grad((weights * y).sum(), (c, w)) for y in (x, wanted)]
    torch.testing.assert_close(pair[0], pair[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("theta", [0.5, 1.0, 1.8])
def test_the_solution_is_that_of_proximal_gradient(theta: float, alpha: float) -> None:
    Q, c = spd(3).requires_grad_(), leaf(3, 5)
    w = torch.tensor(0.4, dtype=F64, requires_grad=True)
    step = douglas_rachford(
        near, lambda y, a, w: prox.l1(y, a * w), alpha, theta, f_params=(0, 1), g_params=(2,)
    )
    s = fo.fixed_point(step, torch.zeros_like(c), c, Q, w, rtol=1e-13)
    other = steps.proximal_gradient(
        quadratic, lambda y, a, w: prox.l1(y, a * w), 0.15, prox_params=(2,)
    )
    both = step.solution(s, c, Q, w), fo.fixed_point(
        other, torch.zeros_like(c), c, Q, w, rtol=1e-13
    )  # fmt: skip
    torch.testing.assert_close(*both, rtol=0, atol=1e-9)
    weights = torch.randn_like(c)
    pair = [torch.autograd.grad((weights * y).sum(), (c, Q, w)) for y in both]
    torch.testing.assert_close(pair[0], pair[1], rtol=0, atol=1e-8)


def nearest(y: Tensor, alpha: float, c: Tensor) -> Tensor:
    """The proximal operator of ½‖x − c‖² on the plane Σx = 1."""
    ones = torch.ones(1, y.shape[-1], dtype=y.dtype)
    return projections.affine((y + alpha * c) / (1 + alpha), ones, ones[:, 0])


def test_plane_and_orthant_make_the_simplex() -> None:
    step = douglas_rachford(nearest, lambda y, a: projections.nonnegative(y), f_params=(0,))
    c = leaf(2, 3)

    def x(c: Tensor) -> Tensor:
        s = fo.fixed_point(step, torch.zeros_like(c), c, rtol=1e-14)
        return step.solution(s, c)

    torch.testing.assert_close(x(c), projections.simplex(c), rtol=0, atol=1e-10)
    found = torch.func.vmap(torch.func.jacrev(lambda c: x(c[None])[0]))(c)
    wanted = torch.func.vmap(torch.func.jacrev(projections.simplex))(c)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert gradcheck(x, c, check_forward_ad=True)
    assert gradgradcheck(x, c)


@pytest.mark.parametrize("angle", [0.3, 1.0])
def test_the_rate_for_two_lines_is_the_cosine_of_their_angle(angle: float) -> None:
    along = [torch.tensor([1.0, 0.0], dtype=F64)]
    along.append(torch.tensor([math.cos(angle), math.sin(angle)], dtype=F64))
    first, second = (lambda y, _, e=e: (y @ e) * e for e in along)
    step = douglas_rachford(first, second)
    J = phi(step, torch.randn(2, dtype=F64))
    assert math.isclose(float(torch.linalg.eigvals(J).abs().max()), math.cos(angle))


@pytest.mark.parametrize("theta", [0.5, 1.8])
def test_phi_of_douglas_rachford(theta: float) -> None:
    """(1 − θ/2) I + θ/2 R_g R_f, each R the derivative of a reflection where it is taken."""
    s, c = torch.randn(4, dtype=F64), torch.randn(4, dtype=F64)
    step = douglas_rachford(
        nearest, lambda y, a: projections.nonnegative(y), 0.7, theta, f_params=(0,)
    )
    x = nearest(s, 0.7, c)
    eye = torch.eye(4, dtype=F64)
    R_f = 2 * torch.func.jacrev(nearest)(s, 0.7, c) - eye
    R_g = 2 * torch.diag((2 * x - s > 0).to(F64)) - eye
    torch.testing.assert_close(phi(step, s, c), (1 - theta / 2) * eye + theta / 2 * R_g @ R_f)


@pytest.mark.parametrize("theta", [0, 2, -1.0, float("nan"), "1"])
def test_relaxation_out_of_range(theta: Any) -> None:
    with pytest.raises(ValueError, match="relaxation must be a number between 0 and 2, got"):
        douglas_rachford(nearest, nearest, relaxation=theta)


def test_misuse_of_douglas_rachford() -> None:
    wrong: Any = "x"
    with pytest.raises(TypeError, match="prox_f must be callable, got str"):
        douglas_rachford(wrong, nearest)
    with pytest.raises(TypeError, match="prox_g must be callable, got str"):
        douglas_rachford(nearest, wrong)
    with pytest.raises(ValueError, match="step_size must be finite and above 0, got -1"):
        douglas_rachford(nearest, nearest, -1.0)
    with pytest.raises(TypeError, match="f_params must be a sequence of positions"):
        douglas_rachford(nearest, nearest, f_params=wrong)
    step = douglas_rachford(nearest, nearest, f_params=(0,), g_params=(1,))
    c = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"g_params=\(1,\): .* 1 param\(s\), there is no number 1"):
        step(c, c)
