"""Programs without a solution, with many, solvers of all kinds, and starts: nothing in silence."""

from __future__ import annotations

from typing import Any

import pytest

cp: Any = pytest.importorskip("cvxpy", minversion="1.9")

import numpy as np  # noqa: E402
import torch  # noqa: E402

import foldopt as fo  # noqa: E402
from foldopt.cvxpy import CvxpyLayer, CvxpySolution, SolverError  # noqa: E402
from foldopt.status import Status  # noqa: E402
from tests import cvxpy_problems as problems  # noqa: E402
from tests.cvxpy_problems import F64, Case  # noqa: E402


def bounded(**options: Any) -> CvxpyLayer:
    """min cᵀx + ½‖x‖² with low ≤ x ≤ high."""
    x = cp.Variable(2)
    c, low, high = (cp.Parameter(2) for _ in range(3))
    objective = cp.Minimize(c @ x + 0.5 * cp.sum_squares(x))
    return CvxpyLayer(cp.Problem(objective, [x >= low, x <= high]), [c, low, high], [x], **options)


def disc(**options: Any) -> CvxpyLayer:
    """min cᵀx with ‖x‖ ≤ r: no solution for r < 0, and many for c = 0."""
    x, c, r = cp.Variable(2), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(c @ x), [cp.norm(x) <= r])
    return CvxpyLayer(problem, [c, r], [x], **options)


ONE = torch.ones(2, dtype=F64)


@pytest.mark.parametrize("solver", [None, "CLARABEL", "SCS", "OSQP"])
def test_infeasible(solver: str | None) -> None:
    if solver not in (None, *cp.installed_solvers()):
        pytest.skip(f"{solver} is not installed")
    with pytest.raises(SolverError, match="INFEASIBLE") as caught:
        bounded(solver=solver)(ONE, ONE, -ONE)
    assert isinstance(caught.value, cp.error.SolverError | fo.FoldError)
    assert caught.value.status is not None
    assert caught.value.status.tolist() == [Status.INFEASIBLE]


@pytest.mark.parametrize("solver", [None, "CLARABEL", "SCS"])
def test_unbounded(solver: str | None) -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [x >= 0]), [c], [x], solver=solver)
    with pytest.raises(cp.error.SolverError, match="UNBOUNDED"):
        layer(-ONE)


def test_an_infeasible_cone_program() -> None:
    with pytest.raises(SolverError, match=r"INFEASIBLE.*Clarabel: PrimalInfeasible"):
        disc()(ONE, torch.tensor(-1.0, dtype=F64))


@pytest.mark.parametrize("solver", [None, "CLARABEL"])
def test_one_infeasible_sample_leaves_the_others_alone(solver: str | None) -> None:
    layer = bounded(solver=solver, on_failure="mask", status=True)
    c = torch.tensor([[0.3, -2.0], [1.0, 1.0], [0.1, 0.2]], dtype=F64).requires_grad_()
    low = (-ONE).requires_grad_()
    high = torch.stack([ONE, -2 * ONE, ONE])
    found = layer(c, low, high)
    assert isinstance(found, CvxpySolution)
    assert found.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.CONVERGED]
    (x,) = found.variables
    assert bool(x[1].isnan().all())
    expected = torch.tensor([[-0.3, 1.0], [-0.1, -0.2]], dtype=F64)
    assert torch.allclose(x[[0, 2]], expected, atol=1e-9)
    x.nan_to_num().sum().backward()
    assert c.grad is not None
    assert torch.allclose(c.grad, torch.tensor([[-1.0, 0.0], [0, 0], [-1, -1]], dtype=F64))
    assert low.grad is not None
    assert torch.allclose(low.grad, 0 * ONE, atol=1e-9)


def test_nan_in_one_sample() -> None:
    for solver in (None, "CLARABEL"):
        layer = bounded(solver=solver, on_failure="mask", status=True)
        c = torch.tensor([[0.3, 0.4], [torch.nan, 1.0]], dtype=F64)
        found = layer(c, -ONE, ONE)
        assert isinstance(found, CvxpySolution)
        assert found.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
        assert torch.allclose(found.variables[0][0], -c[0])


