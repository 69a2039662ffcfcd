"""ADMM for quadratic programs: fixed points, Φ, gradients, what is computed once, misuse."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt.operators import _admm
from foldopt.steps import admm_qp
from foldopt.steps.admm_qp import CONSTRAINTS
from tests.quadratic import F64, apply, assert_slopes, random_program, solve, with_bounds
from tests.steps.test_gradient import phi

N, M = 4, 5

KINDS = [
    kinds
    for count in range(4)
    for kinds in itertools.combinations(CONSTRAINTS, count)
    if not {"box", "nonnegative"} <= set(kinds)
]


def problem(
    kinds: tuple[str, ...], *batch: int, shared: bool = False
) -> tuple[tuple[Tensor, ...], Any]:
    """The params of the step, and another solver ``solution(*params) -> x``."""
    Q, p, G, h, A, b = random_program(*batch, n=N, m=M)
    inside = torch.rand(*batch, N, dtype=F64)  # feasible, whatever the constraints
    h, b = apply(G, inside) + 0.1, apply(A, inside)
    lower, upper = inside - 0.3, inside + 0.4
    lower[..., 0], upper[..., 1] = -torch.inf, torch.inf
    given = {"A": A, "b": b, "lower": lower, "upper": upper, "G": G, "h": h}
    names = [name for kind in kinds for name in CONSTRAINTS[kind]]
    chosen = [given[name] for name in names]
    if shared:
        Q, chosen = Q[0], [param[0] for param in chosen]
    params = tuple(param.clone().requires_grad_() for param in (Q, p, *chosen))
    none, empty = torch.zeros(0, N, dtype=F64), torch.zeros(0, dtype=F64)

    def solution(Q: Tensor, p: Tensor, *rest: Tensor) -> Tensor:
        own = dict(zip(names, rest, strict=True))
        G, h = own.get("G", none), own.get("h", empty)
        A, b = own.get("A", none), own.get("b", empty)
        if "nonnegative" in kinds:
            zero = torch.zeros(*h.shape[:-1], N, dtype=F64)
            G, h = with_bounds(G, h, zero, zero + torch.inf)
        elif "box" in kinds:
            h = h.expand(*own["lower"].shape[:-1], -1)
            G = G.expand(*h.shape[:-1], *G.shape[-2:])
            G, h = with_bounds(G, h, own["lower"], own["upper"])
        return solve((Q + Q.mT) / 2, p, G, h, A, b).x

    return params, solution


def state(kinds: tuple[str, ...], *batch: int) -> Tensor:
    """A start of the size that the docstring gives."""
    bounded = bool({"box", "nonnegative"} & set(kinds)) or "inequality" not in kinds
    return torch.zeros(*batch, N * bounded + M * ("inequality" in kinds), dtype=F64)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kinds", KINDS)
def test_every_combination_of_constraints(kinds: tuple[str, ...], shared: bool) -> None:
    params, solution = problem(kinds, 3, shared=shared)
    step = admm_qp(kinds, penalty=2.0)
    w = fo.fixed_point(step, state(kinds, 3), *params, rtol=1e-13)
    x = step.solution(w, *params)
    torch.testing.assert_close(x, solution(*params), rtol=0, atol=1e-7)
    # Beyond a bound that is infinite there is no slope to be had by differences: 0, not NaN.
    assert_slopes(solution, x, params)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_batch_dimensions(batch: tuple[int, ...]) -> None:
    kinds = ("equality", "box")
    params, solution = problem(kinds, *batch)
    step = admm_qp(kinds)
    w = fo.fixed_point(
        step, state(kinds, *batch), *params, rtol=1e-13, max_iterations=5000, batch_dims=len(batch)
    )
    x = step.solution(w, *params)
    torch.testing.assert_close(x, solution(*params), rtol=0, atol=1e-7)
    assert_slopes(solution, x, params)


@pytest.mark.parametrize("kinds", [("equality", "nonnegative"), ("inequality",)])
def test_the_penalty_moves_the_state_and_not_the_solution(kinds: tuple[str, ...]) -> None:
    params, solution = problem(kinds, 3)
    for penalty in (0.5, 5.0, torch.tensor([0.5, 1.0, 4.0]), torch.tensor(2.0, dtype=F64)):
        step = admm_qp(kinds, penalty)
        w = fo.fixed_point(step, state(kinds, 3), *params, rtol=1e-13, max_iterations=5000)
        x = step.solution(w, *params)
        torch.testing.assert_close(x, solution(*params), rtol=0, atol=1e-7)
        assert_slopes(solution, x, params)


# -- Φ -------------------------------------------------------------------------------------------


def formula(step: Any, w: Tensor, params: tuple[Tensor, ...]) -> Tensor:
    """S (2D − I) + I − D of the docstring, with S from how U moves with z − s."""
    _, prepared = step.bind(*params)
    S, lower, upper = prepared[0], prepared[2], prepared[3]
    free = torch.ones_like(w, dtype=torch.bool) if lower is None else w > lower
    free = free if upper is None else free & (w < upper)
    D, eye = torch.diag(free.to(F64)), torch.eye(len(w), dtype=F64)
    return S @ (2 * D - eye) + eye - D


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(
    "kinds", [kinds for kinds in KINDS if kinds[-1:] not in ((), ("equality",))]
)
def test_eigenvalues_lie_in_the_disc(kinds: tuple[str, ...], penalty: float) -> None:
    params, _ = problem(kinds)
    params = tuple(param.detach() for param in params)
    step = admm_qp(kinds, penalty)
    for w in (state(kinds), torch.randn_like(state(kinds)), 5 + state(kinds)):
        J = phi(step, w, *params)
        assert ((torch.linalg.eigvals(J) - 0.5).abs() <= 0.5 + 1e-12).all()
        if "box" not in kinds:
            torch.testing.assert_close(J, formula(step, w, params))


def test_rate_at_a_unique_and_strictly_complementary_solution() -> None:
    kinds = ("equality", "nonnegative")
    params, _ = problem(kinds)
    params = tuple(param.detach() for param in params)
    for penalty in (0.01, 1.0, 100.0):
        step = admm_qp(kinds, penalty)
        w = fo.unroll(step, state(kinds), *params, iterations=8000)
        assert torch.linalg.eigvals(phi(step, w, *params)).abs().max() < 1 - 1e-4


# -- once ----------------------------------------------------------------------------------------


def test_the_kkt_matrix_is_inverted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    inverse = _admm.symmetric_inverse

    def counted(K: Tensor) -> Tensor:
        calls.append(K.shape)
        return inverse(K)

    monkeypatch.setattr(_admm, "symmetric_inverse", counted)
    kinds = ("equality", "nonnegative")
    params, _ = problem(kinds, 3)
    step = admm_qp(kinds)
    w = fo.fixed_point(step, state(kinds, 3), *params)
    w.sum().backward()
    assert len(calls) == 1
    calls.clear()
    fo.fold(step, w.detach(), *params).sum().backward()
    assert len(calls) == 1
    calls.clear()
    fo.folded(step)(lambda *_: w.detach())(*params).sum().backward()
    assert len(calls) == 1


# -- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("equality", "nonnegative"), ("box", "inequality")])
def test_second_derivatives(kinds: tuple[str, ...]) -> None:
    params, _ = problem(kinds, 1)
    if "box" in kinds:
        with torch.no_grad():
            params[2][..., 0], params[3][..., 1] = -9.0, 9.0  # ∞ has no numerical derivative
    step = admm_qp(kinds)
    start = fo.unroll(step, state(kinds, 1), *params, iterations=1000).detach()

    def solution(*params: Tensor) -> Tensor:
        w = fo.fixed_point(step, start, *params, rtol=1e-14, max_iterations=3000)
        return step.solution(w, *params)

    # The first derivatives in the matrices are those of the slopes above.
    vectors = tuple(param.detach() if param.dim() > 2 else param for param in params)
    assert gradcheck(solution, vectors, check_forward_ad=True)
    assert gradgradcheck(solution, vectors)


def test_vmap_of_grad_is_the_batch() -> None:
    kinds = ("equality", "nonnegative")
    params, _ = problem(kinds, 3)
    params = tuple(param.detach() for param in params)
    step = admm_qp(kinds)

    def loss(*params: Tensor) -> Tensor:
        w = fo.fixed_point(step, state(kinds), *params, rtol=1e-13, batch_dims=0)
        return step.solution(w, *params).sin().sum()

    found = torch.func.vmap(torch.func.grad(loss, tuple(range(4))))(*params)
    leaves = tuple(param.requires_grad_() for param in params)
    w = fo.fixed_point(step, state(kinds, 3), *leaves, rtol=1e-13)
    wanted = torch.autograd.grad(step.solution(w, *leaves).sin().sum(), leaves)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_a_matrix_that_is_not_symmetric_counts_by_its_symmetric_part() -> None:
    (Q, p), _ = problem((), 2)
    K = torch.randn(2, N, N, dtype=F64)
    skewed = (Q.detach() + K - K.mT).requires_grad_()
    step = admm_qp(())
    x = [step.solution(fo.fixed_point(step, state((), 2), q, p), q, p) for q in (Q, skewed)]
    torch.testing.assert_close(*x)
    (grad,) = torch.autograd.grad(x[1][:, 0].sum(), skewed)
    torch.testing.assert_close(grad, grad.mT)


def test_float32_stays_float32() -> None:
    kinds = ("equality", "nonnegative")
    params, solution = problem(kinds, 2)
    low = tuple(param.detach().float().requires_grad_() for param in params)
    step = admm_qp(kinds, torch.tensor([1.0, 2.0], dtype=F64))
    x = step.solution(fo.fixed_point(step, state(kinds, 2).float(), *low), *low)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), solution(*params), rtol=0, atol=1e-4)
    assert all(grad.dtype == torch.float32 for grad in torch.autograd.grad(x.sum(), low))


# -- misuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("box",), TypeError, r"constraints must be a sequence of some of 'equality'.*got 'box'"),
        ((3,), TypeError, "constraints must be a sequence of some of"),
        ((["boxes"],), ValueError, "constraints must be some of 'equality', .* each at most once"),
        ((["box", "box"],), ValueError, "each at most once"),
        ((["box", "nonnegative"],), ValueError, "'box' with lower = 0 already holds"),
        ((["box"], "1"), TypeError, "penalty must be a number or a tensor, got str"),
        ((["box"], 0), ValueError, "penalty must be finite and above 0, got 0"),
        ((["box"], torch.tensor([1.0, -1.0])), ValueError, "penalty must be finite and above 0"),
        ((["box"], float("inf")), ValueError, "penalty must be finite and above 0"),
    ],
)
def test_arguments(arguments: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        admm_qp(*arguments)


Q, P, A, B = torch.eye(3), torch.ones(2, 3), torch.ones(1, 3), torch.ones(1)


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ((Q, P), TypeError, r"takes the tensors Q, p, A, b, and got 2 param\(s\)"),
        ((Q, P, A, 1.0), TypeError, r"got 4 param\(s\): Tensor, Tensor, Tensor, float"),
        ((torch.ones(3), P, A, B), ValueError, r"Q of shape \(3,\) does not fit.*\(n, n\)"),
        ((torch.ones(3, 2), P, A, B), ValueError, r"Q of shape \(3, 2\) does not fit"),
        ((torch.ones(4, 3, 3), P, A, B), ValueError, r"Q of shape \(4, 3, 3\) does not fit"),
        ((Q, P, torch.ones(1, 2), B), ValueError, r"A of shape \(1, 2\) does not fit.*'n': 3"),
        ((Q, P, A, torch.ones(2)), ValueError, r"b of shape \(2,\) does not fit.*'k': 1"),
    ],
)
def test_params(params: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=r"steps\.admm_qp: .*" + says):
        admm_qp()(torch.zeros(2, 3), *params)
