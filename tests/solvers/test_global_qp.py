"""Nonconvex quadratic programs: global optima and multipliers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from foldopt.solvers.global_qp import ENGINES
from foldopt.status import Solution, Status
from tests import quadratic
from tests.global_programs import F64, INF, bilinear, here, tensor, value


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(ENGINES[request.param]["package"])
    return request.param


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
