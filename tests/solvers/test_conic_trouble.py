"""Conic programs: how a solve can end, ways to call it, wrong arguments."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from foldopt import projections
from foldopt.solvers import WarmStart
from foldopt.solvers._conic.cones import Cones, smat, svec
from foldopt.solvers.conic import ENGINES, Conic
from foldopt.status import Status
from tests.conic_programs import F64, disc, entropy, randn, tensor


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(ENGINES[request.param]["package"])
    return request.param


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