def test_a_warning_instead() -> None:
    with pytest.warns(fo.FoldWarning, match="INFEASIBLE"):
        (x,) = disc(on_failure="warn")(ONE, torch.tensor([-1.0, 1.0], dtype=F64))
    assert bool(x[0].isnan().all())
    assert torch.allclose(x[1], -ONE / 2**0.5, atol=1e-8)


def test_a_solution_that_is_not_unique_has_no_gradient() -> None:
    x, c, total = cp.Variable(2), cp.Parameter(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(c * cp.sum(x)), [x >= 0, cp.sum(x) >= total])
    one = torch.tensor(1.0, dtype=F64)
    for solver in (None, "CLARABEL"):
        layer = CvxpyLayer(problem, [c, total], [x], solver=solver)
        value = one.clone().requires_grad_()
        (seen,) = layer(one, value)
        with pytest.raises(fo.FoldError, match="not unique"):
            seen[0].backward(retain_graph=True)
        # But the sum is.
        (gradient,) = torch.autograd.grad(seen.sum(), value)
        assert float(gradient) == pytest.approx(1.0, abs=1e-9)


def test_a_cone_of_which_every_point_is_a_solution() -> None:
    c = torch.zeros(2, dtype=F64, requires_grad=True)
    (seen,) = disc()(c, torch.tensor(1.0, dtype=F64))
    with pytest.raises(fo.FoldError, match=r"not unique|singular"):
        seen.sum().backward()


def test_constraints_that_are_there_twice() -> None:
    x, c, b = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    rows = [cp.sum(x) == b, 2 * cp.sum(x) == 2 * b, cp.norm(x) <= 5]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), rows)
    layer = CvxpyLayer(problem, [c, b], [x])
    value = torch.tensor([1.0, 2.0, 4.0], dtype=F64, requires_grad=True)
    (seen,) = layer(value, torch.tensor(1.0, dtype=F64))
    right = value + (1 - value.sum()) / 3
    assert torch.allclose(seen, right, atol=1e-9)
    w = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    (one,) = torch.autograd.grad(w @ seen, value)
    assert torch.allclose(one, w - w.mean(), atol=1e-8)


def test_a_constraint_that_is_only_just_active_is_reported() -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0, cp.norm(x) <= 5])
    with fo.record() as seen:
        CvxpyLayer(problem, [c], [x])(torch.tensor([0.0, 1.0], dtype=F64))
    assert "only just active" in seen[0].messages[0]


def test_too_few_iterations() -> None:
    g = torch.Generator().manual_seed(0)
    x, c = cp.Variable(30), cp.Parameter(30)
    rows = [problems.normal(g, 60, 30).numpy() @ x <= 1, cp.norm(x) <= 10]
    problem = cp.Problem(cp.Minimize(c @ x), rows)
    layer = CvxpyLayer(problem, [c], [x], solver_args={"max_iter": 1})
    with pytest.raises(SolverError, match=r"MAX_ITERATIONS.*optimality conditions hold to"):
        layer(problems.normal(g, 30))
    layer(problems.normal(g, 30), solver_args={"max_iter": 50})  # those of the call win


def test_solver_args_that_diffcp_takes() -> None:
    for options in (
        {"solve_method": "SCS", "eps": 1e-9, "max_iters": 9000, "mode": "lsqr"},
        {"solve_method": "Clarabel", "n_jobs_forward": 1},
        {"acceleration_lookback": 0, "eps": 1e-7},
    ):
        (seen,) = disc(solver="DIFFCP", solver_args=options)(ONE, torch.tensor(1.0, dtype=F64))
        assert torch.allclose(seen, -ONE / 2**0.5, atol=1e-8)


def test_an_inaccurate_answer_is_polished() -> None:
    rough = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-3)
    for layer in (
        disc(solver="CLARABEL", solver_args=rough),
        disc(solver="SCS", solver_args={"eps": 1e-3}),
    ):
        (seen,) = layer(ONE, torch.tensor(2.0, dtype=F64))
        assert torch.allclose(seen, -(2**0.5) * ONE, atol=1e-12)


