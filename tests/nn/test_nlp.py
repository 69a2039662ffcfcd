"""The nonlinear program layer: derivatives of every order, batches and solvers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import Status
from foldopt.nn.nlp import NLP, NLPSolution
from tests.nlp import F64, rows


def objective(x: Tensor, p: Tensor) -> Tensor:
    """Not convex away from the origin, with a mixed third derivative in x and p."""
    return torch.sin(x[0] * p[0]) + (x - p).square().sum() + 0.1 * (p[0] * x[1]) ** 3


def disc(x: Tensor, p: Tensor) -> Tensor:
    return x @ x - p[1] ** 2


def line(x: Tensor, p: Tensor) -> Tensor:
    return x[0] + torch.exp(0.3 * x[1]) - p[0]


PARTS: dict[str, dict[str, Any]] = {
    "unconstrained": {},
    "equality": {"equality": line},
    "inequality": {"inequality": disc},
    "bounds": {"bounds": (lambda p: -p[1].exp(), lambda p: torch.stack([p[1], 2 * p[0]]))},
    "all": {"inequality": disc, "equality": line, "bounds": (-3.0, lambda p: p[0] - 0.2)},
}


# Several active sets in one batch.
PARAMS = rows((0.9, 0.7), (0.4, 2.0), (1.5, 1.1))


def whole(layer: NLP, *params: Any) -> NLPSolution:
    found = layer(*params)
    assert isinstance(found, NLPSolution)
    return found


def parts(layer: NLP) -> Callable[..., tuple[Tensor, ...]]:
    """The layer's x and multipliers, those that there are."""

    def solve(*params: Tensor) -> tuple[Tensor, ...]:
        found = whole(layer, *params)
        return tuple(part for part in (found.x, *found.multipliers) if part.numel())

    return solve


def build(name: str, **options: Any) -> NLP:
    return NLP(
        objective, start=rows(0.1, 0.2), multipliers=True, executor="serial",
        **(PARTS[name] | options),
    )  # fmt: skip


def quick(name: str, p: Tensor, **options: Any) -> Callable[..., tuple[Tensor, ...]]:
    """The same with x at p as the solver's answer to everything: Newton's method does the rest."""
    x = parts(build(name))(p)[0].detach()
    layer = NLP(objective, solver=lambda _: x, multipliers=True, **(PARTS[name] | options))
    return parts(layer)


@pytest.mark.parametrize(
    ("name", "sparse"), [*((name, False) for name in PARTS), ("all", True), ("inequality", True)]
)
def test_derivatives_of_x_and_multipliers(name: str, sparse: bool) -> None:
    p = PARAMS.clone().requires_grad_()
    solve = quick(name, PARAMS, sparse=sparse)
    assert torch.autograd.gradcheck(solve, (p,), atol=1e-6)
    p = PARAMS[:1].clone().requires_grad_()
    solve = quick(name, PARAMS[:1], sparse=sparse)
    assert torch.autograd.gradgradcheck(solve, (p,), atol=1e-5)


@pytest.mark.parametrize("name", PARTS)
def test_forward_mode_agrees_with_reverse_mode(name: str) -> None:
    solve = parts(build(name))
    direction = torch.linspace(-1, 1, 6, dtype=F64).reshape(3, 2)
    pushed = torch.func.jvp(solve, (PARAMS,), (direction,))[1]
    pull = torch.func.vjp(solve, PARAMS)[1]
    for index, tangent in enumerate(pushed):
        cotangent = torch.cos(torch.arange(tangent.numel(), dtype=F64)).reshape(tangent.shape)
        zero = [torch.zeros_like(part) for part in pushed]
        zero[index] = cotangent
        (gradient,) = pull(tuple(zero))
        forward, reverse = ((cotangent * tangent).sum(), (gradient * direction).sum())
        assert torch.allclose(forward, reverse, rtol=1e-9, atol=1e-9)


def test_sparse_and_dense_matrices_agree_and_ipopt_and_sqp() -> None:
    with fo.record() as seen:
        found = [
            parts(build("all", **options))(PARAMS)
            for options in ({}, {"sparse": True}, {"solver": "sqp"})
        ]
    assert all(float(event.residual.max()) < 1e-12 for event in seen)
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-10)


