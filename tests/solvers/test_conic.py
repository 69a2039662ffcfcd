"""Conic programs against closed forms, and their optimality conditions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foldopt.solvers._conic.cones import Cones, smat, svec
from foldopt.solvers.conic import ENGINES, Conic
from foldopt.status import Solution, Status
from tests import quadratic
from tests.conic_programs import F64, disc, entropy, randn, tensor


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(ENGINES[request.param]["package"])
    return request.param


def assert_optimal(
    solution: Solution, P: Tensor | None, q: Tensor, A: Tensor, b: Tensor, cones: Cones,
    atol: float = 1e-7,
) -> None:  # fmt: skip
    """Px + q + Aᵀz = 0, Ax + s = b, s ∈ K, z ∈ K*, sᵀz = 0, cone by cone."""
    x, (z, s) = solution.x, solution.multipliers
    gradient = q + quadratic.apply(A.mT, z)
    gradient = gradient if P is None else gradient + quadratic.apply(P, x)
    assert gradient.abs().max() < atol
    assert (quadratic.apply(A, x) + s - b).abs().max() < atol
    assert (s * z).sum(-1).abs().max() < atol
    first = 0
    for kind, size in cones.blocks():
        mine, dual = s[..., first : first + size], z[..., first : first + size]
        first += size
        if not size:
            continue
        if kind == "zero":
            assert mine.abs().sum() < atol
        elif kind == "nonnegative":
            assert torch.cat([mine, dual], -1).amin() > -atol
        elif kind == "second_order":
            for each in (mine, dual):
                assert (each[..., 1:].norm(dim=-1) - each[..., 0]).max() < atol
        elif kind == "semidefinite":
            for each in (mine, dual):
                assert torch.linalg.eigvalsh(smat(each)).min() > -atol
        else:
            u, v, w = mine.unbind(-1)
            assert (v * torch.exp(u / v) - w).max() < atol
            # The dual cone: −u exp(v/u) ≤ e w with u < 0, or u = 0 and v, w ≥ 0.
            u, v, w = dual.unbind(-1)
            face = u > -atol
            u = torch.where(face, -1.0, u)
            assert torch.where(face, -w, -u * torch.exp(v / u - 1) - w).max() < atol
            assert torch.where(face, v, 0).min() > -atol


def test_lowest_point_of_a_ball(engine: Any) -> None:
    A, b, cones = disc(3)
    q = randn(4, 3)
    solution = Conic(cones, engine)(None, q, A, b)
    assert solution.status.tolist() == [Status.CONVERGED] * 4
    lengths = q.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(solution.x, -q / lengths, rtol=0, atol=1e-6)
    dual = torch.cat([lengths, q], -1)
    torch.testing.assert_close(solution.multipliers.dual, dual, rtol=0, atol=1e-6)
    assert_optimal(solution, None, q, A, b, cones)


def test_projection_on_a_ball(engine: Any) -> None:
    A, b, cones = disc(3)
    y = randn(5, 3, seed=1) * 2
    P = torch.eye(3, dtype=F64)
    solution = Conic(cones, engine)(P, -y, A, b)
    nearest = y / y.norm(dim=-1, keepdim=True).clamp_min(1)
    torch.testing.assert_close(solution.x, nearest, rtol=0, atol=1e-6)
    assert_optimal(solution, P, -y, A, b, cones)


def test_linear_program_against_scipy(engine: Any) -> None:
    from scipy.optimize import linprog

    G, E, q = randn(6, 3), randn(1, 3, seed=1), randn(3, seed=2)
    A = torch.cat([E, G, torch.eye(3, dtype=F64), -torch.eye(3, dtype=F64)])
    b = torch.cat([0.1 * E.sum(-1), (0.1 * G).sum(-1) + 0.5, torch.full((6,), 2.0, dtype=F64)])
    cones = Cones(zero=1, nonnegative=12)
    solution = Conic(cones, engine)(None, q, A, b)
    rows = [M.numpy() for M in (q, A[1:], b[1:], A[:1], b[:1])]
    exact = linprog(*rows, bounds=(None, None))
    torch.testing.assert_close(solution.x, torch.tensor(exact.x), rtol=0, atol=1e-7)
    assert_optimal(solution, None, q, A, b, cones)


def test_least_eigenvalue_as_a_semidefinite_program(engine: Any) -> None:
    C = randn(3, 4, 4)
    C = C + C.mT
    q = svec(C)
    A = torch.cat([svec(torch.eye(4, dtype=F64))[None], -torch.eye(10, dtype=F64)])
    b = torch.eye(11, dtype=F64)[0]
    cones = Cones(zero=1, semidefinite=(4,))
    solution = Conic(cones, engine)(None, q, A, b)
    values, vectors = torch.linalg.eigh(C)
    torch.testing.assert_close((q * solution.x).sum(-1), values[:, 0], rtol=0, atol=1e-7)
    v = vectors[..., 0]
    torch.testing.assert_close(smat(solution.x), v[..., None] * v[..., None, :], rtol=0, atol=1e-6)
    torch.testing.assert_close(solution.multipliers.dual[:, 0], -values[:, 0], rtol=0, atol=1e-7)
    assert_optimal(solution, None, q, A, b, cones)


def test_entropy_gives_softmax_and_logsumexp(engine: Any) -> None:
    c = randn(3, 4)
    q, A, b, cones = entropy(c)
    solution = Conic(cones, engine)(None, q, A, b)
    assert solution.status.tolist() == [Status.CONVERGED] * 3
    torch.testing.assert_close(solution.x[:, :4], torch.softmax(-c, -1), rtol=0, atol=1e-6)
    value = (q * solution.x).sum(-1)
    torch.testing.assert_close(value, -torch.logsumexp(-c, -1), rtol=0, atol=1e-7)
    assert_optimal(solution, None, q, A, b, cones)


def test_all_cones_at_once_and_the_engines_agree() -> None:
    pytest.importorskip("clarabel")
    pytest.importorskip("scs")
    cones = Cones(1, 2, (3, 1), 2, (3, 2))
    n = 8
    A, P, q = randn(cones.rows, n), torch.eye(n, dtype=F64), 3 * randn(n, seed=1)
    inside = torch.zeros(cones.rows, dtype=F64)  # a point in the cone: the program is feasible
    inside[1:3] = 1
    inside[[3, 6]] = 2
    inside[7:13] = tensor(0.0, 1.0, 3.0, 0.0, 1.0, 3.0)
    inside[13:] = torch.cat([svec(torch.eye(3, dtype=F64)), svec(torch.eye(2, dtype=F64))])
    b = A @ randn(n, seed=2) + inside
    found = [Conic(cones, engine)(P, q, A, b) for engine in ("clarabel", "scs")]
    for solution in found:
        assert solution.status == Status.CONVERGED
        assert_optimal(solution, P, q, A, b, cones)
        z, s = solution.multipliers  # the projection of s − z is s: how a step sees the cone
        torch.testing.assert_close(cones.project(s - z), s, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[0].x, found[1].x, rtol=0, atol=1e-6)
    assert (found[0].multipliers.dual.abs() > 1e-3).sum() > 3
