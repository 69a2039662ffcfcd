"""The nonlinear program layer on problems whose solution is known, or known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import Status, solvers
from foldopt.nn.nlp import NLP, NLPSolution
from tests.hock_schittkowski import DEGENERATE, PROBLEMS, Problem

F64 = torch.float64
# For Ipopt to stay where it begins: finite differences are of one branch.
NEAR = {
    "bound_push": 1e-9, "bound_frac": 1e-9, "slack_bound_push": 1e-9, "slack_bound_frac": 1e-9,
    "mu_init": 1e-9,
}  # fmt: skip


def solved(layer: NLP, *params: Any, **options: Any) -> NLPSolution:
    found = layer(*params, **options)
    assert isinstance(found, NLPSolution)
    return found


def by_ipopt(problem: Problem, near: Tensor, params: Tensor) -> Tensor:
    """x of several params ``(B, k)``, by Ipopt at 1e-10, without the layer."""
    given = problem.bounds or (None, None)
    lower, upper = (
        torch.stack([_bound(bound, none, p, near) for p in params])
        for bound, none in zip(given, (-math.inf, math.inf), strict=True)
    )
    objective, inequality, equality = problem.functions
    engine = solvers.Ipopt(
        objective, inequality, equality, lower, upper, start=near, rtol=1e-10, options=NEAR,
        executor="serial",
    )  # fmt: skip
    found = engine(params)
    assert (found.status == Status.CONVERGED).all()
    return found.x


def _bound(bound: Any, none: float, p: Tensor, like: Tensor) -> Tensor:
    value = bound(p) if callable(bound) and not isinstance(bound, Tensor) else bound
    return torch.as_tensor(none if value is None else value, dtype=F64).expand_as(like)


@pytest.mark.parametrize("name", PROBLEMS)
def test_hock_schittkowski(name: str) -> None:
    problem = PROBLEMS[name]
    start, p, x = problem.numbers()
    layer = NLP(
        *problem.functions, problem.bounds, start=start, batch_dims=0, multipliers=True,
        executor="serial",
    )  # fmt: skip
    p.requires_grad_()
    with fo.record() as seen:
        found = solved(layer, p)
    assert int(found.status) == Status.CONVERGED
    assert float(seen[0].residual) < 1e-12  # the optimality conditions, to rounding
    assert torch.allclose(found.x, x, rtol=2e-6, atol=2e-6)
    value = float(problem.objective(found.x.detach(), p.detach()))
    assert value == pytest.approx(problem.value, rel=1e-8, abs=1e-8)
    # Along a direction without structure, in which no wrong entry of the Jacobian could hide.
    direction = torch.tensor([0.83, -0.57, 1.21, 0.69], dtype=F64)[: len(p)]
    direction = direction * torch.where(p == 0, 1, p.detach().abs().clamp_max(1))
    step = 1e-4 * direction
    ends = by_ipopt(problem, found.x.detach(), torch.stack([p + step, p - step]).detach())
    differences = (ends[0] - ends[1]) / 2e-4
    jacobian = torch.stack([torch.autograd.grad(v, p, retain_graph=True)[0] for v in found.x])
    assert torch.allclose(jacobian @ direction, differences, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DEGENERATE)
def test_an_optimum_without_derivative_is_found_and_named(name: str) -> None:
    problem, word = DEGENERATE[name]
    start, p, x = problem.numbers()
    layer = NLP(*problem.functions, problem.bounds, start=start, batch_dims=0)
    with fo.record() as seen:
        found = layer(p.requires_grad_())
    assert torch.allclose(found, x, atol=1e-2)  # where the curvature vanishes no more is known
    assert word in seen[0].messages[0]
    with pytest.raises(fo.FoldError, match=word):
        found.sum().backward()


# -- the example of Pirnay, López-Negrete and Biegler, Math. Prog. Comp. 4 (2012) ------


def sipopt(solver: Any = "ipopt", **options: Any) -> NLP:
    return NLP(
        lambda x, p: (x * x).sum(),
        None,
        lambda x, p: [6 * x[0] + 3 * x[1] + 2 * x[2] - p[0], p[1] * x[0] + x[1] - x[2] - 1],
        (0.0, None),
        solver,
        multipliers=True,
        **options,
    )


def closed(p: Tensor, held: bool) -> Tensor:
    """x by linear algebra: without bounds, or with x₃ = 0 held."""
    A = torch.stack([torch.stack([p.new_tensor(6.0), p[1]]), p.new_tensor([3.0, 1.0])], -1)
    last = p.new_tensor([[2.0], [-1.0]])
    b = torch.stack([p[0], p.new_tensor(1.0)])
    if held:
        return torch.cat([torch.linalg.solve(A, b), p.new_zeros(1)])
    A = torch.cat([A, last], -1)
    return A.mT @ torch.linalg.solve(A @ A.mT, b)


@pytest.mark.parametrize("solver", ["ipopt", "sqp"])
def test_the_example_of_sipopt(solver: str) -> None:
    p = torch.tensor([[5.0, 1.0], [4.5, 1.0]], dtype=F64)
    layer = sipopt(solver, start=torch.tensor([0.15, 0.15, 0.0]))
    found = solved(layer, p)
    expected = torch.stack([closed(p[0], False), closed(p[1], True)])
    assert torch.allclose(found.x, expected, atol=1e-12)
    assert torch.allclose(found.x[0], torch.tensor([0.632653, 0.387755, 0.0204082], dtype=F64))
    assert torch.allclose(found.x[1], torch.tensor([0.5, 0.5, 0], dtype=F64), atol=1e-12)
    assert found.multipliers.bounds[1, 2] < -0.9  # the bound of x₃ holds it back
    J = torch.func.jacrev(lambda q: layer(q).x)(p)
    for sample, held in enumerate((False, True)):
        exact = torch.func.jacrev(lambda q, held=held: closed(q, held))(p[sample])
        assert torch.allclose(J[sample, :, sample], exact, atol=1e-10)
    # The first-order prediction for p = (4.5, 1) from (5, 1) leaves the feasible set, as in print.
    guess = found.x[0] + J[0, :, 0] @ (p[1] - p[0])
    assert guess[2] < 0


# -- small programs with closed forms; the first three are from DiffOpt.jl's documentation ---


def test_a_constraint_with_params_on_both_sides() -> None:
    """Min x⁴ s.t. q x ≥ 3 p: x = 3p/q."""
    layer = NLP(lambda x, p, q: x[0] ** 4, lambda x, p, q: 3 * p - q * x[0], n=1, multipliers=True)
    p = torch.tensor([4.0, 2.0], dtype=F64, requires_grad=True)
    q = torch.tensor([2.0, 5.0], dtype=F64, requires_grad=True)
    found = solved(layer, p, q)
    x, lam = found.x[:, 0], found.multipliers.inequality[:, 0]
    assert torch.allclose(x, 3 * p / q, atol=1e-12)
    assert torch.allclose(lam, 4 * (3 * p / q) ** 3 / q, atol=1e-9)
    for mine, exact in ((x, 3 * p / q), (lam, 4 * (3 * p / q) ** 3 / q)):
        grads = torch.autograd.grad(mine.sum(), (p, q), retain_graph=True)
        expected = torch.autograd.grad(exact.sum(), (p, q), retain_graph=True)
        assert torch.allclose(torch.stack(grads), torch.stack(expected), atol=1e-8)


def test_the_directions_and_the_objective_of_diffopt() -> None:
    """The same program, with the directions of DiffOpt.jl's usage page; its objective's slope."""
    layer = NLP(lambda x, p, q: x[0] ** 4, lambda x, p, q: 3 * p - q * x[0], n=1, batch_dims=0)
    p, q = torch.tensor(2.0, dtype=F64), torch.tensor(6.0, dtype=F64)
    along_q = (torch.zeros_like(p), torch.full_like(q, 10.0))
    x, moved, *_ = torch.func.jvp(lambda p, q: layer(p, q)[0], (p, q), along_q)
    assert float(x) == pytest.approx(1.0, abs=1e-12)
    assert float(moved) == pytest.approx(-10 * 3 * 2 / 36, abs=1e-9)
    p.requires_grad_()
    q.requires_grad_()
    by_p, by_q = torch.autograd.grad(layer(p, q)[0] ** 4, (p, q))
    assert float(by_p) == pytest.approx(4 * 3 / 6, abs=1e-9)
    assert float(by_q) == pytest.approx(-4 * 3 * 2 / 36, abs=1e-9)


@pytest.mark.parametrize(("demand", "marginal"), [(5.0, 0), (25.0, 1), (45.0, 2), (70.0, 3)])
def test_thermal_dispatch(demand: float, marginal: int) -> None:
    """DiffOpt.jl's dispatch: cheap stations first, and the last one in use follows the demand."""
    costs = torch.tensor([1.0, 3.0, 5.0, 10.0], dtype=F64)  # the last is demand not served
    layer = NLP(
        lambda g, d: costs.to(g) @ g, None, lambda g, d: g.sum() - d,
        (torch.zeros(4), torch.tensor([10.0, 20.0, 30.0, torch.inf])),
        batch_dims=0, multipliers=True,
    )  # fmt: skip
    d = torch.tensor(demand, dtype=F64, requires_grad=True)
    found = layer(d)
    left = demand - torch.tensor([0.0, 10.0, 30.0, 60.0], dtype=F64)
    most = torch.tensor([10.0, 20.0, 30.0, torch.inf], dtype=F64)
    assert torch.allclose(found.x, torch.minimum(left.clamp_min(0), most), atol=1e-9)
    nu = float(found.multipliers.equality[0].detach())
    assert nu == pytest.approx(-float(costs[marginal]), abs=1e-8)
    follows = [float(torch.autograd.grad(g, d, retain_graph=True)[0]) for g in found.x]
    assert follows == pytest.approx([float(i == marginal) for i in range(4)], abs=1e-9)