def test_a_large_sparse_program_and_its_gradient() -> None:
    """A chain that is pulled down, with its ends held: 120 variables, and so sparse by itself."""
    n = 120

    def energy(x: Tensor, load: Tensor, stiff: Tensor) -> Tensor:
        d = x[1:] - x[:-1]
        return n * stiff * (d.square() + 0.1 * d**4).sum() + (load * x).sum() / n

    layer = NLP(
        energy, lambda x, load, stiff: -0.02 - x[n // 4 : n // 2],
        lambda x, load, stiff: torch.stack([x[0], x[-1]]),
        (-1.0, lambda load, stiff: stiff), start=torch.zeros(n), batch_dims=0,
    )  # fmt: skip
    load = torch.linspace(0.5, 1.5, n, dtype=F64, requires_grad=True)
    stiff = torch.tensor(2.0, dtype=F64, requires_grad=True)
    weights = torch.cos(torch.arange(n, dtype=F64))
    with fo.record() as seen:
        x = layer(load, stiff)
        grads = torch.autograd.grad((weights * x).sum(), (load, stiff))
    assert float(seen[0].residual) < 1e-12
    assert bool((x == -0.02).any())  # where it is held
    push = torch.sin(torch.arange(n, dtype=F64)), torch.tensor(0.7, dtype=F64)
    step = 1e-4

    def at(t: float) -> Tensor:
        with torch.no_grad():
            return weights @ layer(load + t * push[0], stiff + t * push[1])

    differences = float(at(step) - at(-step)) / (2 * step)
    exact = float(grads[0] @ push[0] + grads[1] * push[1])
    assert exact == pytest.approx(differences, rel=1e-6)


def test_a_shared_param_gets_the_sum() -> None:
    layer = NLP(
        lambda x, c, w: (x - c).square().sum() + w * x[0] ** 4,
        lambda x, c, w: x.sum() - w,
        n=2,
        shared=(1,),
    )
    c = rows((1.0, 2.0), (-1.0, 0.5), (0.3, 0.2))
    w = torch.tensor(0.8, dtype=F64, requires_grad=True)
    (together,) = torch.autograd.grad(layer(c, w).sum(), w)
    alone = sum(torch.autograd.grad(layer(row[None], w).sum(), w)[0] for row in c)
    assert torch.allclose(together, torch.as_tensor(alone), atol=1e-10)


def test_shapes_dtypes_and_nested_params() -> None:
    def nested(x: Tensor, data: dict[str, Any]) -> Tensor:
        return (x - data["c"]).square().sum() * data["scale"]

    layer = NLP(nested, n=2, batch_dims=2)
    c = torch.arange(12, dtype=torch.float32).reshape(2, 3, 2).requires_grad_()
    x = layer({"c": c, "scale": torch.ones(2, 3)})
    assert (x.shape, x.dtype) == (c.shape, torch.float32)
    assert torch.allclose(x, c)
    (gradient,) = torch.autograd.grad(x[0, 1].sum(), c)
    assert torch.equal(gradient[0, 1].round(decimals=5), torch.ones(2))
    assert gradient.abs().sum() == pytest.approx(2, abs=1e-4)
    single = NLP(nested, n=2, batch_dims=0)({"c": c.detach()[0, 0], "scale": 2.0})
    assert torch.allclose(single, c[0, 0])


@pytest.mark.parametrize("solver", ["ipopt", "sqp", lambda p: p])
def test_a_batch_of_none(solver: Any) -> None:
    layer = NLP(objective, disc, bounds=(0.0, None), solver=solver, n=2, multipliers=True)
    p = torch.zeros(0, 2, dtype=F64, requires_grad=True)
    x = whole(layer, p).x
    assert x.shape == (0, 2)
    assert torch.autograd.grad(x.sum(), p)[0].shape == (0, 2)


def test_transforms() -> None:
    layer = NLP(objective, disc, start=rows(0.1, 0.2), batch_dims=0, executor="serial")
    batched = build("inequality")
    x = parts(batched)(PARAMS)[0]
    assert torch.allclose(torch.func.vmap(layer)(PARAMS), x, atol=1e-10)
    J = torch.func.vmap(torch.func.jacrev(layer))(PARAMS)
    p = PARAMS.clone().requires_grad_()
    expected = torch.autograd.grad(parts(batched)(p)[0][:, 0].sum(), p)[0]
    assert torch.allclose(J[:, 0], expected, atol=1e-8)
    twice = torch.func.vmap(torch.func.vmap(torch.func.grad(lambda p: layer(p)[0])))
    assert torch.allclose(twice(PARAMS[[0, 1, 2, 0]].reshape(2, 2, 2)).reshape(4, 2)[:3], J[:, 0])
    H = torch.func.hessian(lambda p: layer(p).sum())(PARAMS[0])
    assert torch.allclose(H, H.mT, atol=1e-8)


# -- solvers of one's own ------------------------------------------------------------------


def test_any_function_that_returns_x_will_do() -> None:
    """It returns a rough x and nothing else: multipliers and the last digits are found."""
    exact = parts(build("all"))
    rough = (exact(PARAMS)[0].detach() + 1e-5).numpy()
    for answer in (rough, torch.tensor(rough), as_solution(rough)):
        layer = NLP(objective, **PARTS["all"], solver=lambda p, a=answer: a, multipliers=True)
        p = PARAMS.clone().requires_grad_()
        for mine, theirs in zip(parts(layer)(p), exact(p), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-11)
            grads = [
                torch.autograd.grad(part.sum(), p, retain_graph=True)[0] for part in (mine, theirs)
            ]
            assert torch.allclose(grads[0], grads[1], atol=1e-8)


def as_solution(x: np.ndarray) -> fo.Solution:
    return fo.Solution(x, torch.zeros(len(x), dtype=torch.int64))


def test_the_status_of_such_a_solver_is_kept() -> None:
    said = fo.Solution(rows((1.0,), (2.0,)), torch.tensor([0, 6]), messages=("", "no luck"))
    layer = NLP(
        lambda x, p: (x[0] - p) ** 2, solver=lambda p: said, on_failure="mask", multipliers=True
    )
    with fo.record() as seen:
        found = layer(rows(1.0, 2.0))
    assert isinstance(found, NLPSolution)
    assert found.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE]
    assert seen[0].messages == ("", "no luck")
