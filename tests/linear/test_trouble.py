"""Singular, indefinite, poisoned, out of time, or not ours: what the linear solvers say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foldopt.linear import CG, GMRES, LFPI, Auto, BiCGSTAB, Dense, solve
from foldopt.status import Status
from tests.systems import (
    F64,
    exact,
    operator,
    random_phi,
    relative,
    symmetric,
)

EVERY = [LFPI(), GMRES(), GMRES(restart=7), BiCGSTAB(), CG(), Dense(), Auto(), Auto(dense_up_to=1)]


def singular_phi() -> Tensor:
    """I − Φ with singular values 1, ½ and 0; a well-behaved sample beside it."""
    u, _ = torch.linalg.qr(torch.randn(3, 3, dtype=F64))
    w, _ = torch.linalg.qr(torch.randn(3, 3, dtype=F64))
    bad = u @ torch.diag(torch.tensor([1.0, 0.5, 0.0], dtype=F64)) @ w.mT
    eye = torch.eye(3, dtype=F64)
    return torch.stack([eye - bad, 0.5 * eye])


@pytest.mark.parametrize("solver", [GMRES(), BiCGSTAB(), Dense(), Auto()], ids=str)
def test_singular_is_reported_for_its_sample_only(solver: Any) -> None:
    b = torch.randn(2, 3, dtype=F64)
    solution = solve(solver, operator(singular_phi()), b)
    assert Status.failed(solution.status).tolist() == [True, False]
    assert not solution.solved
    assert relative(solution.value[1], 2 * b[1]) < 1e-12


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("solver", [Dense(least_squares=True), Auto(least_squares=True)], ids=str)
def test_least_squares_on_request(solver: Any, transpose: bool) -> None:
    phi, b = singular_phi(), torch.randn(2, 3, dtype=F64)
    solution = solve(solver, operator(phi, transpose=transpose), b)
    assert solution.status.tolist() == [Status.LEAST_SQUARES, Status.CONVERGED]
    assert solution.solved
    matrix = torch.eye(3, dtype=F64) - (phi.mT if transpose else phi)
    wanted = torch.linalg.lstsq(matrix[0], b[0, :, None], driver="gelsd").solution[:, 0]
    assert relative(solution.value[0], wanted) < 1e-12
    assert relative(solution.value[1], 2 * b[1]) < 1e-12


def test_nearly_singular_is_solved_while_the_digits_last() -> None:
    # cond(I − Φ) = 1e8: the answer has half the digits, and its residual is at rounding level.
    values = torch.logspace(-8, 0, 30, dtype=F64)
    q, _ = torch.linalg.qr(torch.randn(30, 30, dtype=F64))
    phi = torch.eye(30, dtype=F64) - q @ torch.diag(values) @ q.mT
    b = torch.randn(1, 30, dtype=F64)
    wanted = (q @ ((q.mT @ b[0]) / values)).unsqueeze(0)
    solution = solve(Dense(), operator(phi.unsqueeze(0)), b)
    assert solution.solved
    assert relative(solution.value, wanted) < 1e-7


def test_cg_does_not_trust_what_is_not_symmetric() -> None:
    phi = 3.0 * torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]], dtype=F64)
    solution = solve(CG(), operator(phi), torch.tensor([[1.0, 0.3]], dtype=F64))
    assert not solution.solved
    indefinite = torch.diag(torch.tensor([3.0, 0.1], dtype=F64)).unsqueeze(0)
    assert not solve(CG(), operator(indefinite), torch.tensor([[1.0, 0.1]], dtype=F64)).solved


@pytest.mark.parametrize("solver", [GMRES(max_iterations=3), BiCGSTAB(max_iterations=3)], ids=str)
def test_out_of_iterations(solver: Any) -> None:
    phi, b = symmetric(1, 60, -0.9, 0.99), torch.randn(1, 60, dtype=F64)
    solution = solve(solver, operator(phi), b)
    assert solution.status.tolist() == [Status.MAX_ITERATIONS]
    assert int(solution.iterations.max()) == 3


@pytest.mark.parametrize("solver", EVERY, ids=str)
@pytest.mark.parametrize("where", ["phi", "cotangent"])
def test_nan_is_reported_for_its_sample_only(solver: Any, where: str) -> None:
    phi, b = symmetric(2, 20, -0.5, 0.5), torch.randn(2, 20, dtype=F64)
    (phi if where == "phi" else b)[0, 0] = torch.nan
    solution = solve(solver, operator(phi), b)
    assert Status.failed(solution.status).tolist() == [True, False]
    assert relative(solution.value[1:], exact(phi[1:], b[1:])) < 1e-9


def test_a_users_function() -> None:
    phi, b = random_phi(2, 5, 0.5), torch.randn(2, 5, dtype=F64)

    def direct(matvec: Any, right: Tensor) -> Tensor:
        eye = torch.eye(5, dtype=F64)
        matrix = torch.stack([matvec(row.expand(2, 5).contiguous()) for row in eye], -1)
        return torch.linalg.solve(matrix, right)

    solution = solve(direct, operator(phi), b)
    assert solution.method == "direct"
    assert relative(solution.value, exact(phi, b)) < 1e-12
    lazy = solve(lambda matvec, right: right, operator(phi), b)
    assert Status.failed(lazy.status).all()


def test_a_users_function_that_returns_something_else() -> None:
    with pytest.raises(TypeError, match=r"must return a tensor like b, \(2, 5\)"):
        solve(
            lambda matvec, b: b[:, :2], operator(random_phi(2, 5, 0.5)), torch.ones(2, 5).double()
        )


@pytest.mark.parametrize("cls", [LFPI, GMRES, BiCGSTAB, CG, Auto])
def test_options_are_checked(cls: Any) -> None:
    with pytest.raises(ValueError, match="max_iterations must be above 0, got 0"):
        cls(max_iterations=0)
    with pytest.raises(ValueError, match="rtol must be 0 or more, got -1"):
        cls(rtol=-1.0)
    with pytest.raises(ValueError, match="atol must be 0 or more, got nan"):
        cls(atol=float("nan"))


@pytest.mark.parametrize("solver", [Dense(), Auto()], ids=str)
def test_a_large_matrix_is_not_refused_for_its_rounding(solver: Any) -> None:
    # Singular values from 1e-2 to 1e5: the residual that LU leaves is of order ε ‖A‖ ‖v‖.
    values = torch.logspace(-2, 5, 30, dtype=F64)
    q, _ = torch.linalg.qr(torch.randn(30, 30, dtype=F64))
    w, _ = torch.linalg.qr(torch.randn(30, 30, dtype=F64))
    matrix = q @ torch.diag(values) @ w.mT
    b = torch.randn(1, 30, dtype=F64)
    phi = (torch.eye(30, dtype=F64) - matrix).unsqueeze(0)
    solution = solve(solver, operator(phi, transpose=False), b)
    assert solution.status.tolist() == [Status.CONVERGED]
    backward_error = (b[0] - matrix @ solution.value[0]).norm() / solution.value[0].norm()
    assert backward_error < 1e-14 * values[-1]
    # Beyond that the digits are gone, and it says so.
    matrix = q @ torch.diag(torch.logspace(-5, 8, 30, dtype=F64)) @ w.mT
    phi = (torch.eye(30, dtype=F64) - matrix).unsqueeze(0)
    assert solve(solver, operator(phi, transpose=False), b).status.tolist() == [Status.BREAKDOWN]
