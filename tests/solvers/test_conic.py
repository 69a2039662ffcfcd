"""Conic programs against closed forms, and their optimality conditions."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from foldopt import projections
from foldopt.solvers import WarmStart
from foldopt.solvers._conic.cones import Cones, smat, svec
from foldopt.solvers.conic import ENGINES, Conic
from foldopt.status import Solution, Status
from tests import quadratic

F64 = torch.float64


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(ENGINES[request.param]["package"])
    return request.param


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=F64)


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


def disc(n: int) -> tuple[Tensor, Tensor, Cones]:
    """‖x‖ ≤ 1 as (1, x) in a cone: A, b, cones."""
    A = torch.cat([torch.zeros(1, n, dtype=F64), -torch.eye(n, dtype=F64)])
    return A, torch.eye(n + 1, dtype=F64)[0], Cones(second_order=(n + 1,))


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


def entropy(c: Tensor) -> tuple[Tensor, Tensor, Tensor, Cones]:
    """min cᵀx + Σ xᵢ log xᵢ, Σx = 1: (−tᵢ, xᵢ, 1) in the exponential cone; variables (x, t)."""
    n = c.shape[-1]
    A, b = torch.zeros(1 + 3 * n, 2 * n, dtype=F64), torch.zeros(1 + 3 * n, dtype=F64)
    A[0, :n] = b[0] = 1
    for i in range(n):
        A[1 + 3 * i, n + i], A[2 + 3 * i, i], b[3 + 3 * i] = 1, -1, 1
    return torch.cat([c, torch.ones_like(c)], -1), A, b, Cones(zero=1, exponential=n)


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


def test_infeasible_unbounded_and_solved_in_one_batch(engine: Any) -> None:
    # min qx, 0 ≤ x ≤ b₀.
    A = tensor([1.0], [-1.0])
    b = tensor([2.0, 0.0], [-1.0, 0.0])
    solver = Conic(Cones(nonnegative=2), engine)
    solution = solver(None, tensor(-1.0), A, b)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE]
    assert solution.x[1].isnan().all()
    assert solution.multipliers.dual[1].isnan().all()
    assert "nfeasible" in solution.messages[1]
    torch.testing.assert_close(solution.x[0], tensor(2.0))
    unbounded = solver(None, tensor(-1.0), -A[:1].expand(2, 1), b[0])
    assert unbounded.status == Status.UNBOUNDED
    assert unbounded.x.isnan().all()


def test_limits(engine: Any) -> None:
    A, b, cones = disc(3)
    few = Conic(cones, engine, max_iterations=1 if engine == "clarabel" else 10)(
        None, randn(3), A, b
    )
    assert few.status == Status.MAX_ITERATIONS
    assert few.messages != ("",)
    q, A, b, cones = entropy(randn(80))
    short = Conic(cones, engine, time_limit=1e-4)(None, q, A, b)
    assert short.status == Status.TIME_LIMIT


def test_tolerance_is_held(engine: Any) -> None:
    q, A, b, cones = entropy(randn(4))
    errors = []
    for tolerance in (1e-2, 1e-9):
        solution = Conic(cones, engine, rtol=tolerance, atol=tolerance)(None, q, A, b)
        assert solution.status == Status.CONVERGED
        errors.append((solution.x[:4] - torch.softmax(-q[:4], -1)).abs().max())
    assert errors[1] < 1e-6
    assert errors[1] < errors[0] < 0.5


def test_a_point_worse_than_asked_for_is_inaccurate(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foldopt.solvers import conic

    solve = conic._ENGINES[engine]

    def careless(program: Any, limits: Any, start: Any) -> Any:
        answer = solve(program, limits, start)
        assert answer.point is not None
        return answer._replace(point=answer.point._replace(x=answer.point.x + 1e-3))

    monkeypatch.setitem(conic._ENGINES, engine, careless)
    A, b, cones = disc(2)
    solution = Conic(cones, engine)(None, randn(2), A, b)
    assert solution.status == Status.INACCURATE
    assert "optimality conditions hold to" in solution.messages[0]


def test_sparse_shared_matrices_and_numpy(engine: Any) -> None:
    A, b, cones = disc(3)
    y = randn(2, 3)
    dense = Conic(cones, engine)(torch.eye(3, dtype=F64), y, A, b)
    P, rows = sparse.eye(3, format="csr"), sparse.coo_matrix(A.numpy())
    for form in (torch.as_tensor, np.asarray):
        solution = Conic(cones, engine)(P, form(y), rows, form(b))
        torch.testing.assert_close(solution.x, dense.x, rtol=0, atol=1e-12)


def test_only_the_symmetric_part_of_the_objective_counts(engine: Any) -> None:
    A, b, cones = disc(2)
    P, q = tensor([2.0, 3.0], [-1.0, 2.0]), tensor(0.3, -0.1)
    solution = Conic(cones, engine)(P, q, A, b)
    torch.testing.assert_close(solution.x, -torch.linalg.solve(tensor([2.0, 1.0], [1.0, 2.0]), q))


def test_float32_in_float32_out(engine: Any) -> None:
    A, b, cones = disc(2)
    solution = Conic(cones, engine)(None, torch.tensor([[3.0, 4.0]]), A.float(), b.float())
    assert {t.dtype for t in (solution.x, *solution.multipliers)} == {torch.float32}
    torch.testing.assert_close(solution.x, torch.tensor([[-0.6, -0.8]]))


def test_scs_starts_from_the_previous_solution() -> None:
    pytest.importorskip("scs")
    q, A, b, cones = entropy(randn(6))
    store = WarmStart()
    solver = Conic(cones, "scs", warm_start=store, max_iterations=50)
    with store.at([0]):
        assert solver(None, q, A, b).status == Status.MAX_ITERATIONS
    with store.at([0]):
        Conic(cones, "scs", warm_start=store)(None, q, A, b)
    with store.at([0]):
        assert solver(None, q, A, b).status == Status.CONVERGED


def test_threads_give_what_one_after_another_gives(engine: Any) -> None:
    A, b, cones = disc(3)
    q = randn(6, 3)
    one = Conic(cones, engine, executor="serial")(None, q, A, b)
    assert torch.equal(Conic(cones, engine, executor="threads")(None, q, A, b).x, one.x)


def test_svec_keeps_lengths_and_returns() -> None:
    X, Y = randn(2, 5, 3, 3)
    X, Y = X + X.mT, Y + Y.mT
    torch.testing.assert_close((svec(X) * svec(Y)).sum(-1), (X * Y).sum((-1, -2)))
    torch.testing.assert_close(smat(svec(X)), X)
    projected = svec(projections.positive_semidefinite(smat(svec(X))))
    torch.testing.assert_close(Cones(semidefinite=(3,)).project(svec(X)), projected)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    A, b, cones = disc(2)
    for engine, known in ENGINES.items():
        monkeypatch.setitem(sys.modules, known["package"], None)
        with pytest.raises(ImportError, match=f"'{engine}' needs .* pip install {known['pip']}"):
            Conic(cones, engine)(None, randn(2), A, b)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ({"b": torch.zeros(4)}, ValueError, "b has 4 rows, and the cones have 3"),
        ({"A": torch.zeros(4, 2)}, ValueError, r"A must have shape \(3, 2\) or .*, got \(4, 2\)"),
        ({"A": None}, TypeError, "A is None"),
        ({"P": torch.zeros(2)}, ValueError, r"P must have shape \(2, 2\)"),
        ({"q": torch.tensor([float("nan"), 0.0])}, ValueError, "q holds NaN"),
        ({"b": torch.tensor([float("inf"), 0.0, 0.0])}, ValueError, r"b holds \+inf"),
        ({"A": sparse.csr_matrix([[np.nan, 1], [0, 0], [0, 0]])}, ValueError, "A holds NaN"),
        ({"q": torch.zeros(2, dtype=F64)}, TypeError, "nothing is cast unasked"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], match: str) -> None:
    good: dict[str, Any] = {
        "P": None,
        "q": torch.ones(2),
        "A": torch.zeros(3, 2),
        "b": torch.zeros(3),
    }
    with pytest.raises(kind, match=match):
        Conic(Cones(second_order=(3,)))(**{**good, **arguments})


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"must be one of .*'clarabel', 'scs'.*, got 'mosek'"):
        Conic(Cones(zero=1), "mosek")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"cones must be a Cones"):
        Conic({"zero": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zero must be an integer of 0 or more, got -1"):
        Cones(zero=-1)
    with pytest.raises(ValueError, match=r"second_order must be a tuple .* got 3"):
        Cones(second_order=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"semidefinite must be a tuple .* got \(0,\)"):
        Cones(semidefinite=(0,))
    with pytest.raises(ValueError, match=r"svec: X must have shape .* got \(2, 3\)"):
        svec(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"smat: y must have shape .* got \(4,\)"):
        smat(torch.zeros(4))
