"""fixed_point: where the iteration ends, how fast, what it says when it does not, its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt.anderson import accelerate
from foldopt.status import Status
from tests.problems import F64, contraction, network_step
from tests.systems import symmetric

N = 4
both = pytest.mark.parametrize("method", ["plain", "anderson"])


def linear(phi: Tensor) -> Callable[..., Tensor]:
    return lambda x, c: (phi @ x.unsqueeze(-1)).squeeze(-1) + c


def solution(phi: Tensor, c: Tensor) -> Tensor:
    eye = torch.eye(phi.shape[-1], dtype=phi.dtype)
    return torch.linalg.solve(eye - phi, c.unsqueeze(-1)).squeeze(-1)


def count(step: Callable[..., Tensor], x: Tensor, history: int, limit: int = 5000) -> int:
    """How many steps a converging iteration takes."""
    calls = 0

    def once(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return step(x)

    found, status = accelerate(once, x, history, None, 0.0, limit)
    assert (status == Status.CONVERGED).all()
    rtol = torch.finfo(x.dtype).eps ** 0.7
    residual = torch.linalg.vector_norm(step(found) - found, dim=-1)
    assert (residual <= rtol * (1 + torch.linalg.vector_norm(found, dim=-1))).all()
    return calls


# -- where it ends -------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("history", [1, 2, 5, 20])
def test_linear_contraction(method: str, history: int) -> None:
    phi, c = contraction(N), torch.randn(3, N, dtype=F64)
    x = fo.fixed_point(linear(phi), torch.randn(3, N, dtype=F64), c, method=method, history=history)
    torch.testing.assert_close(x, solution(phi, c), rtol=0, atol=1e-9)


@both
def test_every_kind_of_gradient_against_unrolling(method: str) -> None:
    step = network_step(contraction(N))
    c, w = (torch.randn(3, N, dtype=F64, requires_grad=True) for _ in range(2))
    w = torch.randn(N, N, dtype=F64, requires_grad=True)
    x0 = torch.zeros(3, N, dtype=F64)
    x = fo.fixed_point(step, x0, c, w, method=method, rtol=1e-14)
    unrolled = fo.unroll(step, x0, c, w, iterations=200)
    weight = torch.randn(3, N, dtype=F64)
    for ours, theirs in zip(
        torch.autograd.grad((weight * x).sum(), (c, w)),
        torch.autograd.grad((weight * unrolled).sum(), (c, w)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@both
def test_first_and_second_derivatives(method: str) -> None:
    step = network_step(contraction(2))

    def solve(c: Tensor, w: Tensor) -> Tensor:
        x0 = torch.zeros(2, 2, dtype=F64)
        return fo.fixed_point(step, x0, c, w, method=method, rtol=1e-14)

    arguments = [torch.randn(2, 2, dtype=F64, requires_grad=True) for _ in range(2)]
    assert gradcheck(solve, arguments, check_forward_ad=True)
    assert gradgradcheck(solve, arguments)


@both
def test_vmap_of_grad_is_the_loop(method: str) -> None:
    step, w = network_step(contraction(N)), torch.randn(N, N, dtype=F64)

    def loss(c: Tensor, x0: Tensor) -> Tensor:
        x = fo.fixed_point(step, x0, c, w, method=method, batch_dims=0, rtol=1e-14)
        return (x**3).sum()

    c, x0 = torch.randn(3, N, dtype=F64), torch.randn(3, N, dtype=F64)
    alone = torch.stack([torch.func.grad(loss)(*row) for row in zip(c, x0, strict=True)])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(c, x0), alone)
    shared = torch.func.vmap(torch.func.grad(loss), (0, None))(c, x0[0])
    torch.testing.assert_close(shared, alone)


# -- how fast ------------------------------------------------------------------------------------


def test_anderson_is_faster_on_a_stiff_problem() -> None:
    phi, c = symmetric(1, 50, 0.0, 0.99)[0], torch.randn(3, 50, dtype=F64)
    run = lambda history: count(lambda x: linear(phi)(x, c), torch.zeros_like(c), history)
    plain = run(0)
    assert run(1) < plain / 2
    assert run(5) < plain / 5
    assert run(10) < plain / 10


def test_anderson_is_faster_on_a_scalar_whatever_its_history() -> None:
    """Residuals in the history differ by ten orders of magnitude on the way."""
    x0 = torch.zeros(2, 1, dtype=F64)
    plain = count(torch.cos, x0, 0)
    assert all(count(torch.cos, x0, history) <= plain / 5 for history in (1, 2, 5, 10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("history", [0, 1, 2, 5, 10])
def test_converges_where_the_plain_residual_grows_before_it_falls(
    history: int, dtype: torch.dtype
) -> None:
    phi = 0.3 * torch.eye(10) + torch.diag(torch.full((9,), 3.0), 1)
    step = lambda x: x @ phi.to(dtype).T + 1
    assert count(step, torch.zeros(2, 10, dtype=dtype), history) < 200


def test_anderson_survives_a_jump_out_of_the_domain() -> None:
    """The extrapolation lands where the step is NaN, and goes back to plain steps."""
    visited: list[float] = []

    def step(x: Tensor) -> Tensor:
        visited.append(float(x.detach()))
        return 2 * torch.sqrt(x)

    x = fo.fixed_point(step, torch.full((1, 1), 0.01, dtype=F64))
    torch.testing.assert_close(x, torch.full((1, 1), 4.0, dtype=F64), rtol=0, atol=1e-9)
    assert min(visited) < 0
    assert len(visited) < 26  # and NaN does not linger in the history


@given(seed=st.integers(0, 10**6), n=st.integers(2, 11), history=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_anderson_is_hardly_slower_where_it_does_not_help(seed: int, n: int, history: int) -> None:
    """Kinks, and a Φ far from normal: extrapolation misleads, and plain steps must take over."""
    torch.manual_seed(seed)
    m, c = torch.randn(n, n, dtype=F64), 3 * torch.randn(1, n, dtype=F64)
    m = 1.8 * m.triu(1) + 0.3 * torch.eye(n, dtype=F64)
    step = lambda x: torch.where(x > 0, x, 0.3 * x) @ m.T + c
    x0 = torch.zeros(1, n, dtype=F64)
    count(step, x0, history, limit=2 * count(step, x0, 0) + 10)


# -- each sample on its own ----------------------------------------------------------------------


@both
def test_a_sample_alone_is_its_row_in_a_batch(method: str) -> None:
    phi = 0.7 * torch.rand(5, 1, 1, dtype=F64) * contraction(N)
    c, x0 = torch.randn(5, N, dtype=F64), torch.randn(5, N, dtype=F64)
    x0[2] = solution(phi[2], c[2])  # there already: it must not move
    together = fo.fixed_point(linear(phi), x0, c, method=method)
    assert (together[2] == x0[2]).all()
    for row in range(5):
        one = slice(row, row + 1)
        alone = fo.fixed_point(linear(phi[one]), x0[one], c[one], method=method)
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-13)


DIVERGES = torch.tensor([[[1.5, 1.0, 0.0], [0.0, 1.4, 1.0], [0.1, 0.0, 1.6]]], dtype=F64)


@both
@pytest.mark.parametrize("bad", ["diverges", "nan", "slow"])
def test_a_sample_without_a_fixed_point_is_named_and_masked(method: str, bad: str) -> None:
    good, slow = contraction(3, 0.3), DIVERGES[0] * 0.5  # ρ = 0.986
    phi = torch.stack([good, {"diverges": DIVERGES[0], "slow": slow}.get(bad, good), good])
    c = torch.randn(3, 3, dtype=F64)
    if bad == "nan":
        c[1, 0] = torch.nan
    c.requires_grad_()
    options: dict[str, Any] = {"method": method, "history": 1, "max_iterations": 40}
    options["certify"] = fo.Certify(warn_above=1e-2)
    if bad == "diverges":
        options["max_iterations"] = 400
    x0 = torch.zeros(3, 3, dtype=F64)
    with pytest.raises(fo.FoldError) as caught:
        fo.fixed_point(linear(phi), x0, c, **options)
    named = {"diverges": "DIVERGED", "nan": "NONFINITE", "slow": "MAX_ITERATIONS"}[bad]
    assert caught.value.status is not None
    assert [Status(int(code)).name for code in caught.value.status] == [
        "CONVERGED",
        named,
        "CONVERGED",
    ]
    x = fo.fixed_point(linear(phi), x0, c, on_failure="mask", **options)
    (grad,) = torch.autograd.grad(x[:, 0].sum(), c)
    inverse = torch.linalg.inv(torch.eye(3, dtype=F64) - good)
    torch.testing.assert_close(grad[::2], inverse[0].expand(2, 3), rtol=0, atol=1e-9)
    assert (grad[1] == 0).all()
    torch.testing.assert_close(x[::2], solution(good, c)[::2], rtol=0, atol=1e-8)


@both
def test_a_lost_sample_is_not_stepped_into_overflow(method: str) -> None:
    """A step that cannot digest inf must not fail for the others' sake."""

    def step(x: Tensor, c: Tensor) -> Tensor:
        if not torch.isfinite(x).all():
            raise RuntimeError("inf reached the step")
        return x**2 + c  # without a real fixed point for c > ¼

    c = torch.tensor([[0.2499], [1.0]], dtype=F64)
    x = fo.fixed_point(step, torch.ones_like(c) / 2, c, method=method, on_failure="mask")
    torch.testing.assert_close(x[0], 0.5 - (0.25 - c[0]).sqrt(), rtol=0, atol=1e-8)
    assert torch.isfinite(x).all()


