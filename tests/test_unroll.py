"""Unrolling and unfolding against the recursions that the paper gives for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from tests.problems import F64, contraction, network_step

N = 4


def affine_step(x: Tensor, c: Tensor, m: Tensor) -> Tensor:
    """U(x, c) = M x + c² , with Φ = M and Ψ = 2 diag(c)."""
    return x @ m.T + c**2


@pytest.mark.parametrize("k", [0, 1, 2, 7])
def test_unrolled_jacobian_follows_the_recursion(k: int) -> None:
    """J₀ = 0 and J_{k+1} = Φ J_k + Ψ (eq. 13–15)."""
    m, c, x0 = contraction(N), torch.randn(N, dtype=F64), torch.randn(N, dtype=F64)
    J, x = torch.zeros(N, N, dtype=F64), x0
    for _ in range(k):
        J, x = m @ J + (2 * c).diag(), m @ x + c**2
    run = lambda c: fo.unroll(affine_step, x0, c, m, iterations=k)
    torch.testing.assert_close(run(c), x)
    torch.testing.assert_close(torch.func.jacrev(run)(c), J)
    torch.testing.assert_close(torch.func.jacfwd(run)(c), J)


def test_unrolling_a_nonlinear_step_uses_phi_and_psi_of_each_iterate() -> None:
    m, c, w = contraction(N), torch.randn(N, dtype=F64), torch.randn(N, N, dtype=F64)
    step = network_step(m)
    x = torch.randn(N, dtype=F64)
    start, J = x, torch.zeros(N, N, dtype=F64)
    for _ in range(5):
        phi, psi = torch.func.jacrev(step, (0, 1))(x, c, w)
        J, x = phi @ J + psi, step(x, c, w)
    found = torch.func.jacrev(lambda c: fo.unroll(step, start, c, w, iterations=5))(c)
    torch.testing.assert_close(found, J)


def test_unrolling_long_enough_is_folding() -> None:
    m, w = contraction(N), torch.randn(N, N, dtype=F64, requires_grad=True)
    c = torch.randn(3, N, dtype=F64, requires_grad=True)
    step = network_step(m)
    x = fo.unroll(step, torch.zeros(3, N, dtype=F64), c, w, iterations=200)
    folded = fo.fold(step, x, c, w)
    for ours, theirs in zip(
        torch.autograd.grad(folded.sin().sum(), (c, w)),
        torch.autograd.grad(x.sin().sum(), (c, w)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_unfolding_is_folding_by_linear_fixed_point_iteration(k: int) -> None:
    """The same k terms of Σ (Φᵀ)ʲ g, whether from a recorded loop or from eq. 25."""
    m, c = contraction(N), torch.randn(3, N, dtype=F64, requires_grad=True)
    w = torch.randn(N, N, dtype=F64, requires_grad=True)
    step = network_step(m)
    x_star = fo.unroll(step, torch.zeros(3, N, dtype=F64), c, w, iterations=300).detach()
    weight = torch.randn(3, N, dtype=F64)

    unfolded = fo.unfold(step, x_star, c, w, iterations=k)
    torch.testing.assert_close(unfolded, x_star)
    wanted = torch.autograd.grad((unfolded * weight).sum(), (c, w))

    # rtol=0 asks for more than k products can give: the fold says so, and goes on.
    lfpi = fo.LFPI(max_iterations=k, rtol=0.0)
    folded = fo.fold(step, x_star, c, w, adjoint=lfpi, on_failure="warn")
    with pytest.warns(fo.FoldWarning, match="LFPI did not solve .* 3 MAX_ITERATIONS"):
        found = torch.autograd.grad((folded * weight).sum(), (c, w))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_unfolding_once_gives_psi_and_not_at_all_gives_nothing() -> None:
    m, c = contraction(N), torch.randn(N, dtype=F64)
    x = torch.linalg.solve(torch.eye(N, dtype=F64) - m, c**2)
    jacobian = torch.func.jacrev(lambda c: fo.unfold(affine_step, x, c, m, iterations=1))(c)
    torch.testing.assert_close(jacobian, (2 * c).diag())
    c.requires_grad_()
    assert not fo.unfold(affine_step, x, c, m, iterations=0).requires_grad


def test_derivatives_of_every_kind() -> None:
    m = contraction(2)
    arguments = [torch.randn(2, 2, dtype=F64, requires_grad=True) for _ in range(2)]

    def run(c: Tensor, w: Tensor) -> Tensor:
        return fo.unroll(network_step(m), torch.zeros(2, 2, dtype=F64), c, w, iterations=4)

    assert gradcheck(run, arguments, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(run, arguments)


def test_the_start_is_cut_from_its_graph() -> None:
    c = torch.randn(N, dtype=F64, requires_grad=True)
    x = fo.unroll(lambda x, c: 0.5 * x + 0 * c, c * 2, c, iterations=3)
    (grad,) = torch.autograd.grad(x.sum(), c)
    assert (grad == 0).all()


def test_nested_x_and_numpy_starts() -> None:
    c = torch.randn(2, 3, requires_grad=True)

    def step(x: dict[str, Any], c: Tensor) -> dict[str, Any]:
        return {"a": 0.5 * x["a"] + c, "b": (0.5 * x["b"][0] + x["a"],)}

    start = {"a": np.zeros((2, 3)), "b": (np.zeros((2, 3)),)}
    x = fo.unroll(step, start, c, iterations=2)
    torch.testing.assert_close(x["a"], 1.5 * c)
    torch.testing.assert_close(x["b"][0], c)
    assert fo.unfold(lambda x, c: c, np.zeros((2, 3)), c, iterations=1) is c


@pytest.mark.parametrize("iterations", [-1, 2.0, True, "3", None])
@pytest.mark.parametrize("mode", [fo.unroll, fo.unfold])
def test_iterations_must_be_a_whole_number(mode: Any, iterations: Any) -> None:
    with pytest.raises(ValueError, match=f"iterations must be an integer.* got {iterations!r}"):
        mode(lambda x: x, torch.ones(2), iterations=iterations)


@pytest.mark.parametrize("mode", [fo.unroll, fo.unfold])
def test_step_must_be_callable(mode: Any) -> None:
    with pytest.raises(TypeError, match=r"step must be callable, .* got Tensor"):
        mode(torch.ones(2), torch.ones(2), iterations=3)
