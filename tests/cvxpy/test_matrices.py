"""Semidefinite matrices of an order that has methods of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

cp: Any = pytest.importorskip("cvxpy", minversion="1.9")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy import sparse  # noqa: E402

from foldopt.cvxpy import CvxpyLayer, SolverError, _conic, _split  # noqa: E402
from foldopt.cvxpy._cones import Cones  # noqa: E402
from foldopt.cvxpy._engines import choose, smoothing  # noqa: E402
from foldopt.cvxpy._program import Program  # noqa: E402
from foldopt.cvxpy._smoothing import Eigen  # noqa: E402
from foldopt.cvxpy._spectrum import columns_of, spectra  # noqa: E402
from foldopt.cvxpy._system import System, systems  # noqa: E402
from foldopt.status import Status  # noqa: E402
from tests import cvxpy_problems as problems  # noqa: E402
from tests.cvxpy_problems import F64, Case  # noqa: E402

K = 16


def case_of(make: Callable[[Any, Any], tuple[Any, list[Any]]], size: float = 1.0) -> Case:
    """A problem in a semidefinite matrix X and a symmetric parameter C."""
    X, C = cp.Variable((K, K), PSD=True), cp.Parameter((K, K))
    objective, rows = make(X, C)
    return Case(
        cp.Problem(cp.Minimize(objective), rows),
        [C],
        [X],
        lambda b, g: [size * problems.symmetric(g, b, K, K)],
    )


def cut(X: Any, C: Any) -> tuple[Any, list[Any]]:
    """The relaxation of the maximal cut: no curvature, and a primal matrix of some rank."""
    return cp.trace(C @ X), [cp.diag(X) == 1]


def correlation(X: Any, C: Any) -> tuple[Any, list[Any]]:
    """The nearest correlation matrix: the objective is a square."""
    return cp.sum_squares(X - C), [cp.diag(X) == 1]


def weighted(X: Any, C: Any) -> tuple[Any, list[Any]]:
    """A curvature that is not the same in all directions, which no basis makes diagonal."""
    weights = 1 + np.add.outer(np.arange(K), np.arange(K)) / K
    return cp.sum_squares(cp.multiply(weights, X - C)), [cp.diag(X) == 1]


def independent_set(X: Any, C: Any) -> tuple[Any, list[Any]]:
    """Lovász's ϑ with weights: entries that are zero."""
    edges = [(i, (i + 1) % K) for i in range(K)]
    return -cp.trace((3 * np.eye(K) + C) @ X), [
        cp.trace(X) == 1,
        *(X[i, j] == 0 for i, j in edges),
    ]


def other_cones(X: Any, C: Any) -> tuple[Any, list[Any]]:
    """Beside the matrix: inequalities, a second-order cone, free variables, and squares of them."""
    t, z = cp.Variable(), cp.Variable(3)
    rows = [
        cp.trace(X) == 1, cp.norm(X[0, :4]) <= t, t <= 0.4, cp.diag(X)[:3] == z, z >= 0.05,
        X[3, 5] >= 0.01, cp.norm(z[:1]) <= 2,
    ]  # fmt: skip
    return cp.trace(C @ X) + 3 * t + 0.5 * cp.sum_squares(z - 1) + 0.1 * cp.sum_squares(X), rows


def two_matrices(X: Any, C: Any) -> tuple[Any, list[Any]]:
    Y = cp.Variable((5, 5), symmetric=True)
    rows = [Y >> 0, cp.diag(X) == 1, Y[0] == X[0, :5]]
    return cp.trace(C @ X) + cp.trace(Y) + cp.sum_squares(Y), rows


def sums_of_squares(X: Any, C: Any) -> tuple[Any, list[Any]]:
    """Squares of sums of entries stay rows of their own."""
    return cp.sum_squares(C @ X @ np.ones(K)) + cp.sum_squares(X), [cp.trace(X) == 1]


CASES = {
    "cut": lambda: case_of(cut),
    "correlation": lambda: case_of(correlation),
    "correlation, far away": lambda: case_of(correlation, 100.0),
    "independent set": lambda: case_of(independent_set, 0.3),
    "other cones": lambda: case_of(other_cones),
    "two matrices": lambda: case_of(two_matrices),
    "sums of squares": lambda: case_of(sums_of_squares),
}