# -- shapes, dtypes, options ---------------------------------------------------------------------


@both
def test_nested_x(method: str) -> None:
    phi, c = contraction(N), torch.randn(3, N, dtype=F64, requires_grad=True)

    def step(x: Any, c: Tensor) -> Any:
        y = linear(phi)(torch.cat([x["a"], x["b"][0]], -1), c)
        return {"a": y[:, :1], "b": (y[:, 1:],)}

    start = {"a": torch.zeros(3, 1, dtype=F64), "b": (torch.zeros(3, N - 1, dtype=F64),)}
    x = fo.fixed_point(step, start, c, method=method)
    found = torch.cat([x["a"], x["b"][0]], -1)
    torch.testing.assert_close(found, solution(phi, c), rtol=0, atol=1e-9)
    (grad,) = torch.autograd.grad(found[:, 0].sum(), c)
    inverse = torch.linalg.inv(torch.eye(N, dtype=F64) - phi)
    torch.testing.assert_close(grad, inverse[0].expand(3, N), rtol=0, atol=1e-9)


@both
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (3, 1)])
def test_empty_and_single(method: str, shape: tuple[int, int]) -> None:
    c = torch.ones(shape, requires_grad=True)
    x = fo.fixed_point(lambda x, c: 0.5 * x + c, torch.zeros(shape), c, method=method)
    x.sum().backward()
    assert c.grad is not None
    torch.testing.assert_close(x.detach(), torch.full(shape, 2.0), rtol=0, atol=1e-4)
    torch.testing.assert_close(c.grad, torch.full(shape, 2.0), rtol=0, atol=1e-4)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_its_dtype(method: str, dtype: torch.dtype) -> None:
    c = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    x = fo.fixed_point(lambda x, c: 0.5 * x + c, torch.zeros(2, 3, dtype=dtype), c, method=method)
    (grad,) = torch.autograd.grad(x.sum(), c)
    assert (x.dtype, grad.dtype) == (dtype, dtype)
    torch.testing.assert_close(grad.float(), torch.full((2, 3), 2.0), rtol=1e-2, atol=1e-2)


def test_tolerances_decide_when_to_stop() -> None:
    c = torch.ones(1, 1, dtype=F64)
    find = lambda **options: fo.fixed_point(
        lambda x, c: 0.5 * x + c,
        torch.zeros_like(c),
        c,
        method="plain",
        certify=fo.Certify(1, 1),
        **options,
    )
    assert 2 - find(rtol=0.0, atol=0.3) == 0.5  # residuals 1, 0.5, 0.25: the third iterate
    assert 2 - find(rtol=0.1) == 0.5
    assert 2 - find() < 1e-10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "broyden"}, "method must be 'anderson' or 'plain', got 'broyden'"),
        ({"history": 0}, "history must be an integer of 1 or more, got 0"),
        ({"history": 2.0}, "history must be an integer of 1 or more, got 2.0"),
        ({"max_iterations": 0}, "max_iterations must be an integer of 1 or more, got 0"),
        ({"max_iterations": 1e3}, "max_iterations must be an integer of 1 or more, got 1000.0"),
        ({"rtol": -1.0}, "rtol must be 0 or more, got -1.0"),
        ({"atol": float("nan")}, "atol must be 0 or more, got nan"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fo.fixed_point(lambda x: x, torch.ones(1, 1), **options)
