"""Entropic mirror descent: closed forms, boundary solutions, its Φ, misuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt import projections, steps
from foldopt.steps import mirror_descent
from tests.closed_forms import leaf
from tests.steps.test_gradient import F64, phi, quadratic, spd

N = 5


def entropic(x: Tensor, c: Tensor) -> Tensor:
    """Minimal on the simplex at the softmax of c."""
    return (x * x.log() - c * x).sum(-1)


@pytest.mark.parametrize("total", [1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.3, torch.tensor([[0.1], [2.0]], dtype=F64)])
def test_the_update_is_its_formula(alpha: float | Tensor, total: float) -> None:
    Q, c = spd(2), torch.randn(2, N, dtype=F64)
    x = total * torch.rand(2, N, dtype=F64).softmax(-1)
    slope = (Q @ x.unsqueeze(-1)).squeeze(-1) - c
    wanted = x * torch.exp(-alpha * slope)
    found = mirror_descent(quadratic, alpha, total=total)(x, c, Q)
    torch.testing.assert_close(found, total * wanted / wanted.sum(-1, keepdim=True))


def softmax(c: Tensor) -> Tensor:
    return fo.fold(mirror_descent(entropic, 0.7), c.detach().softmax(-1), c)


def test_softmax_in_closed_form() -> None:
    c = leaf(2, 3)
    assert gradcheck(softmax, c, check_forward_ad=True)
    assert gradgradcheck(softmax, c)
    J = torch.func.jacfwd(softmax)(c.detach())
    wanted = torch.func.jacrev(lambda c: c.softmax(-1))(c.detach())
    torch.testing.assert_close(J, wanted, rtol=0, atol=1e-10)


def test_softmax_has_its_hessian() -> None:
    c = torch.randn(2, 3, dtype=F64)
    found = torch.func.vmap(torch.func.hessian(lambda c: softmax(c[None])[0]))(c)
    wanted = torch.func.vmap(torch.func.hessian(lambda c: c.softmax(-1)))(c)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def on_simplex(c: Tensor, Q: Tensor, total: float) -> Tensor:
    """The same solution by projected gradients, with exact zeros."""

    def project(y: Tensor, s: Tensor) -> Tensor:
        return projections.simplex(y, s)

    step = steps.projected_gradient(quadratic, project, 0.15, projection_params=(2,))
    size = torch.tensor(total, dtype=F64)
    return fo.fixed_point(step, torch.zeros_like(c), c, Q, size, rtol=1e-14)


@pytest.mark.parametrize("total", [1.0, 2.5])
@pytest.mark.parametrize("alpha", [0.1, 5.0])
def test_a_quadratic_on_the_simplex(alpha: float, total: float) -> None:
    """With zeros in the solution: the derivative of projected gradients, and no NaN."""
    Q, c = spd(4).requires_grad_(), (3 * torch.randn(4, N, dtype=F64)).requires_grad_()
    wanted = on_simplex(c, Q, total)
    zeros = wanted == 0
    assert zeros.any()
    assert (~zeros).sum(-1).max() > 1
    found = fo.fold(mirror_descent(quadratic, alpha, total=total), wanted.detach(), c, Q)
    weights = torch.randn_like(wanted)
    pair = [torch.autograd.grad((weights * x).sum(), (c, Q)) for x in (found, wanted)]
    torch.testing.assert_close(pair[0], pair[1], rtol=0, atol=1e-8)
    assert torch.equal(found, wanted)


def test_the_iteration_converges_to_the_solution() -> None:
    Q, c = spd(4), 2 * torch.randn(4, N, dtype=F64)
    start = torch.full((4, N), 1 / N, dtype=F64)
    x = fo.unroll(mirror_descent(quadratic, 0.4), start, c, Q, iterations=2000)
    torch.testing.assert_close(x, on_simplex(c, Q, 1.0), rtol=0, atol=1e-4)


# -- Φ -------------------------------------------------------------------------------------------


def solution_with_zeros(total: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c, Q, x with two zeros, and the gap ∇ᵢf − ν, zero on the support."""
    Q, x = spd(), torch.rand(N, dtype=F64) + 0.1
    x[:2] = 0
    x = total * x / x.sum()
    gap = torch.tensor([0.4, 1.3, 0.0, 0.0, 0.0], dtype=F64)
    return Q @ x - gap - 0.7, Q, x, gap