@pytest.mark.parametrize("name", CASES)
def test_solutions_are_those_of_clarabel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_other(*_: object) -> None:
        raise AssertionError("another engine was asked")

    monkeypatch.setattr(choose, "solve_clarabel", none_other)
    monkeypatch.setattr(choose, "solve_scs", none_other)
    case = CASES[name]()
    values = case.one()
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    for seen, right in zip(layer(*values), case.by_cvxpy(values), strict=True):
        assert np.allclose(seen, right, atol=3e-5 * (1 + np.abs(right).max()))


@pytest.mark.parametrize("name", [*CASES, "weighted"])
def test_gradients_are_finite_differences(name: str) -> None:
    case = case_of(weighted) if name == "weighted" else CASES[name]()
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    g = torch.Generator().manual_seed(1)
    (value,) = case.draw(2, g)
    w, move = problems.symmetric(g, K, K), problems.symmetric(g, 2, K, K)
    step = 1e-5 * float(value.abs().mean())
    ends = torch.cat([value + step * move, value - step * move])
    with torch.no_grad():
        high, low = (w * layer(ends)[0]).sum((-2, -1)).reshape(2, 2)
    value.requires_grad_()
    (gradient,) = torch.autograd.grad((w * layer(value)[0]).sum(), value)
    slope, quotient = (gradient * move).sum((-2, -1)), (high - low) / (2 * step)
    assert torch.allclose(slope, quotient, rtol=1e-5, atol=1e-6 * float(quotient.abs().max()))


def programs_of(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[Program | None]:
    """The cone programs that the layer makes of it."""
    found: list[Program | None] = []
    solve = _conic.solve

    def seen(programs: list[Program | None], *rest: Any) -> Any:
        found.extend(programs)
        return solve(programs, *rest)

    monkeypatch.setattr(_conic, "solve", seen)
    CvxpyLayer(case.problem, case.parameters, case.variables)(*case.one())
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_small_system_is_the_large_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = programs_of(CASES[name](), monkeypatch)
    assert program is not None
    draw = np.random.default_rng(0)
    v = draw.standard_normal(len(program.b))
    system = System(program, Eigen.of(program.cones, v).smoothed(0.1)[1])
    r, t = (draw.standard_normal((size, 2)) for size in (len(program.q), len(program.b)))
    small = system._by_split(r, t)
    assert small is not None
    kept, root = system._kept, system._root[:, None]
    x, w = system._factors(r, root * t[kept])
    assert np.allclose(small[0], x, atol=1e-8 * np.abs(x).max())
    assert np.allclose(small[1][kept], root * w, atol=1e-8 * np.abs(w).max())


def test_a_curvature_of_many_kinds_is_left_to_products(monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = programs_of(case_of(weighted), monkeypatch)
    assert program is not None
    assert program.layout is not None
    assert program.parts is None
    assert smoothing.solve_smoothed(program, None, {}, False).x is None


def test_what_is_left_may_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = programs_of(case_of(cut), monkeypatch)
    assert program is not None
    monkeypatch.setattr(_split, "LARGEST", K - 1)
    (system,) = systems([program], [np.ones(len(program.b))])
    assert system._split is None
    assert smoothing.solve_smoothed(program, None, {}, False).x is None


def test_rows_that_are_there_twice() -> None:
    X, C = cp.Variable((K, K), PSD=True), cp.Parameter((K, K))
    twice = [cp.diag(X) == 1, cp.trace(X) == K]
    value = problems.symmetric(torch.Generator().manual_seed(0), K, K)
    found = []
    for rows in (twice, twice[:1]):
        layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), rows), [C], [X])
        given = value.clone().requires_grad_()
        (x,) = layer(given)
        found.append((x, *torch.autograd.grad((value * x).sum(), given)))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


