"""Nonconvex quadratic programs: global optima, multipliers, and how a search can end."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foldopt.solvers import WarmStart
from foldopt.solvers.global_qp import ENGINES, GlobalQP
from foldopt.status import FoldError, Solution, Status
from tests import quadratic

F64 = torch.float64
INF = float("inf")


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(ENGINES[request.param]["package"])
    return request.param


def here(engine: Any, **settings: Any) -> GlobalQP:
    """A solver that starts no processes, which takes longer than these programs."""
    return GlobalQP(engine, executor="serial", **settings)


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=F64)


def value(Q: Tensor, p: Tensor, x: Tensor) -> Tensor:
    return 0.5 * (x * quadratic.apply(Q, x)).sum(-1) + (p * x).sum(-1)


def assert_kkt(
    solution: Solution,
    Q: Tensor,
    p: Tensor,
    G: Tensor | None = None,
    h: Tensor | None = None,
    A: Tensor | None = None,
    b: Tensor | None = None,
    lower: Any = -INF,
    upper: Any = INF,
    atol: float = 1e-12,
) -> None:
    """The optimality conditions hold, with x and multipliers right to rounding."""
    x, (lam, nu, mu) = solution.x, solution.multipliers
    gradient = quadratic.apply(Q, x) + p + mu
    low, high = torch.as_tensor(lower, dtype=F64), torch.as_tensor(upper, dtype=F64)
    pairs = [
        (mu.clamp_min(0), torch.where(high < INF, high - x, 1.0)),
        ((-mu).clamp_min(0), torch.where(low > -INF, x - low, 1.0)),
    ]
    if G is not None and h is not None:
        gradient = gradient + quadratic.apply(G.mT, lam)
        pairs.append((lam, h - quadratic.apply(G, x)))
    if A is not None and b is not None:
        gradient = gradient + quadratic.apply(A.mT, nu)
        assert (quadratic.apply(A, x) - b).abs().max() < atol
    assert gradient.abs().max() < atol * (1 + Q.abs().max() + p.abs().max())
    for multiplier, slack in pairs:
        assert multiplier.min() >= 0
        assert slack.min() > -atol
        assert (multiplier * slack.clamp(max=1.0)).abs().max() < atol * (1 + multiplier.max())


def bilinear(*seeds: int, n: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """max cᵀx + xᵀMy + dᵀy, 0 ≤ x, y ≤ 1, Σx = 1, Σy = 2, as (Q, p, A, b), with z = (x, y)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    data = torch.stack([torch.randn(n + 2, n, dtype=F64, generator=each) for each in generators])
    M, c, d = data[:, :n], data[:, n], data[:, n + 1]
    zero = torch.zeros_like(M)
    Q = -torch.cat([torch.cat([zero, M], -1), torch.cat([M.mT, zero], -1)], -2)
    A = torch.kron(torch.eye(2, dtype=F64), torch.ones(1, n, dtype=F64))
    return Q, -torch.cat([c, d], -1), A, tensor(1.0, 2.0)


def test_bilinear_program_against_its_closed_form(engine: Any) -> None:
    Q, p, A, b = bilinear(0, 1, 2)
    solution = here(engine)(Q, p, A=A, b=b, lower=0.0, upper=1.0)
    n = A.shape[-1] // 2
    M, c, d = -Q[:, :n, n:], -p[:, :n], -p[:, n:]
    best = (c + (M + d[:, None]).topk(2, -1).values.sum(-1)).amax(-1)
    assert solution.status.tolist() == [Status.CONVERGED] * 3
    torch.testing.assert_close(-value(Q, p, solution.x), best, rtol=0, atol=1e-12)
    assert_kkt(solution, Q, p, A=A, b=b, lower=0.0, upper=1.0)
    assert (solution.gap <= 1e-6).all()


