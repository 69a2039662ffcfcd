"""Derivatives of folded solvers, of every order and mode, against unrolling to convergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import foldopt as fo
from tests.problems import F64, contraction, iterate, network_step

B, N, P = 3, 4, 5
ADJOINTS = [fo.Auto(), fo.Dense(), fo.GMRES(), fo.BiCGSTAB(), fo.LFPI(rtol=1e-13)]
Function = Callable[..., Any]


@pytest.fixture
def pair() -> tuple[Function, Function, Tensor, Tensor]:
    """A folded solver, the same solver unrolled, and its two arguments (batched, shared)."""
    step = network_step(contraction(N))
    solver = iterate(step, N)
    return fo.folded(step)(solver), solver, torch.randn(B, P).double(), torch.randn(P, N).double()


def assert_same(a: Any, b: Any, atol: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=0.0, atol=atol)


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=lambda a: type(a).__name__)
def test_gradients_and_second_derivatives(adjoint: Any) -> None:
    step = network_step(contraction(N))
    solver = iterate(step, N)
    folded = fo.folded(step, adjoint=adjoint)(solver)
    c, w = torch.randn(B, P, dtype=F64), torch.randn(P, N, dtype=F64)
    c.requires_grad_()
    w.requires_grad_()
    weight = torch.randn(B, N, dtype=F64)

    def derivatives(function: Function) -> tuple[Tensor, ...]:
        first = torch.autograd.grad((function(c, w) * weight).sum(), (c, w), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1].sin().sum(), (c, w))
        return (*first, *second)

    assert_same(derivatives(folded), derivatives(solver))


def test_gradcheck_every_mode(pair: tuple[Function, Function, Tensor, Tensor]) -> None:
    folded, _, c, w = pair
    inputs = (c.requires_grad_(), w.requires_grad_())
    assert gradcheck(folded, inputs, check_forward_ad=True)
    assert gradgradcheck(folded, inputs, check_fwd_over_rev=True)


TRANSFORMS: dict[str, Callable[[Function, Tensor, Tensor], Any]] = {
    "jacrev": lambda f, c, w: jacrev(f, argnums=(0, 1))(c, w),
    "jacfwd": lambda f, c, w: jacfwd(f, argnums=(0, 1))(c, w),
    "hessian": lambda f, c, w: hessian(lambda w: f(c, w).sin().sum())(w),
    "jacrev of jacrev": lambda f, c, w: jacrev(jacrev(lambda c: f(c, w)))(c),
    "jacrev of jacfwd": lambda f, c, w: jacrev(jacfwd(lambda c: f(c, w)))(c),
    "jvp": lambda f, c, w: jvp(f, (c, w), (c.cos(), w.sin())),
    "vjp": lambda f, c, w: vjp(f, c, w)[1](torch.ones(B, N, dtype=F64)),
    "vmap": lambda f, c, w: vmap(f, in_dims=(1, None))(_many(c, 1), w),
    "vmap both": lambda f, c, w: vmap(f, in_dims=(0, 2))(_many(c, 0), _many(w, 2)),
    "vmap of grad": lambda f, c, w: vmap(
        grad(lambda c, w: f(c, w).square().sum(), argnums=(0, 1)), in_dims=(0, None)
    )(_many(c, 0), w),
    "vmap of grad, shared mapped": lambda f, c, w: vmap(
        grad(lambda c, w: f(c, w).square().sum(), argnums=(0, 1)), in_dims=(None, 0)
    )(c, _many(w, 0)),
    "grad of vmap": lambda f, c, w: grad(
        lambda w: vmap(f, in_dims=(0, None))(_many(c, 0), w).square().sum()
    )(w),
    "vmap of jvp": lambda f, c, w: vmap(lambda t: jvp(lambda c: f(c, w), (c,), (t,))[1])(
        _many(c, 0)
    ),
    "per-sample gradients": lambda f, c, w: vmap(
        grad(lambda c, w: f(c[None], w).square().sum(), argnums=1), in_dims=(0, None)
    )(c, w),
    "vmap of vmap": lambda f, c, w: vmap(vmap(f, in_dims=(0, None)), in_dims=(0, None))(
        torch.stack([_many(c, 0)] * 2), w
    ),
}


def _many(tensor: Tensor, dim: int) -> Tensor:
    return torch.stack([tensor, tensor.sin(), 2 * tensor, tensor - 0.3], dim)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str, pair: tuple[Function, Function, Tensor, Tensor]) -> None:
    folded, unrolled, c, w = pair
    assert_same(TRANSFORMS[name](folded, c, w), TRANSFORMS[name](unrolled, c, w))


def test_fold_of_a_given_solution_under_transforms() -> None:
    step = network_step(contraction(N))
    solver = iterate(step, N)
    c, w = torch.randn(B, P, dtype=F64), torch.randn(P, N, dtype=F64)
    x_star = solver(c, w)

    def by_fold(c: Tensor, w: Tensor) -> Tensor:
        return fo.fold(step, x_star, c, w)

    assert_same(jacrev(by_fold)(c, w), jacrev(solver)(c, w))
    assert_same(jacfwd(by_fold)(c, w), jacfwd(solver)(c, w))
    many = _many(c, 0)
    mapped = vmap(lambda x, c: jacrev(lambda c: fo.fold(step, x, c, w))(c))(
        vmap(lambda c: solver(c, w))(many), many
    )
    assert_same(mapped, vmap(jacrev(lambda c: solver(c, w)))(many))


def test_nested_forward_mode_is_refused() -> None:
    # PyTorch itself loses the outer tangent of a custom function there; see _calculus.
    folded = fo.folded(lambda x, c: 0.5 * (x + c / x))(torch.sqrt)
    with pytest.raises(fo.FoldError, match="forward mode inside forward mode"):
        jacfwd(jacfwd(folded))(torch.ones(1, 1))


def test_graph_of_the_solution_is_cut() -> None:
    c = torch.tensor([[4.0]], requires_grad=True)
    x = fo.fold(lambda x, c: 0.5 * (x + c / x), c.sqrt(), c)
    (g,) = torch.autograd.grad(x.sum(), c)
    assert_same(g, torch.tensor([[0.25]]))


def test_shared_param_gets_the_sum_over_the_batch() -> None:
    # x = a c per sample, a shared: ∂/∂a of Σ_b w_b x_b is Σ_b w_b c_b.
    a = torch.tensor(2.0, dtype=F64, requires_grad=True)
    c, weight = torch.randn(6, 3, dtype=F64), torch.randn(6, 3, dtype=F64)
    x = fo.fold(lambda x, a: 0.5 * x + 0.5 * a * c, a.detach() * c, a)
    (x * weight).sum().backward()
    assert a.grad is not None
    assert_same(a.grad, (weight * c).sum())


def test_nested_structures() -> None:
    """A primal–dual pair in a dict, params in a tuple and a list; and a number among them."""
    q = torch.diag(torch.tensor([2.0, 3.0, 4.0], dtype=F64))
    a = torch.tensor([[1.0, 1.0, 1.0]], dtype=F64)

    def solver(data: tuple[Tensor, list[Tensor]], scale: float) -> dict[str, Any]:
        p, (right,) = data
        kkt = torch.cat([torch.cat([q, a.T], 1), torch.cat([a, a.new_zeros(1, 1)], 1)])
        rhs = torch.cat([-scale * p, right], -1)
        solution = torch.linalg.solve(kkt, rhs.unsqueeze(-1)).squeeze(-1)
        return {"primal": solution[..., :3], "dual": (solution[..., 3:],)}

    def step(x: dict[str, Any], data: tuple[Tensor, list[Tensor]], scale: float) -> dict[str, Any]:
        p, (right,) = data
        primal, (dual,) = x["primal"], x["dual"]
        return {
            "primal": primal - 0.2 * (primal @ q + scale * p + dual @ a),
            "dual": (dual + 0.2 * (primal @ a.T - right),),
        }

    p = torch.randn(2, 3, dtype=F64, requires_grad=True)
    right = torch.randn(2, 1, dtype=F64, requires_grad=True)
    got = fo.folded(step)(solver)((p, [right]), 1.5)
    assert set(got) == {"primal", "dual"}
    weight = torch.randn(2, 3, dtype=F64)

    def loss(x: dict[str, Any]) -> Tensor:
        return (x["primal"] * weight).sum() + x["dual"][0].sum()

    wanted = torch.autograd.grad(loss(solver((p, [right]), 1.5)), (p, right))
    assert_same(torch.autograd.grad(loss(got), (p, right)), wanted)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_batch_dims_and_event_shapes(batch: tuple[int, ...]) -> None:
    m = contraction(6)
    c = torch.randn(*batch, 2, 3, dtype=F64, requires_grad=True)

    def step(x: Tensor, c: Tensor) -> Tensor:
        return torch.tanh((x.flatten(-2) @ m.T).unflatten(-1, (2, 3)) + c)

    def solver(c: Tensor) -> Tensor:
        x = torch.zeros_like(c)
        for _ in range(300):
            x = step(x, c)
        return x

    folded = fo.folded(step, batch_dims=len(batch))(solver)
    weight = torch.randn(*batch, 2, 3, dtype=F64)
    got = torch.autograd.grad((folded(c) * weight).sum(), c)
    assert_same(got, torch.autograd.grad((solver(c) * weight).sum(), c))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_empty(shape: tuple[int, int]) -> None:
    c = torch.zeros(shape, requires_grad=True)
    x = fo.fold(lambda x, c: 0.5 * x + c, 2 * c.detach(), c)
    (g,) = torch.autograd.grad(x.sum(), c)
    assert g.shape == shape


def test_params_that_need_no_gradient_get_none() -> None:
    c = torch.ones(2, 3, requires_grad=True)
    index = torch.arange(3)
    fixed = torch.ones(3)
    x = fo.fold(
        lambda x, c, i, f, n: 0.5 * x + c[:, i] * f * n, 2 * c.detach(), c, index, fixed, 1.0
    )
    x.sum().backward()
    assert_same(c.grad, torch.full((2, 3), 2.0))
    assert fixed.grad is None


def test_retain_graph_and_several_backward_passes() -> None:
    c = torch.ones(2, 3, requires_grad=True)
    x = fo.fold(lambda x, c: 0.5 * x + c, 2 * c.detach(), c)
    for _ in range(3):
        (g,) = torch.autograd.grad(x.sum(), c, retain_graph=True)
        assert_same(g, torch.full((2, 3), 2.0))


def test_unused_output_leaf() -> None:
    c = torch.ones(2, 3, requires_grad=True)
    x, _ = fo.fold(
        lambda x, c: (0.5 * x[0] + c, 0.1 * x[1] + x[0]),
        (2 * c.detach(), 2 * c.detach() / 0.9),
        c,
    )
    (g,) = torch.autograd.grad(x.sum(), c)
    assert_same(g, torch.full((2, 3), 2.0))


def test_numpy_solvers_follow_the_params_dtype() -> None:
    import numpy as np

    for dtype in (torch.float32, F64):
        c = torch.tensor([[4.0]], dtype=dtype, requires_grad=True)
        x = fo.folded(lambda x, c: 0.5 * (x + c / x))(
            lambda c: np.sqrt(c.numpy().astype(np.float64))
        )(c)
        assert x.dtype == dtype
        (g,) = torch.autograd.grad(x.sum(), c)
        assert g.dtype == dtype
        assert_same(g, torch.tensor([[0.25]], dtype=dtype))


def test_a_fold_inside_a_step_inside_a_fold() -> None:
    """The outer step solves an inner fixed point, itself folded."""
    inner_m, outer_m = contraction(N, 0.5), contraction(N, 0.4)

    def inner_step(y: Tensor, x: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(y @ inner_m.T + x @ outer_m.T + c)

    def inner(x: Tensor, c: Tensor, *, record: bool) -> Tensor:
        if record:
            y = torch.zeros_like(x)
            for _ in range(200):
                y = inner_step(y, x, c)
            return y
        return fo.fixed_point(inner_step, torch.zeros_like(x), x, c)

    def solver(c: Tensor, record: bool = False) -> Tensor:
        x = torch.zeros(B, N, dtype=F64)
        for _ in range(100):
            x = inner(x, c, record=record)
        return x

    folded = fo.folded(lambda x, c: inner(x, c, record=False))(solver)
    c = torch.randn(B, N, dtype=F64, requires_grad=True)
    assert_same(
        torch.autograd.grad(folded(c).sin().sum(), c),
        torch.autograd.grad(solver(c, record=True).sin().sum(), c),
    )


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(device: torch.device) -> None:
    m = contraction(N)
    c, w = torch.randn(B, P, dtype=F64), torch.randn(P, N, dtype=F64)
    results = []
    for where in (torch.device("cpu"), device):
        step = network_step(m.to(where))
        args = c.to(where).requires_grad_(), w.to(where).requires_grad_()
        x = fo.folded(step)(iterate(step, N))(*args)
        grads = torch.autograd.grad(x.sin().sum(), args, create_graph=True)
        second = torch.autograd.grad(grads[0].sin().sum(), args)
        assert all(t.device.type == where.type for t in (x, *grads, *second))
        results.append([t.cpu() for t in (x, *grads, *second)])
    assert_same(results[0], results[1])
