"""A step that precomputes: once for each fold, and with the derivative that it had without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt.steps import Step

F64 = torch.float64
N = 3


def plain(x: Tensor, A: Tensor, c: Tensor) -> Tensor:
    """U = ½ tanh(E x + c²), E = exp(A) / ‖exp(A)‖."""
    return update(x, *prepare(A, c))


def prepare(A: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    E = torch.linalg.matrix_exp(A)
    return E / torch.linalg.matrix_norm(E)[..., None, None], c**2


def update(x: Tensor, E: Tensor, s: Tensor) -> Tensor:
    return 0.5 * torch.tanh((E @ x.unsqueeze(-1)).squeeze(-1) + s)


def readout(x: Tensor, E: Tensor, s: Tensor) -> Tensor:
    return torch.sin(x) * s.sum(-1, keepdim=True)


def counting() -> tuple[Step, list[int]]:
    """The step, and how often it precomputed."""
    calls: list[int] = []

    def precompute(*params: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(params))
        return prepare(*params)

    return Step(update, precompute=precompute, readout=readout, name="counting"), calls


def data(*batch: int) -> tuple[Tensor, Tensor]:
    A = 0.5 * torch.randn(*batch, N, N, dtype=F64)
    return A.requires_grad_(), torch.randn(*batch, N, dtype=F64, requires_grad=True)


def solve(A: Tensor, c: Tensor) -> Tensor:
    x = torch.zeros_like(c)
    for _ in range(45):
        x = plain(x, A, c)
    return x


WAYS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "fold": lambda step, A, c: fo.fold(step, solve(A.detach(), c.detach()), A, c),
    "folded": lambda step, A, c: fo.folded(step)(solve)(A, c),
    "FoldedLayer": lambda step, A, c: fo.FoldedLayer(solve, step)(A, c),
    "fixed_point": lambda step, A, c: fo.fixed_point(
        step, torch.zeros_like(c), A, c, rtol=1e-14
    ),
    "unroll": lambda step, A, c: fo.unroll(step, torch.zeros_like(c), A, c, iterations=45),
    "unfold": lambda step, A, c: fo.unfold(
        step, solve(A.detach(), c.detach()), A, c, iterations=45
    ),
}  # fmt: skip


@pytest.mark.parametrize("batch", [(2,), (5,)])
@pytest.mark.parametrize("way", WAYS)
def test_once_for_each_call_and_the_same_derivative(way: str, batch: tuple[int, ...]) -> None:
    A, c = data(*batch)
    step, calls = counting()
    x = WAYS[way](step, A, c)
    weights = torch.randn_like(x)
    found = torch.autograd.grad((weights * x).sum(), (A, c))
    assert calls == [2]
    wanted = torch.autograd.grad((weights * solve(A, c)).sum(), (A, c))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_a_second_call_precomputes_again() -> None:
    step, calls = counting()
    layer = fo.FoldedLayer(solve, step)
    for _ in range(3):
        layer(*data(2))
    assert calls == [2, 2, 2]


# -- derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fold", "folded", "fixed_point"])
def test_second_derivatives(way: str) -> None:
    step, _ = counting()

    def solution(A: Tensor, c: Tensor) -> Tensor:
        return WAYS[way](step, A, c)

    arguments = data(1)
    assert gradcheck(solution, arguments, check_forward_ad=True)
    assert gradgradcheck(solution, arguments)


@pytest.mark.parametrize("way", ["fold", "folded", "fixed_point"])
def test_transforms(way: str) -> None:
    step, calls = counting()
    A, c = data(4)
    A, c = A.detach()[:, None], c.detach()[:, None]  # four batches of one sample
    func = torch.func

    def loss(by: Any, A: Tensor, c: Tensor) -> Tensor:
        return WAYS[way](by, A, c).sin().sum() if by else solve(A, c).sin().sum()

    for transform in (
        lambda f: func.vmap(func.grad(f, (0, 1))),
        lambda f: func.vmap(func.hessian(f, 1)),
        lambda f: func.jacfwd(lambda A, c: func.vmap(f)(A, c).sum(), (0, 1)),
    ):
        calls.clear()
        found = transform(lambda A, c: loss(step, A, c))(A, c)
        assert calls == [2]
        wanted = transform(lambda A, c: loss(None, A, c))(A, c)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_full_jacobian(shared: bool) -> None:
    A, c = (param.detach() for param in data(3))
    A = A[0] if shared else A
    step, _ = counting()
    found = fo.jacobian(step, solve(A, c), A, c)
    wanted = fo.jacobian(plain, solve(A, c), A, c)
    torch.testing.assert_close(found, wanted)
    exact = torch.func.jacrev(solve, 1)(A, c)
    for sample in range(3):
        torch.testing.assert_close(found[1][sample], exact[sample, :, sample])


# -- what a step says and takes ------------------------------------------------------------------


def test_a_call_is_the_update_of_what_was_precomputed() -> None:
    step, calls = counting()
    A, c = data(2)
    x = torch.randn(2, N, dtype=F64)
    torch.testing.assert_close(step(x, A, c), plain(x, A, c))
    torch.testing.assert_close(step.solution(x, A, c), readout(x, *prepare(A, c)))
    assert calls == [2, 2]


def test_solution_is_differentiable() -> None:
    step, _ = counting()
    A, c = data(2)
    found = step.solution(fo.fold(step, solve(A, c).detach(), A, c), A, c)
    wanted = readout(solve(A, c), *prepare(A, c))
    weights = torch.randn_like(wanted)
    pair = [torch.autograd.grad((weights * y).sum(), (A, c)) for y in (found, wanted)]
    torch.testing.assert_close(pair[0], pair[1], rtol=0, atol=1e-10)


def test_bind() -> None:
    step, calls = counting()
    A, c = data(2)
    bound, prepared = step.bind(A, c)
    assert (calls, bound.precompute, bound.bound, bound.name) == ([2], None, True, "counting")
    torch.testing.assert_close(prepared, prepare(A, c))
    x = torch.randn(2, N, dtype=F64)
    torch.testing.assert_close(bound(x, *prepared), plain(x, A, c))
    torch.testing.assert_close(bound.solution(x, *prepared), step.solution(x, A, c))
    assert bound.bind(*prepared) == (bound, prepared)
    assert calls == [2, 2]
    bare = Step(plain)
    assert bare.bind(A, c) == (bare, (A, c))
    assert bare.solution(x, A, c) is x


def halve(x: Tensor, c: Tensor, *_: Any) -> Tensor:
    return 0.5 * (x + c)


@pytest.mark.parametrize("way", ["fold", "folded", "fixed_point"])
def test_a_part_that_goes_unused_is_no_mistake(way: str) -> None:
    """Nor one that is no tensor. Of a plain step an unused param is one: see the warning."""
    spare = torch.randn(2, N, dtype=F64, requires_grad=True)
    c = spare.exp()
    step = Step(halve, precompute=lambda c, spare: (c, 2 * spare, None, 3.0, {"a": spare}))
    x = {
        "fold": lambda: fo.fold(step, c.detach(), c, spare),
        "folded": lambda: fo.folded(step)(lambda c, _: c)(c, spare),
        "fixed_point": lambda: fo.fixed_point(step, torch.zeros_like(c), c, spare),
    }[way]()
    (grad,) = torch.autograd.grad(x.sum(), spare, retain_graph=True)
    torch.testing.assert_close(grad, spare.exp())
    with pytest.warns(fo.FoldWarning, match="param 1 requires grad, but the step does not use it"):
        fo.fold(Step(halve), c.detach(), c, spare)


def test_the_solver_gets_the_params_as_they_were_given() -> None:
    step, _ = counting()
    seen: list[Any] = []

    def solver(A: Tensor, c: Tensor) -> np.ndarray:
        seen.extend((A, c))
        return solve(A, c).numpy()

    A, c = data(2)
    x = fo.folded(step)(solver)(A, c)
    assert x.requires_grad
    for given, param in zip(seen, (A, c), strict=True):
        assert not given.requires_grad
        torch.testing.assert_close(given, param.detach())


def test_precompute_that_fails_says_why() -> None:
    def refuse(*_: Any) -> tuple[Tensor, ...]:
        raise ValueError("c must be positive")

    c = torch.ones(2, N, requires_grad=True)
    for call in (
        lambda step: fo.fold(step, c, c),
        lambda step: fo.folded(step)(lambda c: c)(c),
        lambda step: step(c, c),
    ):
        with pytest.raises(ValueError, match="c must be positive"):
            call(Step(update, precompute=refuse))