def test_a_nonconvex_objective_with_an_equality() -> None:
    """Min x₁² + x₂² s.t. x₁ x₂ = p, p > 0, from the first quadrant: x = (√p, √p), ν = −2."""
    layer = NLP(
        lambda x, p: x @ x, None, lambda x, p: x[0] * x[1] - p,
        start=torch.tensor([1.0, 2.0]), multipliers=True,
    )  # fmt: skip
    p = torch.tensor([0.5, 4.0], dtype=F64, requires_grad=True)
    found = solved(layer, p)
    assert torch.allclose(found.x, p.sqrt().unsqueeze(-1).expand(-1, 2), atol=1e-10)
    assert torch.allclose(found.multipliers.equality, p.new_full((2, 1), -2.0), atol=1e-10)
    (slope,) = torch.autograd.grad(found.x[:, 0].sum(), p, retain_graph=True)
    assert torch.allclose(slope, 0.5 / p.detach().sqrt(), atol=1e-10)
    (none,) = torch.autograd.grad(found.multipliers.equality.sum(), p)
    assert none.abs().max() < 1e-9


def test_the_chain_of_a_layer_with_a_bound_as_param() -> None:
    """The nearest point of a box to c is c, clipped: derivative 1 inside, and that of the bound."""
    bounds = (lambda c, w: -w, lambda c, w: w)
    layer = NLP(lambda x, c, w: ((x - c) ** 2).sum(), bounds=bounds, n=3)
    c = torch.tensor([[0.2, 3.0, -5.0]], dtype=F64, requires_grad=True)
    w = torch.tensor([1.0], dtype=F64, requires_grad=True)
    x = layer(c, w)
    assert torch.allclose(x, c.clamp(-1, 1), atol=1e-12)
    grads = torch.autograd.grad(x @ torch.tensor([1.0, 10.0, 100.0], dtype=F64), (c, w))
    assert torch.allclose(grads[0], torch.tensor([[1.0, 0.0, 0.0]], dtype=F64), atol=1e-12)
    assert torch.allclose(grads[1], torch.tensor([10.0 - 100.0], dtype=F64), atol=1e-12)


@pytest.mark.parametrize("solver", ["ipopt", "sqp"])
def test_a_variable_that_its_bounds_fix(solver: Any) -> None:
    """x₁ = p is held from both sides; its multiplier is whatever balances the gradient."""
    layer = NLP(
        lambda x, p: (x[0] - 3) ** 2 + (x[1] - x[0]) ** 2,
        bounds=(lambda p: torch.stack([p, p - 9]), lambda p: torch.stack([p, p + 9])),
        start=torch.zeros(2), solver=solver, multipliers=True,
    )  # fmt: skip
    p = torch.tensor([1.0, 3.0, 5.0], dtype=F64, requires_grad=True)
    found = solved(layer, p)
    assert torch.allclose(found.x, p.unsqueeze(-1).expand(-1, 2), atol=1e-10)
    assert torch.allclose(found.multipliers.bounds[:, 0], 2 * (3 - p), atol=1e-9)
    for part, slope in ((found.x[:, 1], 1.0), (found.multipliers.bounds[:, 0], -2.0)):
        (gradient,) = torch.autograd.grad(part.sum(), p, retain_graph=True)
        assert torch.allclose(gradient, torch.full_like(p, slope), atol=1e-9)
