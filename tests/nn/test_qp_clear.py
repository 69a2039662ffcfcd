"""What DAQP returns is taken as it is where all is clear, and there it is what polishing gives."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import solvers
from foldopt.nn import QP
from foldopt.nn._qp import clear, forward
from foldopt.nn._qp.answer import Answer
from foldopt.nn._qp.program import Program, program_of
from foldopt.nn._qp.scaled import Scaled
from foldopt.nn._qp.step import State, params_vjp, update
from foldopt.operators._inverse import matvec
from tests.dense_programs import F64, programs

SHARED = [(), (0,), (2, 3), (0, 2, 4, 6, 7), (0, 2, 3, 4, 5, 6, 7)]


def solved(blocks: list[Tensor | None]) -> list[Tensor]:
    """The point and the gradients of a random loss."""
    leaves = [None if one is None else one.clone().requires_grad_() for one in blocks]
    solution = QP(multipliers=True)(*leaves)  # pyright: ignore[reportArgumentType]
    parts = [solution.x, *solution.multipliers]
    draw = torch.Generator().manual_seed(7)
    loss = sum(
        (part * torch.randn(part.shape, generator=draw, dtype=F64)).sum()
        for part in parts
        if part.numel()
    )
    assert isinstance(loss, Tensor)
    grads = torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])
    return [part.detach() for part in parts] + list(grads)


@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 0), (5, 3, 2), (12, 20, 0), (20, 20, 5)])
def test_both_ways_agree(
    n: int, m: int, k: int, bounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = programs(6, n, m, k, bounds)
    found = solved(blocks)
    monkeypatch.setattr(forward, "clear", lambda *_: None)
    for one, other in zip(found, solved(blocks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_an_asymmetric_q_gets_the_gradient_of_its_symmetric_part() -> None:
    Q, *rest = programs(3, 4, 3, 1)
    assert Q is not None
    skew = torch.randn(3, 4, 4, dtype=F64)
    Q = (Q + skew - skew.mT).requires_grad_()

    def layer(Q: Tensor) -> Tensor:
        return QP()(Q, *rest)  # pyright: ignore

    torch.testing.assert_close(layer(Q), layer((Q + Q.mT) / 2))
    assert torch.autograd.gradcheck(layer, Q)
    (grad,) = torch.autograd.grad(layer(Q).sum(), Q)
    torch.testing.assert_close(grad, grad.mT)


@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize(("n", "m", "k"), [(5, 0, 0), (12, 20, 0), (20, 20, 5)])
def test_the_residual_that_is_handed_on_is_that_of_the_step(
    n: int, m: int, k: int, bounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of(*programs(6, n, m, k, bounds))[0]
    seen = []
    monkeypatch.setattr(
        forward, "clear", lambda *given: (seen.append(given), clear.clear(*given))[1]
    )
    with torch.inference_mode():
        forward.solve(program, solvers.QP(), raises=True)
    ((scaled, sides, x, multipliers),) = seen
    # At the solution it is rounding error. Near it, where only the tolerance says no:
    monkeypatch.setattr(clear, "_EXACT", 1.0)
    x = x + 1e-4 * torch.randn(x.shape, dtype=F64).numpy()
    multipliers = multipliers * (1 + 1e-4 * torch.rand(multipliers.shape, dtype=F64).numpy())
    monkeypatch.setattr(clear, "TOLERANCE", -1.0)
    residual = clear.clear(scaled, sides, x, multipliers)
    z = State(torch.from_numpy(x), torch.from_numpy(multipliers))
    after = update(z, *program)
    before, after = torch.cat(z, -1), torch.cat(after, -1)
    expected = (after - before).norm(dim=-1) / (1 + before.norm(dim=-1))
    assert bool((expected > 1e-6).all())
    assert residual is not None
    torch.testing.assert_close(torch.from_numpy(residual), expected, rtol=1e-6, atol=0)


def test_a_multiplier_of_the_wrong_sign_is_not_clear() -> None:
    program = eye_program(p=torch.tensor([[3.0, 1.0], [-2.0, 0.5]], dtype=F64))
    with torch.inference_mode():
        scaled = Scaled.of(program)
    # x₁ ≤ 1 pulls the first sample to 1, where it does not want to be.
    x, multipliers = np.array([[1.0, -1.0], [1.0, -0.5]]), np.array([[-4.0], [1.0]])
    assert clear.clear(scaled, np.sign(multipliers), x, multipliers) is None
    x[0], multipliers[0] = [-3.0, -1.0], 0
    assert clear.clear(scaled, np.sign(multipliers), x, multipliers) is not None


def test_a_rounded_solution_is_certified_as_it_is_returned() -> None:
    blocks = [None if one is None else one.float() for one in programs(4, 6, 4, 2)]
    with fo.record() as log:
        QP()(*blocks)  # pyright: ignore[reportArgumentType]
    assert log[0].residual.max() > 1e-10  # and not that of float64


def eye_program(**changed: Any) -> Program:
    """Two samples of min ½‖x‖² + pᵀx over x₁ ≤ 1, clearly active; ``changed`` blocks."""
    data: dict[str, Any] = {
        "Q": torch.eye(2, dtype=F64),
        "p": torch.tensor([[-3.0, 1.0], [-2.0, 0.5]], dtype=F64),
        "G": torch.tensor([[1.0, 0.0]], dtype=F64),
        "h": torch.ones(1, dtype=F64),
        **dict.fromkeys(("A", "b", "lower", "upper")),
    }
    return program_of(*(data | changed).values())[0]


def asks_more(program: Program, monkeypatch: pytest.MonkeyPatch) -> tuple[Answer, bool]:
    """The answer, and whether anything was solved beside what DAQP solves."""
    asked = []
    solve_on = forward._on
    monkeypatch.setattr(forward, "_on", lambda *given: (asked.append(1), solve_on(*given))[1])
    with torch.inference_mode():
        return forward.solve(program, solvers.QP(), raises=True), bool(asked)


def test_what_is_clear_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, more = asks_more(eye_program(), monkeypatch)
    assert not more
    torch.testing.assert_close(answer.point.x, torch.tensor([[1.0, -1.0], [1.0, -0.5]], dtype=F64))
    expected = torch.tensor([[2.0], [1.0]], dtype=F64)
    torch.testing.assert_close(answer.point.multipliers, expected)


def test_a_program_without_rows_is_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    program = eye_program(G=None, h=None)
    answer, more = asks_more(program, monkeypatch)
    assert not more
    torch.testing.assert_close(answer.point.x, -program.p)


ONE, TWO = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64)
# Singular by what an affine probe does not see.
SECOND = (
    torch.eye(3, dtype=F64) - torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]).double() / 6
)
ZERO = torch.zeros(2, 3, dtype=F64)
UNCLEAR = {
    "weakly active": {"p": torch.tensor([[-3.0, 1.0], [-1.0, 0.5]], dtype=F64)},
    "the same row twice": {"G": TWO, "h": torch.tensor([1.0, 2.0], dtype=F64)},
    "redundant equalities": {"A": TWO, "b": torch.tensor([0.5, 1.0], dtype=F64)},
    "no curvature": {"Q": torch.zeros(2, 2, dtype=F64), "lower": -1.0, "upper": 1.0},
    "singular": {"Q": torch.ones(2, 2, dtype=F64)},
    "a second difference": {"Q": SECOND, "p": ZERO, "G": torch.ones(1, 3, dtype=F64)},
    "singular and large": {"Q": 1e8 * torch.tensor([[1.0, 3.0], [3.0, 9.0]], dtype=F64)},
    "not convex": {"Q": torch.diag(torch.tensor([1.0, -1e-9], dtype=F64)), "upper": 1.0},
    "infeasible": {"A": ONE, "b": torch.tensor([2.0], dtype=F64)},
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_clear_is_looked_into(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asks_more(eye_program(**UNCLEAR[case]), monkeypatch)[1]


@pytest.mark.parametrize("shared", SHARED)
def test_the_closed_form_is_what_autograd_finds(shared: tuple[int, ...]) -> None:
    count, n, m, k = 3, 4, 3, 2
    shapes = [(n, n), (n,), (m, n), (m,), (k, n), (k,), (n,), (n,)]
    params = [
        torch.randn(*(() if i in shared else (count,)), *shape, dtype=F64)
        for i, shape in enumerate(shapes)
    ]
    for part in params[6:]:  # a fixed variable
        part[..., 0] = 0.3
    mu = torch.randn(count, n, dtype=F64)
    mu[:, 1] = 0
    lam = torch.randn(count, m, dtype=F64).clamp_min(0)
    rows = torch.cat([lam, torch.randn(count, k, dtype=F64), mu], -1)
    z = State(torch.randn(count, n, dtype=F64), rows)
    v = State(*(torch.randn_like(part) for part in z))
    leaves = [param.requires_grad_() for param in params]
    expected = torch.autograd.grad(update(z, *leaves), leaves, grad_outputs=v)
    wanted = [True] * 8
    with torch.no_grad():
        for one, other in zip(params_vjp(z, leaves, v, wanted), expected, strict=True):
            torch.testing.assert_close(one, other)
        wanted[2] = False
        assert params_vjp(z, leaves, v, wanted)[2] is None


def test_nothing_waits_for_the_cycle_collector() -> None:
    blocks = [one for one in programs(4, 5, 3, 1) if one is not None]
    leaves = [block.requires_grad_() for block in blocks]
    alive = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            x = QP()(*leaves)
            alive.append(weakref.ref(x))
            x.sum().backward()
        del x  # pyright: ignore[reportPossiblyUnboundVariable]
        assert [ref() for ref in alive if ref() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_the_product_without_a_graph_is_that_with_one(
    lead: tuple[int, ...], dtype: torch.dtype
) -> None:
    matrix, vector = torch.randn(5, 3, 4, dtype=dtype), torch.randn(*lead, 5, 4, dtype=dtype)
    for transposed in (False, True):
        M = matrix.mT.contiguous().mT if transposed else matrix
        with torch.no_grad():
            found = matvec(M, vector)
        assert found.dtype == dtype
        torch.testing.assert_close(found, matvec(M.clone().requires_grad_(), vector).detach())


def test_a_step_may_bring_its_own_product_with_the_params() -> None:
    seen: list[list[bool]] = []

    def root(x: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return 0.5 * (x + c / x) + 0 * d

    def closed(x: Tensor, params: Any, v: Tensor, wanted: Any) -> tuple[Tensor | None, ...]:
        seen.append(list(wanted))
        return (v / (2 * x), None if not wanted[1] else torch.zeros_like(v))

    step = fo.steps.Step(root, params_vjp=closed)
    c = torch.tensor([[4.0], [9.0]], dtype=F64, requires_grad=True)
    d = torch.ones(2, 1, dtype=F64)
    x = fo.fold(step, c.detach().sqrt(), c, d)
    (grad,) = torch.autograd.grad(x.sum(), c, retain_graph=True)
    torch.testing.assert_close(grad, 0.5 / c.detach().sqrt())
    assert seen == [[True, False]]
    # Higher derivatives take the graph of the step.
    (first,) = torch.autograd.grad(x.sum(), c, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), c)
    torch.testing.assert_close(second, -0.25 * c.detach() ** -1.5)
    assert torch.autograd.gradcheck(lambda c: fo.fold(step, c.detach().sqrt(), c, d), c)


def test_all_settings_of_the_layer_go_through() -> None:
    blocks = [one for one in programs(3, 4, 3, 1) if one is not None]
    for failure, dtype in itertools.product(("raise", "warn", "mask"), (torch.float32, F64)):
        leaves = [block.to(dtype).requires_grad_() for block in blocks]
        x = QP(on_failure=failure)(*leaves)  # pyright: ignore[reportArgumentType]
        assert isinstance(x, Tensor)
        assert x.dtype == dtype
        grads = torch.autograd.grad(x.sum(), leaves)
        assert [grad.dtype for grad in grads] == [dtype] * 6
        with fo.record() as seen:
            QP(on_failure=failure)(*leaves)  # pyright: ignore[reportArgumentType]
        assert seen[0].status.tolist() == [0, 0, 0]


@pytest.mark.parametrize("rows", [False, True])
def test_an_empty_batch_has_an_empty_answer(rows: bool) -> None:
    p = torch.zeros(0, 2, dtype=F64, requires_grad=True)
    G = (torch.zeros(0, 3, 2, dtype=F64), torch.zeros(3, dtype=F64)) if rows else (None, None)
    Q = torch.eye(2, dtype=F64, requires_grad=True)
    found = QP(multipliers=True)(Q, p, *G, lower=-1.0, upper=1.0)
    assert isinstance(found, fo.nn.QPSolution)
    assert found.x.shape == (0, 2)
    assert [tuple(part.shape) for part in found.multipliers] == [(0, 3 * rows), (0, 0), (0, 2)]
    assert found.status.shape == (0,)
    found.x.sum().backward()
    assert p.grad is not None
    assert Q.grad is not None
    assert not Q.grad.any()