@pytest.mark.parametrize(("trace", "status"), [(-1.0, Status.INFEASIBLE), (None, Status.UNBOUNDED)])
def test_programs_without_a_solution(trace: float | None, status: Status) -> None:
    case = case_of(lambda X, C: (cp.trace(C @ X), [] if trace is None else [cp.trace(X) == trace]))
    with pytest.raises(SolverError, match=status.name) as caught:
        CvxpyLayer(case.problem, case.parameters, case.variables)(*case.one())
    assert caught.value.status is not None
    assert caught.value.status.tolist() == [status]


def test_matrices_of_few_variables_have_no_layout() -> None:
    # Σ xᵢ Fᵢ ⪰ C: the largest eigenvalue where F is the identity alone.
    x, C = cp.Variable(), cp.Parameter((K, K), symmetric=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(x), [x * np.eye(K) >> C]), [C], [x])
    value = problems.symmetric(torch.Generator().manual_seed(0), K, K).requires_grad_()
    (seen,) = layer(value)
    right = torch.linalg.eigvalsh(value)[-1]
    assert torch.allclose(seen, right, atol=1e-9)
    one, other = (torch.autograd.grad(part, value)[0] for part in (seen, right))
    assert torch.allclose(one, other, atol=1e-7)


CONES = Cones(zero=2, nonnegative=3, second_order=(1, 4, 4), semidefinite=(3, 2))


@pytest.mark.parametrize("mu", [1.0, 1e-4])
def test_the_smoothed_projection(mu: float) -> None:
    draw = np.random.default_rng(0)
    v, h = draw.standard_normal((2, CONES.rows))
    y, turn = Eigen.of(CONES, v).smoothed(mu)
    s = y - v
    assert not s[:2].any()
    assert np.allclose(y[2:6] * s[2:6], mu)
    for at in (slice(6, 10), slice(10, 14)):
        # y∘s = (yᵀs, y₀s₁ + s₀y₁), and e = (1, 0). In ours an eigenvalue is t ± ‖x‖.
        assert y[at] @ s[at] == pytest.approx(mu)
        assert np.allclose(y[at][0] * s[at][1:] + s[at][0] * y[at][1:], 0)
    X, Z = (matrix(part[14:20], 3) for part in (y, s))
    assert np.allclose(X @ Z, mu * np.eye(3))
    slope = turn.back(turn.values * turn.rotate(h))
    step = 1e-6
    ends = [Eigen.of(CONES, v + side * step * h).smoothed(mu)[0] for side in (1, -1)]
    assert np.allclose(slope, (ends[0] - ends[1]) / (2 * step), atol=1e-5 * np.abs(slope).max())


def matrix(rows: np.ndarray, k: int) -> np.ndarray:
    X, at = np.zeros((k, k)), np.tril_indices(k)
    X[at] = rows * np.where(at[0] == at[1], 1, 0.5**0.5)
    return X + np.tril(X, -1).T


def test_without_smoothing_it_is_the_projection() -> None:
    v = np.random.default_rng(0).standard_normal((5, CONES.rows))
    v[0] = 0.0
    right = CONES.project(torch.from_numpy(v)).numpy()
    seen = [Eigen.of(CONES, one).smoothed(0.0)[0] for one in v]
    assert np.allclose(seen, right, atol=1e-12)


def test_rotated_rows_are_rotated_columns() -> None:
    cones, draw = Cones(semidefinite=(K,)), np.random.default_rng(0)
    A = draw.standard_normal((cones.rows, 3))
    (turn,) = spectra(cones, draw.standard_normal((1, cones.rows)))
    rows = turn.rotated_rows(sparse.csr_matrix(A)).toarray()
    assert np.allclose(rows, turn.rotate(A), atol=1e-12)
    # Those of many entries, and those of one.
    for C in (A.T, np.eye(cones.rows)[5:9], np.eye(cones.rows)[[0, 2, 5]] + np.eye(cones.rows)[7]):
        found = columns_of(turn, sparse.coo_matrix(C), np.arange(len(C))[1:])
        assert np.allclose(found, turn.rotate(C.T).T[1:], atol=1e-12)


def test_dtype_stays_single() -> None:
    case = case_of(correlation)
    (value,) = case.one()
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    (single,), (double,) = layer(value.float()), layer(value)
    assert single.dtype == torch.float32
    assert double.dtype == F64
    assert torch.allclose(single.double(), double, atol=1e-5)