@pytest.mark.parametrize("total", [1.0, 2.5])
@pytest.mark.parametrize("alpha", [0.1, 0.8])
def test_phi_is_what_the_docstring_says(alpha: float, total: float) -> None:
    c, Q, x, gap = solution_with_zeros(total)
    J = phi(mirror_descent(quadratic, alpha, total=total), x, c, Q)
    S = x > 0
    y, H = x[S], Q[S][:, S]
    metric = torch.diag(y) - y.outer(y) / total
    block = torch.eye(3, dtype=F64) - y.outer(torch.ones_like(y)) / total - alpha * metric @ H
    torch.testing.assert_close(J[S][:, S], block)
    torch.testing.assert_close(J[~S][:, ~S], torch.diag(torch.exp(-alpha * gap[~S])))
    assert (J[~S][:, S] == 0).all()  # a component at zero stays there
    # In the metric of 1/x its eigenvalues are real.
    assert torch.linalg.eigvals(block).imag.abs().max() < 1e-9


@pytest.mark.parametrize(("share", "contracts"), [(0.01, True), (0.99, True), (1.01, False)])
def test_the_step_sizes_that_contract(share: float, contracts: bool) -> None:
    """0 < α < 2/λ_max of (diag(x) − xxᵀ/s) ∇²f."""
    c, Q, x, _ = solution_with_zeros(1.0)
    S = x > 0
    metric = torch.diag(x[S]) - x[S].outer(x[S])
    largest = torch.linalg.eigvals(metric @ Q[S][:, S]).real.max()
    J = phi(mirror_descent(quadratic, float(2 * share / largest)), x, c, Q)
    radius = torch.linalg.eigvals(J).abs().max()
    assert bool(radius < 1) == contracts


# -- extremes, kinds -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e3, 1e8])
def test_large_slopes_do_not_overflow(size: float) -> None:
    """Of one component that is zero, too."""
    x = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=F64)
    c = size * torch.tensor([[1.0, -2.0, 0.5, 7.0]], dtype=F64)
    new = mirror_descent(lambda x, c: -(c * x).sum(-1), 1.0)(x, c)
    torch.testing.assert_close(new, torch.tensor([[1.0, 0, 0, 0]], dtype=F64))
    J = torch.func.jacrev(mirror_descent(lambda x, c: -(c * x).sum(-1), 1.0))(x, c)
    assert torch.isfinite(J).all()


def test_a_vertex_has_no_derivative() -> None:
    c = torch.tensor([[5.0, 0.0, -1.0]], dtype=F64, requires_grad=True)
    Q = spd(1, n=3)
    x = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    fo.fold(mirror_descent(quadratic, 0.5), x, c, Q).square().sum().backward()
    torch.testing.assert_close(c.grad, torch.zeros_like(c))


@pytest.mark.parametrize("batch", [(), (2, 2)])
def test_batch_dimensions(batch: tuple[int, ...]) -> None:
    c = leaf(*batch, N)
    x = fo.fold(
        mirror_descent(entropic, 0.5), c.detach().softmax(-1), c, batch_dims=len(batch)
    )  # fmt: skip
    weights = torch.randn_like(c)
    pair = [torch.autograd.grad((weights * y).sum(), c)[0] for y in (x, c.softmax(-1))]
    torch.testing.assert_close(*pair, rtol=0, atol=1e-10)


def test_float32_stays_float32() -> None:
    c = leaf(2, N).detach().float().requires_grad_()
    x = fo.fixed_point(mirror_descent(entropic, 0.5), torch.full((2, N), 1 / N), c)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, c.softmax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("total", [0, -1.0, float("nan"), "1"])
def test_total_out_of_range(total: Any) -> None:
    with pytest.raises(ValueError, match="total must be a number above 0, got"):
        mirror_descent(entropic, 0.5, total=total)


def test_misuse() -> None:
    wrong: Any = "f"
    with pytest.raises(TypeError, match="objective must be callable, got str"):
        mirror_descent(wrong, 0.5)
    with pytest.raises(ValueError, match="step_size must be finite and above 0, got 0"):
        mirror_descent(entropic, 0)
    with pytest.raises(TypeError, match="step_size must be a number or a tensor, got str"):
        mirror_descent(entropic, wrong)
    x = torch.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match="objective must return one value for each sample"):
        mirror_descent(lambda x, c: (c * x).sum(0), 0.5)(x, x)
