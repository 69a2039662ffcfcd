"""Quadratic programs: starts, other solvers, and arguments that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import qpsolvers
import torch
from torch import Tensor

import foldopt as fo
from foldopt.operators import PrimalDual, _solve_qp, quadratic_program
from tests.quadratic import F64, random_program, solve

EYE, ONE = torch.eye(2, dtype=F64), torch.ones(2, dtype=F64)

# -- start and solver ----------------------------------------------------------------------------


def test_a_start_near_the_solution_leaves_nothing_to_iterate() -> None:
    blocks = random_program(4, m=9)
    wanted = solve(*blocks)
    assert (wanted.inequality > 0).any()
    with pytest.raises(fo.FoldError, match="MAX_ITERATIONS"):
        quadratic_program(*blocks, max_iterations=0)
    near = PrimalDual(wanted.x + 1e-9, wanted.inequality, wanted.equality)
    plain: Any = tuple(wanted)
    for start in (wanted, near, wanted.x, plain):
        found = quadratic_program(*blocks, start=start, max_iterations=0)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_a_start_that_is_wrong_does_no_harm() -> None:
    blocks = random_program(4, m=9)
    wanted = solve(*blocks)
    for start in (
        torch.zeros(4, 4, dtype=F64),
        100 * wanted.x,
        torch.full_like(wanted.x, torch.nan),
    ):
        found = quadratic_program(*blocks, start=start)
        torch.testing.assert_close(found.x, wanted.x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("start", [torch.zeros(4, 3), (torch.zeros(4, 4),) * 2])
def test_a_start_of_another_shape(start: Any) -> None:
    with pytest.raises(ValueError, match="start must be an x of the shape of p"):
        quadratic_program(*random_program(4), start=start)


def by_piqp(*blocks: Tensor) -> Any:
    """Another solver of the whole batch, in numpy."""
    rows = []
    for sample in zip(*(block.numpy() for block in blocks), strict=True):
        problem = qpsolvers.Problem(*sample)
        solution = qpsolvers.solve_problem(problem, "piqp", eps_abs=1e-12, eps_rel=1e-12)
        rows.append((solution.x, solution.z, solution.y))
    return tuple(np.stack(part) for part in zip(*rows, strict=True))


@pytest.mark.parametrize("method", ["active_set", "admm"])
def test_another_solver(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_solve_qp, "solve_qp", None)  # which is not called then
    blocks = [block.requires_grad_() for block in random_program(3)]
    found = quadratic_program(*blocks, solver=by_piqp, method=method)
    wanted = solve(*blocks)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    weights = torch.randn(3, 4, dtype=F64)
    grads = torch.autograd.grad((weights * found.x).sum(), blocks)
    monkeypatch.undo()
    own = quadratic_program(*blocks, method=method)
    exact = torch.autograd.grad((weights * own.x).sum(), blocks)
    torch.testing.assert_close(grads, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda *b: b[1], "and returned Tensor"),
        (lambda *b: (b[1], b[3]), "and returned tuple"),
        (lambda *b: (b[1][0], b[3], b[5]), r"\[\(4,\), \(3, 6\), \(3, 1\)\]"),
        (lambda *b: (b[1], b[5], b[3]), r"\[\(3, 4\), \(3, 1\), \(3, 6\)\]"),
    ],
)
def test_a_solver_that_returns_something_else(answer: Any, says: str) -> None:
    with pytest.raises(fo.FoldError, match=r"must return \(x, inequality, equality\).*" + says):
        quadratic_program(*random_program(3), solver=answer)


@pytest.mark.parametrize("method", ["active_set", "admm"])
def test_a_solver_whose_answer_is_no_solution(method: Any) -> None:
    with pytest.raises(fo.FoldError, match="NOT_FIXED"):
        quadratic_program(*random_program(3), method=method, solver=lambda *b: (b[1], b[3], b[5]))


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"Q": [[1.0]]}, TypeError, "Q must be a tensor, got <class 'list'>"),
        ({"G": EYE}, ValueError, "G and h go together, one of them is None"),
        ({"b": ONE}, ValueError, "A and b go together"),
        (
            {"p": torch.ones(2, dtype=torch.int64)},
            TypeError,
            r"p must be a floating tensor .*int64",
        ),
        ({"p": torch.tensor(1.0)}, TypeError, r"p must be a floating tensor .* shape \(\)"),
        ({"Q": EYE.float()}, TypeError, "Q is torch.float32 on cpu, p is torch.float64.*cast"),
        ({"Q": EYE[:1]}, ValueError, r"Q must have shape \(2, 2\).*got \(1, 2\)"),
        ({"Q": EYE.expand(3, 2, 2)}, ValueError, r"Q must have shape \(2, 2\).*got \(3, 2, 2\)"),
        ({"G": EYE[0], "h": ONE}, ValueError, r"G must have shape \(2, 2\).*got \(2,\)"),
        ({"A": EYE, "b": ONE[:1]}, ValueError, r"A must have shape \(1, 2\).*got \(2, 2\)"),
        ({"method": "newton"}, ValueError, "method must be one of .*'admm'.* got 'newton'"),
    ],
)
def test_arguments(given: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match="quadratic_program: .*" + says):
        quadratic_program(**{"Q": EYE, "p": ONE, **given})
