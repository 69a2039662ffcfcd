"""Ipopt: known optima, multipliers and statuses, with every package that brings it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.solvers.ipopt import ENGINES, Ipopt
from tests.nonlinear import F64, HS, INF, Known, assert_optimal
from tests.programs import CASES

Status = fo.Status
HERE = [name for name in ENGINES if importlib.util.find_spec(name) is not None]
pytestmark = pytest.mark.skipif(not HERE, reason="no package here brings Ipopt")
engines = pytest.mark.parametrize("engine", HERE)


def ipopt(known: Known, **options: Any) -> Ipopt:
    options = {"start": known.x0, "executor": "serial", **known.bounds, **options}
    return Ipopt(known.objective, known.inequality, known.equality, **options)


def functions(known: Any) -> tuple[Any, Any, Any]:
    return known.objective, known.inequality, known.equality


@engines
@pytest.mark.parametrize("name", HS)
def test_known_optima(name: str, engine: str) -> None:
    known = HS[name]
    solution = ipopt(known, engine=engine)()
    assert solution.status == Status.CONVERGED, solution.messages
    assert float(known.objective(solution.x)) == pytest.approx(known.value, abs=1e-6, rel=1e-8)
    assert_optimal(solution, functions(known), bounds=known.bounds)


@engines
@pytest.mark.parametrize("name", CASES)
def test_random_programs_against_slsqp(name: str, engine: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    known = case.solve(*case.params)
    # From near that solution, since others may have local solutions of their own.
    solver = Ipopt(*functions(case), start=known + 0.01, engine=engine, executor="serial")
    solution = solver(*case.params)
    assert solution.status.tolist() == [0] * len(known)
    torch.testing.assert_close(solution.x, known, rtol=0, atol=1e-7)
    assert_optimal(solution, functions(case), case.params)


@engines
def test_statuses(engine: str) -> None:
    options: dict[str, Any] = {"engine": engine}
    nowhere = Ipopt(lambda x: x.sum(), lambda x: x**2 + 1, n=1, **options)()
    assert nowhere.status == Status.INFEASIBLE
    assert bool(nowhere.x.isnan().all())
    assert nowhere.messages == ("Infeasible_Problem_Detected",)
    assert Ipopt(lambda x: -x[0], n=1, **options)().status == Status.UNBOUNDED
    known = HS["1"]
    short = ipopt(known, max_iterations=3, **options)()
    assert short.status == Status.MAX_ITERATIONS
    assert bool(torch.isfinite(short.x).all())
    assert short.messages == ("Maximum_Iterations_Exceeded",)
    lost = Ipopt(lambda x: (x - 5).log().sum(), start=torch.zeros(1), **options)()
    assert lost.status == Status.NONFINITE
    crossed = Ipopt(
        lambda x: x.sum(), lower=torch.ones(2), upper=torch.tensor([2.0, 0.0]), **options
    )()
    assert crossed.status == Status.INFEASIBLE
    assert "lower > upper: 1.0 > 0.0 at 1" in crossed.messages[0]


@engines
def test_time_limit_keeps_the_last_iterate(engine: str) -> None:
    solution = ipopt(HS["26"], engine=engine, time_limit=1e-6)()
    assert solution.status == Status.TIME_LIMIT
    assert bool(torch.isfinite(solution.x).all())


@engines
def test_loose_answers_are_called_inaccurate(engine: str) -> None:
    solution = ipopt(HS["43"], engine=engine, rtol=1e-3, options={"constr_viol_tol": 1e-2})()
    assert solution.status == Status.CONVERGED  # as loose as was asked for
    loose = {"tol": 1e-2, "constr_viol_tol": 1e-1, "mu_target": 1e-2, "compl_inf_tol": 1.0}
    solution = ipopt(HS["43"], engine=engine, options=loose)()
    assert solution.status == Status.INACCURATE
    assert "relative KKT residual" in solution.messages[0]


@engines
def test_fixed_variables_have_multipliers(engine: str) -> None:
    bounds: dict[str, Any] = {
        "lower": torch.tensor([1.0, -INF], dtype=F64),
        "upper": torch.tensor([1.0, INF], dtype=F64),
    }
    f = lambda x: ((x - 3) ** 2).sum()
    solution = Ipopt(f, engine=engine, **bounds)()
    torch.testing.assert_close(solution.x, torch.tensor([1.0, 3.0], dtype=F64))
    torch.testing.assert_close(solution.multipliers.bounds, torch.tensor([4.0, 0.0], dtype=F64))
    assert_optimal(solution, (f, None, None), bounds=bounds)
    both = torch.tensor([1.0, 2.0], dtype=F64)
    solution = Ipopt(f, lambda x: x.sum() - 4, lower=both, upper=both, engine=engine)()
    assert solution.status == Status.CONVERGED
    torch.testing.assert_close(solution.x, both)
    assert_optimal(
        solution, (f, lambda x: x.sum() - 4, None), bounds={"lower": both, "upper": both}
    )
    solution = Ipopt(f, lambda x: x.sum() - 2, lower=both, upper=both, engine=engine)()
    assert solution.status == Status.INFEASIBLE
    assert "the bounds fix x" in solution.messages[0]


@engines
def test_bounds_only_and_one_variable(engine: str) -> None:
    bounds: dict[str, Any] = {
        "lower": torch.tensor([-1.0], dtype=F64),
        "upper": torch.tensor([2.0], dtype=F64),
    }
    solution = Ipopt(lambda x: -(x**3).sum(), engine=engine, start=torch.ones(1), **bounds)()
    torch.testing.assert_close(solution.x, bounds["upper"].float())  # the dtype of the start
    torch.testing.assert_close(solution.multipliers.bounds, torch.tensor([12.0]))
    free = Ipopt(lambda x: (x**4).sum() + x.sum(), n=1, engine=engine)()
    torch.testing.assert_close(free.x, torch.tensor([-(0.25 ** (1 / 3))], dtype=F64))
    assert free.x.dtype == F64


@engines
def test_one_bad_sample_does_not_lose_the_others(engine: str) -> None:
    c = torch.tensor([1.0, -1.0, 4.0])
    solver = Ipopt(
        lambda x, c: ((x - 2) ** 2).sum(), lambda x, c: x**2 - c, n=1, engine=engine,
        executor="serial",
    )  # fmt: skip
    solution = solver(c)
    assert solution.status.tolist() == [0, int(Status.INFEASIBLE), 0]
    torch.testing.assert_close(solution.x[[0, 2]], torch.tensor([[1.0], [2.0]]), rtol=0, atol=1e-4)
    assert bool(solution.x[1].isnan().all())
    assert solution.x.dtype == torch.float32


@engines
def test_an_error_in_a_function_is_that_error(engine: str) -> None:
    def wrong(x: Tensor) -> Tensor:
        raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing"):
        Ipopt(wrong, n=1, engine=engine)()

    def later(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 3:
            raise KeyError("worn out")
        return _bowl(x)

    calls: list[int] = []
    solution = Ipopt(later, start=torch.full((3,), 7.0), engine=engine, executor="serial")()
    assert solution.status == Status.FAILED
    assert "worn out" in solution.messages[0]
    assert bool(solution.x.isnan().all())


def _bowl(x: Tensor) -> Tensor:
    return (x**4).sum() + ((x - 1) ** 2).sum()


@engines
def test_a_warm_start_takes_fewer_evaluations(engine: str) -> None:
    known = HS["71"]
    calls: list[int] = []

    def objective(x: Tensor) -> Tensor:
        calls.append(1)
        return known.objective(x)

    store = fo.solvers.WarmStart()
    solver = Ipopt(
        objective, known.inequality, known.equality, start=known.x0, engine=engine,
        executor="serial", warm_start=store, **known.bounds,
    )  # fmt: skip
    counts = []
    for _ in range(2):
        calls.clear()
        with store.at(["only"]):
            solution = solver()
        assert solution.status == Status.CONVERGED
        assert float(known.objective(solution.x)) == pytest.approx(known.value, rel=1e-8)
        counts.append(len(calls))
    assert counts[1] < counts[0]


def test_processes_give_the_same_answers() -> None:
    torch.manual_seed(0)
    case = CASES["nonlinear, convex"](2)
    solver = Ipopt(*functions(case), n=case.n, executor="serial")
    here = solver(*case.params)
    there = Ipopt(*functions(case), n=case.n, executor="processes")(*case.params)
    torch.testing.assert_close(here.x, there.x)
    torch.testing.assert_close(here.multipliers.inequality, there.multipliers.inequality)
    assert there.status.tolist() == [0] * 2


def test_the_fold_of_ipopt_has_the_right_gradient() -> None:
    torch.manual_seed(0)
    case = CASES["nonlinear, nonconvex"](2)
    near = case.solve(*case.params)
    solver = Ipopt(*functions(case), start=near, executor="serial")
    params = [param.clone().requires_grad_() for param in case.params]
    layer = fo.nn.f_sqp(*functions(case), solver=solver)
    weights = torch.randn_like(near)
    (weights * layer(*params)).sum().backward()
    for param, wanted in zip(params, case.gradients_by_differences(weights), strict=True):
        assert param.grad is not None
        torch.testing.assert_close(param.grad, wanted, rtol=1e-5, atol=1e-5)
