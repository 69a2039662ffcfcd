"""Nonconvex quadratic programs: how a search can end, ways to call it, wrong arguments."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foldopt.solvers import WarmStart
from foldopt.solvers.global_qp import ENGINES, GlobalQP
from foldopt.status import FoldError, Status
from tests.global_programs import F64, INF, bilinear, here, tensor, value


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(ENGINES[request.param]["package"])
    return request.param


NONE: dict[str, dict[str, Any]] = {
    "rows": {"A": tensor([1.0, 1.0]), "b": tensor(3.0), "lower": 0.0, "upper": 1.0},
    "bounds": {"lower": 1.0, "upper": 0.0},
    "h": {"G": tensor([1.0, 1.0]), "h": tensor(-INF), "lower": 0.0, "upper": 1.0},
    "half-spaces": {"G": tensor([1.0, 0.0], [-1.0, 0.0]), "h": tensor(-1.0, 0.0)},
}


@pytest.mark.parametrize("why", NONE)
@pytest.mark.parametrize("curved", [True, False])
def test_infeasible(engine: Any, why: str, curved: bool) -> None:
    Q = -torch.eye(2, dtype=F64) * curved
    solution = here(engine, time_limit=20)(Q, tensor(1.0, -1.0), **NONE[why])
    assert solution.status == Status.INFEASIBLE
    assert solution.x.isnan().all()
    assert all(part.isnan().all() for part in solution.multipliers)
    assert solution.messages[0] or engine == "gurobi"


UNBOUNDED: dict[str, tuple[Tensor, Tensor, dict[str, Any]]] = {
    "linear": (torch.zeros(2, 2, dtype=F64), tensor(1.0, -1.0), {"lower": 0.0}),
    "concave": (-torch.eye(2, dtype=F64), tensor(0.0, 0.0), {"lower": 0.0}),
    "saddle": (
        tensor([0.0, 1.0], [1.0, 0.0]),
        tensor(0.0, 0.0),
        {"A": tensor([1.0, 1.0]), "b": tensor(2.0)},
    ),
}


@pytest.mark.parametrize("why", UNBOUNDED)
def test_unbounded(engine: Any, why: str) -> None:
    Q, p, blocks = UNBOUNDED[why]
    solution = here(engine, time_limit=20)(Q, p, **blocks)
    assert solution.status == Status.UNBOUNDED
    assert solution.x.isnan().all()


def test_one_bad_sample_does_not_harm_the_others(engine: Any) -> None:
    Q = torch.stack([-torch.eye(2, dtype=F64)] * 3)
    upper = tensor([1.0, 1.0], [-1.0, 1.0], [2.0, INF])
    solution = here(engine)(Q, tensor(-1.0, -1.0), lower=tensor(0.0, 0.0), upper=upper)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.UNBOUNDED]
    assert solution.x[0].tolist() == [1.0, 1.0]
    assert solution.x[1:].isnan().all()


def test_time_limit_gives_the_incumbent_and_its_gap(engine: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    Q = torch.randn(60, 60, dtype=F64, generator=generator)
    solution = here(engine, time_limit=1.0)(Q, Q[0], lower=-1.0, upper=1.0)
    assert solution.status == Status.TIME_LIMIT
    assert solution.gap > 1e-6
    assert solution.x.abs().max() <= 1
    assert value((Q + Q.mT) / 2, Q[0], solution.x) < -100
    assert solution.messages != ("",)


def test_node_limit(engine: Any) -> None:
    Q = torch.randn(20, 20, dtype=F64, generator=torch.Generator().manual_seed(0))
    solution = here(engine, max_iterations=1, time_limit=20)(Q, Q[0], lower=-1.0, upper=1.0)
    assert solution.status == Status.MAX_ITERATIONS


def test_float32_in_float32_out(engine: Any) -> None:
    Q = torch.tensor([[0.0, -2.0], [-2.0, 0.0]])
    solution = here(engine)(Q, torch.tensor([[1.0, 0.5]]), lower=0.0, upper=1.0)
    found = [solution.x, *solution.multipliers, solution.gap]
    assert {part.dtype for part in found} == {torch.float32}
    assert solution.x.tolist() == [[1.0, 1.0]]


def test_numpy_and_shared_sparse_matrices(engine: Any) -> None:
    from scipy import sparse

    A = sparse.csr_matrix(np.ones((1, 2)))
    p = np.array([[-1.0, 0.0], [0.0, -1.0]])
    solution = here(engine)(-np.eye(2), p, A=A, b=np.ones(1), lower=0.0)
    torch.testing.assert_close(solution.x, torch.eye(2, dtype=F64), rtol=0, atol=1e-14)


def test_start_from_a_previous_solution(engine: Any) -> None:
    Q, p, A, b = bilinear(0)
    store = WarmStart()
    solver = here(engine, warm_start=store)
    found = []
    for _ in range(2):
        with store.at([7]):
            found.append(solver(Q, p, A=A, b=b, lower=0.0, upper=1.0))
    torch.testing.assert_close(found[0].x, found[1].x, rtol=0, atol=1e-12)


def test_threads_and_processes_give_what_one_after_another_gives(engine: Any) -> None:
    Q, p, A, b = bilinear(0, 1, 2, 3, n=3)
    found = [
        GlobalQP(engine, executor=executor)(Q, p, A=A, b=b, lower=0.0, upper=1.0).x
        for executor in ("serial", "threads", "processes")
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_size_limit_of_the_licence() -> None:
    pytest.importorskip("gurobipy")
    refused = None
    try:
        GlobalQP("gurobi", time_limit=20)(-torch.eye(201), torch.zeros(201), lower=0.0, upper=1.0)
    except FoldError as error:
        refused = error
    if refused is None:
        pytest.skip("this Gurobi has a full licence")
    assert "201 variables" in str(refused)
    assert "engine='scip'" in str(refused)
    assert refused.status is not None
    assert refused.status == Status.FAILED


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for engine, known in ENGINES.items():
        monkeypatch.setitem(sys.modules, known["package"], None)
        with pytest.raises(ImportError, match=f"'{engine}' needs .* pip install {known['pip']}"):
            here(engine)(torch.eye(2), torch.zeros(2), lower=0.0, upper=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ({"p": torch.zeros(3)}, ValueError, r"Q must have shape \(3, 3\) or .*, got \(2, 2\)"),
        ({"p": torch.zeros(())}, ValueError, "p must be a vector"),
        ({"G": torch.ones(1, 2)}, ValueError, "G and h go together"),
        ({"b": torch.ones(1)}, ValueError, "A and b go together"),
        ({"upper": torch.ones(3)}, ValueError, "upper must have shape"),
        ({"p": [0.0, 0.0]}, TypeError, "p must be a tensor or an array, got list"),
        ({"p": torch.zeros(2, dtype=torch.int64)}, TypeError, "p is torch.int64"),
        ({"p": np.zeros(2, dtype=int)}, TypeError, "p is int64"),
        ({"p": torch.zeros(2, dtype=F64)}, TypeError, "nothing is cast unasked"),
        ({"Q": None}, TypeError, "Q is None"),
        ({"Q": torch.tensor([[0.0, float("nan")], [0.0, 0.0]])}, ValueError, "Q holds NaN"),
        ({"p": torch.tensor([INF, 0.0])}, ValueError, r"p holds \+inf"),
        ({"lower": torch.tensor([float("nan"), 0.0])}, ValueError, "lower holds NaN"),
    ],
)  # fmt: skip
def test_bad_arguments(arguments: dict[str, Any], kind: type[Exception], match: str) -> None:
    good: dict[str, Any] = {"Q": torch.eye(2), "p": torch.zeros(2)}
    with pytest.raises(kind, match=match):
        GlobalQP()(**{**good, **arguments})


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"must be one of .*'scip', 'gurobi'.*, got 'cplex'"):
        GlobalQP("cplex")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gap must be a number of 0 or more, got -1"):
        GlobalQP(gap=-1)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_still_works_after_gurobi_in_threads() -> None:
    pytest.importorskip("gurobipy")
    Q, p = -torch.eye(6).double(), torch.randn(40, 6).double()
    GlobalQP("gurobi", executor="threads")(Q, p, lower=-1.0, upper=1.0)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