SOLVERS = ["CLARABEL", "SCS", "OSQP", "PIQP", "PROXQP", "HIGHS", "DAQP", "MOREAU", "ECOS", "GUROBI"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_gives_the_same(solver: str) -> None:
    if solver not in cp.installed_solvers():
        pytest.skip(f"{solver} is not installed")
    c = torch.tensor([[0.3, -2.0], [0.5, 0.2]], dtype=F64).requires_grad_()
    right = bounded()(c, -ONE, ONE)[0]
    layer = bounded(solver=solver)
    try:
        (seen,) = layer(c, -ONE, ONE)
    except SolverError as error:  # a licence that is not there
        pytest.skip(str(error))
    assert torch.allclose(seen, right, atol=1e-10)
    one, other = (torch.autograd.grad(part.sum(), c)[0] for part in (seen, right))
    assert torch.allclose(one, other, atol=1e-10)
    (again,) = layer(c + 0.01, -ONE, ONE, warm_start=True)
    assert torch.allclose(again, bounded()(c + 0.01, -ONE, ONE)[0], atol=1e-10)


@pytest.mark.parametrize("solver", ["SCS", "MOREAU"])
def test_solvers_of_cones_give_the_same(solver: str) -> None:
    if solver not in cp.installed_solvers():
        pytest.skip(f"{solver} is not installed")
    names = ["second-order", "exponential", "power"] + ["semidefinite"] * (solver == "SCS")
    for name in names:
        case = problems.CONES[name]()
        values = case.one()
        rights = layer_of(case)(*values)
        for seen, right in zip(layer_of(case, solver=solver)(*values), rights, strict=True):
            assert torch.allclose(seen, right, atol=1e-8)


def test_any_solver_can_be_reached_through_cvxpy(monkeypatch: pytest.MonkeyPatch) -> None:
    # The way of all solvers that are not called directly, with one that knows every cone.
    from foldopt.cvxpy._engines import choose, others

    monkeypatch.setattr(choose, "solve_clarabel", others.solve_by_cvxpy("CLARABEL"))
    case = problems.every_cone()
    values = case.one()
    for seen, right in zip(layer_of(case)(*values), case.by_cvxpy(values), strict=True):
        assert np.allclose(seen.numpy(), right, atol=1e-5)


def layer_of(case: Case, **options: Any) -> CvxpyLayer:
    return CvxpyLayer(case.problem, case.parameters, case.variables, **options)


def test_a_warm_start_needs_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    case = problems.second_order()
    layer = layer_of(case)
    values = case.one()
    layer(*values)
    moved = [values[0] + 1e-3, *values[1:]]
    expected = layer_of(case)(*moved)

    def refuse(*_: Any) -> None:
        raise AssertionError("the engine was called")

    from foldopt.cvxpy._engines import choose

    monkeypatch.setattr(choose, "solve_clarabel", refuse)
    for seen, right in zip(layer(*moved, warm_start=True), expected, strict=True):
        assert torch.allclose(seen, right, atol=1e-9)
    with pytest.raises(AssertionError, match="the engine was called"):
        layer(*moved)


def test_a_warm_start_of_another_batch_size_is_a_cold_one() -> None:
    case = problems.second_order()
    layer = layer_of(case)
    draw = torch.Generator().manual_seed(0)
    layer(*case.draw(2, draw))
    values = case.draw(3, draw)
    for seen, right in zip(layer(*values, warm_start=True), layer(*values), strict=True):
        assert torch.allclose(seen, right, atol=1e-9)


def test_sparse_programs_stay_sparse() -> None:
    # A dense matrix of this size would take 500 GB.
    n = 100_000
    x, d, weight = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True)
    objective = 0.5 * cp.sum_squares(x - d) + weight * cp.norm1(cp.diff(x))
    layer = CvxpyLayer(cp.Problem(cp.Minimize(objective)), [d, weight], [x])
    g = torch.Generator().manual_seed(0)
    steps = torch.repeat_interleave(problems.normal(g, n // 50), 50)
    signal = (steps + 0.3 * problems.normal(g, n)).requires_grad_()
    lam = torch.tensor(1.0, dtype=F64, requires_grad=True)
    w = problems.normal(g, n)
    (seen,) = layer(signal, lam)
    right = fo.nn.TotalVariation()(signal, lam)
    assert isinstance(right, torch.Tensor)
    assert torch.allclose(seen, right, atol=1e-9)
    ours, theirs = (torch.autograd.grad(w @ part, (signal, lam)) for part in (seen, right))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-7)
