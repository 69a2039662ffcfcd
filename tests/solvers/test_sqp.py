"""SQP in PyTorch: known optima from the book's starts and from bad ones, statuses, batches."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt._program import Program
from foldopt.solvers._ipopt.derivatives import kkt_residual
from foldopt.solvers.ipopt import ENGINES, Ipopt
from foldopt.solvers.sqp import SQP
from tests.nonlinear import F64, HS, Known, assert_optimal
from tests.programs import CASES

Status = fo.Status


def sqp(known: Known, **options: Any) -> SQP:
    options = {"start": known.x0, **options}
    return SQP(known.objective, known.with_bounds_as_rows(), known.equality, **options)


def functions(case: Any) -> tuple[Any, Any, Any]:
    return case.objective, case.inequality, case.equality


@pytest.mark.parametrize("name", HS)
def test_known_optima(name: str) -> None:
    known = HS[name]
    solution = sqp(known)()
    assert solution.status == Status.CONVERGED
    assert float(known.objective(solution.x)) == pytest.approx(known.value, abs=1e-6, rel=1e-8)
    rows = (known.objective, known.with_bounds_as_rows(), known.equality)
    assert_optimal(solution, rows)


@pytest.mark.parametrize("name", ["7", "10", "11", "14", "26", "43", "71", "76", "100"])
def test_bad_starts(name: str) -> None:
    """Ten units away, on every side: a stationary point, or a status that says no."""
    known = HS[name]
    torch.manual_seed(0)
    starts = known.x0 + 10 * torch.randn(16, len(known.start), dtype=F64)
    # One param that every sample has a row of makes a batch.
    f, g, h = known.objective, known.with_bounds_as_rows(), known.equality
    batched = SQP(
        lambda x, _: f(x),
        None if g is None else lambda x, _: g(x),
        None if h is None else lambda x, _: h(x),
        start=starts,
    )
    solution = batched(torch.zeros(16, dtype=F64))
    done = solution.status == Status.CONVERGED
    assert float(done.double().mean()) >= 0.8, solution.messages
    for x, *multipliers in zip(
        solution.x[done], *(part[done] for part in solution.multipliers), strict=True
    ):
        found = fo.Solution(x, None, fo.solvers.Multipliers(*multipliers))
        assert_optimal(found, (f, g, h), atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_random_programs_from_bad_starts(name: str) -> None:
    torch.manual_seed(1)
    case = CASES[name](24, 5)
    start = 20 * torch.randn(24, 5, dtype=F64)
    solution = SQP(*functions(case), start=start)(*case.params)
    assert solution.status.tolist() == [0] * 24
    assert_optimal(solution, functions(case), case.params)


@pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in ENGINES), reason="no Ipopt here"
)
@pytest.mark.parametrize("name", ["linear, convex", "nonlinear, convex"])
def test_agrees_with_ipopt_where_there_is_one_solution(name: str) -> None:
    torch.manual_seed(2)
    case = CASES[name](3)
    start = torch.randn(3, case.n, dtype=F64)
    ours = SQP(*functions(case), start=start)(*case.params)
    theirs = Ipopt(*functions(case), start=start, executor="serial")(*case.params)
    torch.testing.assert_close(ours.x, theirs.x, rtol=1e-7, atol=1e-7)
    for mine, other in zip(ours.multipliers, theirs.multipliers, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_agrees_with_slsqp_nearby() -> None:
    torch.manual_seed(0)
    case = CASES["nonlinear, nonconvex"]()
    known = case.solve(*case.params)
    solution = SQP(*functions(case), start=known + 0.01)(*case.params)
    torch.testing.assert_close(solution.x, known, rtol=0, atol=1e-8)


def test_statuses() -> None:
    def by_sample(x: Tensor, kind: Tensor) -> Tensor:
        return (x**2).sum() - 4 + kind * 8  # kind 1: x² + 4 ≤ 0

    solution = SQP(lambda x, _: (x - 1).square().sum(), by_sample, n=2, start=torch.ones(2))(
        torch.tensor([0.0, 1.0, 0.0], dtype=F64)
    )
    assert solution.status.tolist() == [0, int(Status.INFEASIBLE), 0]
    assert solution.messages == ("", "INFEASIBLE", "")
    assert bool(solution.x[1].isnan().all())
    torch.testing.assert_close(solution.x[0], torch.ones(2, dtype=F64))
    assert SQP(lambda x: -x[0], n=1)().status == Status.UNBOUNDED
    assert SQP(lambda x: (x - 5).log().sum(), n=1)().status == Status.NONFINITE
    short = sqp(HS["1"], max_iterations=2)()
    assert short.status == Status.MAX_ITERATIONS
    assert bool(torch.isfinite(short.x).all())
    late = sqp(HS["1"], time_limit=1e-6)()
    assert late.status == Status.TIME_LIMIT
    assert bool(torch.isfinite(late.x).all())


def test_contradicting_constraints_are_infeasible() -> None:
    solution = SQP(lambda x: x @ x, lambda x: torch.stack([x[0] + 1, 1 - x[0]]), n=2)()
    assert solution.status == Status.INFEASIBLE


def test_a_linearization_without_solution_is_left_behind() -> None:
    # At x = 0 the linearized equality reads 0 = 1, although x = ±1 solve it.
    solution = SQP(lambda x: x[0], equality=lambda x: x**2 - 1, start=torch.full((1,), 1e-4))()
    assert solution.status == Status.CONVERGED
    torch.testing.assert_close(solution.x.abs(), torch.ones(1), rtol=1e-4, atol=1e-4)


def test_the_maratos_effect_is_overcome() -> None:
    """Full steps near a curved constraint raise both f and the violation; see Nocedal & Wright."""
    theta = torch.tensor(0.8)
    solution = SQP(
        lambda x: 2 * (x @ x - 1) - x[0],
        equality=lambda x: x @ x - 1,
        start=torch.stack([theta.cos(), theta.sin()]).double(),
        max_iterations=9,
    )()
    assert solution.status == Status.CONVERGED
    torch.testing.assert_close(solution.x, torch.tensor([1.0, 0.0], dtype=F64))


def test_float32_and_sizes() -> None:
    c = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    f = lambda x, c: ((x - c) ** 2).sum() + (x**4).sum()
    solution = SQP(f, lambda x, c: x - 0.25, n=2)(c)
    assert solution.x.dtype == torch.float32
    wide = SQP(f, lambda x, c: x - 0.25, n=2)(c.double())
    torch.testing.assert_close(solution.x.double(), wide.x, rtol=1e-4, atol=1e-4)
    assert solution.multipliers.bounds.shape == (2, 2)
    single = SQP(f, lambda x, c: x - 0.25, n=2, batch_dims=0)(c[0].double())
    torch.testing.assert_close(single.x, wide.x[0])
    shared = SQP(f, lambda x, c: x - 0.25, shared=(0,), start=torch.zeros(3, 2))(c[0])
    assert shared.x.shape == (3, 2)
    called = SQP(f, start=lambda c: 0.5 * c)(c)
    assert called.status.tolist() == [0, 0]
    assert SQP(f, n=2)(c[:0]).x.shape == (0, 2)


def test_the_batch_changes_no_sample() -> None:
    torch.manual_seed(3)
    case = CASES["nonlinear, nonconvex"](4)
    start = 3 * torch.randn(4, case.n, dtype=F64)
    whole = SQP(*functions(case), start=start)(*case.params)
    for i in range(4):
        rows = tuple(param[i : i + 1] for param in case.params)
        alone = SQP(*functions(case), start=start[i : i + 1])(*rows)
        torch.testing.assert_close(alone.x[0], whole.x[i], rtol=1e-7, atol=1e-7)


def test_the_fold_has_the_right_gradient() -> None:
    torch.manual_seed(0)
    case = CASES["nonlinear, convex"](2)
    params = [param.clone().requires_grad_() for param in case.params]
    layer = fo.nn.f_sqp(*functions(case), solver=SQP(*functions(case), n=case.n))
    x = layer(*params)
    weights = torch.randn_like(x)
    (weights * x).sum().backward()
    for param, wanted in zip(params, case.gradients_by_differences(weights), strict=True):
        assert param.grad is not None
        torch.testing.assert_close(param.grad, wanted, rtol=1e-5, atol=1e-5)


def test_the_residual_sees_every_condition() -> None:
    """min (x₁ − 2)² + x₂² s.t. x₁ ≤ 1, and everything that can be wrong with an answer."""
    program = Program.of(lambda x: (x[0] - 2) ** 2 + x[1] ** 2, lambda x: x[:1] - 1, None, (), "t")

    def residual(x: list[float], lam: float, mu: tuple[float, float] = (0, 0)) -> float:
        at, multiplier = torch.tensor(x, dtype=F64), torch.tensor([lam], dtype=F64)
        none, bounds = at[:0], torch.tensor(mu, dtype=F64)
        slope, g, h = program.lagrangian_gradient(at, multiplier, none, ())
        low, high = torch.full((2,), -1.0, dtype=F64), torch.full((2,), torch.inf, dtype=F64)
        gradient = program.gradient(at, ())
        return float(kkt_residual(at, slope, gradient, g, h, multiplier, bounds, low, high))

    assert residual([1, 0], 2) == 0
    assert residual([1, 0.1], 2) > 0.01  # not stationary
    assert residual([1.1, 0], 1.8) > 0.01  # not feasible
    assert residual([1, -1.5], 2, (0, 3)) > 0.01  # below the lower bound
    assert residual([1, 1], 2, (0, -2)) > 0.1  # the lower bound pulls from afar
    assert residual([1, -1], 2, (0, 2)) > 0.1  # an upper bound that is not there pulls
    assert residual([3, 0], -2) > 0.1  # a multiplier below zero
    assert residual([1, -1], 2, (0, -2)) > 0.1  # the wrong sign


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: SQP(3, n=1), TypeError, "objective must be callable"),  # pyright: ignore[reportArgumentType]
        (lambda: SQP(torch.sum), ValueError, "Give start= or n="),
        (lambda: SQP(torch.sum, n=0), ValueError, "n must be an integer of 1 or more"),
        (lambda: SQP(torch.sum, n=1, batch_dims=2), ValueError, "batch_dims must be 0 or 1"),  # pyright: ignore[reportArgumentType]
        (lambda: SQP(torch.sum, n=1, shared=(1,))(torch.ones(2)), ValueError, "none has number 1"),
        (lambda: SQP(torch.sum, n=2, start=torch.ones(3))(), ValueError, "start has 3 variables"),
        (
            lambda: SQP(lambda x, c: x.sum(), start=torch.ones(3, 2))(torch.ones(2)),
            ValueError,
            "start has 3 rows, and the params 2 samples",
        ),
        (lambda: SQP(torch.sum, start="zero")(), TypeError, "start must be a tensor"),  # pyright: ignore[reportArgumentType]
        (lambda: SQP(torch.sum, start=torch.ones(1, 1, 1))(), ValueError, r"shape \(1, 1, 1\)"),
        (lambda: SQP(torch.sum, start=torch.ones(2).log() / 0)(), ValueError, "not finite"),
        (lambda: SQP(lambda x: x, n=2)(), ValueError, "return one number"),
    ],
)
def test_errors(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_params_that_are_no_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"param 0 holds NaN at \[1\]"):
        SQP(lambda x, c: x @ x - c * x.sum(), n=2)(torch.tensor([1.0, torch.nan]))