def test_concave_program_over_a_box_against_its_vertices(engine: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    R = torch.randn(2, 6, 6, dtype=F64, generator=generator)
    Q, p = -R @ R.mT, torch.randn(2, 6, dtype=F64, generator=generator)
    solution = here(engine)(Q, p, lower=-1.0, upper=2.0)
    vertices = torch.tensor(list(itertools.product((-1.0, 2.0), repeat=6)), dtype=F64)
    best = value(Q[:, None], p[:, None], vertices).amin(-1)
    torch.testing.assert_close(value(Q, p, solution.x), best, rtol=0, atol=1e-11)
    assert_kkt(solution, Q, p, lower=-1.0, upper=2.0)


def test_indefinite_program_with_rows_is_stationary_and_the_engines_agree() -> None:
    pytest.importorskip("pyscipopt")
    pytest.importorskip("gurobipy")
    Q, p, A, b = bilinear(3, 4)
    Q = Q + 0.7 * torch.eye(10, dtype=F64)  # optima off the vertices
    G = torch.randn(3, 10, dtype=F64, generator=torch.Generator().manual_seed(5))
    blocks = {"G": G, "h": tensor(0.3, INF, 0.5), "A": A, "b": b, "lower": 0.0, "upper": 1.0}
    found = [here("scip")(Q, p, **blocks), here("gurobi")(Q, p, **blocks)]
    for solution in found:
        assert solution.status.tolist() == [Status.CONVERGED] * 2
        assert_kkt(solution, Q, p, **{**blocks, "h": tensor(0.3, 1e9, 0.5)})
        assert (solution.multipliers.inequality[:, 1] == 0).all()
    assert ((found[0].x > 1e-3) & (found[0].x < 0.999)).any()
    torch.testing.assert_close(found[0].x, found[1].x, rtol=0, atol=1e-10)


def test_convex_program_with_free_variables_against_a_convex_solver(engine: Any) -> None:
    blocks = quadratic.random_program(2, n=4, m=3, generator=torch.Generator().manual_seed(1))
    solution = here(engine)(*blocks)
    assert solution.status.tolist() == [Status.CONVERGED] * 2
    exact = quadratic.solve(*blocks)
    torch.testing.assert_close(solution.x, exact.x, rtol=0, atol=1e-10)
    for mine, theirs in zip(solution.multipliers, (exact.inequality, exact.equality), strict=False):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)


def test_linear_objective_and_size_of_the_data(engine: Any) -> None:
    p = tensor([1.0, -2.0], [-3.0, -1.0])
    Q = torch.zeros(2, 2, dtype=F64)
    G, h = tensor([1.0, 1.0]), tensor(1.0)
    for scale in (1.0, 1e8, 1e-8):
        solution = here(engine)(Q, scale * p, G, h, lower=0.0)
        torch.testing.assert_close(solution.x, tensor([0.0, 1.0], [1.0, 0.0]), rtol=0, atol=1e-12)
        lam = solution.multipliers.inequality / scale
        torch.testing.assert_close(lam, tensor([2.0], [3.0]))


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_size_of_the_variables(engine: Any, size: float) -> None:
    Q, p, A, b = bilinear(3)
    Q = Q + 0.7 * torch.eye(10, dtype=F64)
    one = here(engine)(Q, p, A=A, b=b, lower=0.0, upper=1.0)
    other = here(engine)(Q / size, p, A=A, b=size * b, lower=0.0, upper=size)
    assert other.status.tolist() == [Status.CONVERGED]
    torch.testing.assert_close(other.x / size, one.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(other.multipliers, one.multipliers, rtol=0, atol=1e-10)


def test_one_variable_and_fixed_variables(engine: Any) -> None:
    one = here(engine)(tensor([-2.0]), tensor(0.5), lower=-1.0, upper=1.0)
    assert one.x.tolist() == [-1.0]
    assert one.multipliers.bounds.tolist() == [-2.5]
    assert one.status.shape == ()

    # −½x² + ½xy − ½y² − 0.1y with x fixed to ½: −½y² + 0.15y, least at the far bound.
    Q, p = tensor([-1.0, 0.5], [0.5, -1.0]), tensor(0.0, -0.1)
    fixed = here(engine)(Q, p, lower=tensor(0.5, -1.0), upper=tensor(0.5, 2.0))
    assert fixed.x.tolist() == [0.5, 2.0]
    torch.testing.assert_close(fixed.multipliers.bounds, -(Q @ fixed.x + p))


def test_zero_program(engine: Any) -> None:
    solution = here(engine)(torch.zeros(2, 2), torch.zeros(2), lower=0.0, upper=1.0)
    assert solution.status == Status.CONVERGED
    assert solution.gap == 0
    zero = here(engine)(tensor([0.0, 1.0], [1.0, 0.0]), tensor(0.0, 0.0), lower=0.0, upper=1.0)
    assert zero.status == Status.CONVERGED  # the optimum is 0, to which no gap is relative
    assert zero.gap == 0


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
