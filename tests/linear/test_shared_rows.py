"""Rows of Φ that the samples share are computed once, and only if they are shared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foldopt.jacobian import StepJacobian
from foldopt.linear import Dense, LinearOperator, solve
from foldopt.linear.dense import Factor
from tests.systems import F64, exact, random_phi, relative, step_jacobian

B, N = 16, 48


class Counting:
    """A recorded step that counts the vectors it pulls back."""

    def __init__(self, phi: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jacobian = step_jacobian(phi)
        self.pulled = 0
        original = StepJacobian.vjp

        def vjp(jacobian: StepJacobian, v: Tensor) -> Tensor:
            self.pulled += v.shape[:-2].numel()
            return original(jacobian, v)

        monkeypatch.setattr(StepJacobian, "vjp", vjp)


def check(jacobian: StepJacobian, phi: Tensor) -> None:
    for transpose in (True, False):
        b = torch.randn(2, B, N, dtype=F64)
        solution = solve(Dense(), LinearOperator(jacobian, transpose), b)
        assert solution.solved
        assert relative(solution.value, exact(phi, b, transpose=transpose)) < 1e-12


def test_masked_rows_of_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.rand(B, N) < 0.6
    mask[:, 7] = False  # a row that no sample has
    phi = random_phi(1, N, 0.7) * mask.unsqueeze(-1)
    counting = Counting(phi, monkeypatch)
    Factor.of(counting.jacobian)
    assert counting.pulled <= 7  # 47 rows in 16 samples, three or four each; and one look
    check(counting.jacobian, phi)


def test_one_matrix_for_all_is_factored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    phi = random_phi(1, N, 0.7).expand(B, N, N)
    counting = Counting(phi, monkeypatch)
    factor = Factor.of(counting.jacobian)
    assert counting.pulled == 1 + 3  # one for a look at the transpose
    assert factor.lu.shape == (1, N, N)
    check(counting.jacobian, phi)


def test_matrices_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    phi = random_phi(B, N, 0.7)
    counting = Counting(phi, monkeypatch)
    factor = Factor.of(counting.jacobian)
    assert counting.pulled == 1 + N
    assert not factor.shared
    check(counting.jacobian, phi)


def test_one_sample_that_differs() -> None:
    phi = random_phi(1, N, 0.7).repeat(B, 1, 1)
    phi[3, 5, 6] += 1e-3
    jacobian = step_jacobian(phi)
    assert not Factor.of(jacobian).shared
    check(jacobian, phi)


def test_rows_that_only_seem_to_be_shared() -> None:
    # Made to agree on the very vector that is used to look: the residual must tell.
    r = step_jacobian(torch.eye(N, dtype=F64).expand(B, N, N)).probe()
    assert r is not None
    phi = random_phi(1, N, 0.5).repeat(B, 1, 1)
    orthogonal = torch.zeros(N, dtype=F64)
    orthogonal[0], orthogonal[1] = r[0, 1], -r[0, 0]
    phi[1:, 0] += 0.3 * orthogonal
    jacobian = step_jacobian(phi)
    assert Factor.of(jacobian).shared  # deceived
    check(jacobian, phi)
    assert not Factor.of(jacobian).shared  # and put right


def test_a_singular_sample_among_shared_rows() -> None:
    matrix = 0.5 * torch.eye(N, dtype=F64)
    matrix[0, 0] = 1.0
    mask = torch.ones(B, N)
    mask[2:, 0] = 0  # only the first two samples have the row that makes I − Φ singular
    solution = solve(
        Dense(),
        LinearOperator(step_jacobian(matrix * mask.unsqueeze(-1))),
        torch.ones(B, N).double(),
    )
    assert (solution.status != 0).tolist() == [True, True] + [False] * (B - 2)
