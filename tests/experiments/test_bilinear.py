"""The bilinear program: exact and smoothed optima against other solvers, and their derivatives."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.experiments.bilinear.checks import agreement, moving_share
from foldopt.experiments.bilinear.data import FEATURES, difficulty, draw, split
from foldopt.experiments.bilinear.layer import Folded, folded_program, forward_of
from foldopt.experiments.bilinear.program import (
    Bilinear,
    best_vertex,
    bilinear_layer,
    search,
    solve_globally,
)
from foldopt.learning import mean_regret, regret
from foldopt.projections import capped_simplex, simplex
from foldopt.solvers.global_qp import GlobalQP

F64 = torch.float64


def program(n: int, samples: int, seed: int = 0) -> tuple[Bilinear, Tensor]:
    random = torch.Generator().manual_seed(seed)
    Q = torch.randn(n, n, generator=random, dtype=F64)
    return Bilinear(Q), torch.randn(samples, 2 * n, generator=random, dtype=F64)


def values(objective: Bilinear, z: Tensor, costs: Tensor) -> Tensor:
    """The objective, written out, to be maximised."""
    x, y = z[..., : objective.n], z[..., objective.n :]
    c, d = costs[..., : objective.n], costs[..., objective.n :]
    return torch.einsum("bi,bi->b", c, x) + torch.einsum("bi,bi->b", d, y) + torch.einsum(
        "bi,ij,bj->b", x, objective.Q, y
    )  # fmt: skip


# -- the data -------------------------------------------------------------------------------


def test_the_difficulty_is_the_printed_function_where_that_is_defined() -> None:
    t = torch.tensor([0.3, -0.3, 0.95], dtype=F64)
    s = t.abs() + 0.05
    printed = s * torch.cos(2 * s) + 5 / 2 * torch.log(s / (s + 2)) + s**2 * torch.sin(4 * s)
    assert torch.allclose(difficulty(t), printed)
    assert difficulty(torch.linspace(-1, 1, 101, dtype=F64)).isfinite().all()


def test_examples_are_finite_standardised_and_reproducible() -> None:
    objective, examples = draw(3, samples=200, n=5)
    assert examples.features.shape == (200, FEATURES)
    assert examples.features.abs().max() <= 2
    assert examples.truth.isfinite().all()
    assert torch.allclose(examples.truth.mean(0), torch.zeros(10, dtype=F64), atol=1e-12)
    assert torch.allclose(examples.truth.std(0), torch.ones(10, dtype=F64))
    assert torch.equal(examples.optimal, best_vertex(objective, examples.truth))
    torch.manual_seed(9)
    again_objective, again = draw(3, samples=200, n=5)
    assert torch.equal(again.truth, examples.truth)
    assert torch.equal(again_objective.Q, objective.Q)
    assert not torch.equal(draw(4, samples=200, n=5)[1].truth, examples.truth)


def test_the_parts_are_disjoint_and_the_test_is_a_tenth() -> None:
    _, examples = draw(0, samples=200, n=3)
    parts = split(examples)
    assert [len(part) for part in parts] == [160, 20, 20]
    assert torch.equal(torch.cat([part.features for part in parts]), examples.features)


# -- optima ---------------------------------------------------------------------------------


def test_the_best_vertex_against_all_vertices() -> None:
    objective, costs = program(4, samples=30)
    best = best_vertex(objective, costs)
    units = torch.eye(4, dtype=F64)
    every = [
        torch.cat([units[i], units[j] + units[k]])
        for i in range(4)
        for j, k in itertools.combinations(range(4), 2)
    ]
    highest = torch.stack([values(objective, z.expand(30, -1), costs) for z in every]).amax(0)
    assert torch.allclose(values(objective, best, costs), highest, atol=1e-12)
    assert torch.allclose(-objective(best, costs), highest, atol=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_the_search_finds_the_global_optimum(epsilon: float) -> None:
    objective, costs = program(6, samples=6)
    found = agreement("scip", objective, costs, epsilon)
    assert (found.proved, found.worse) == (6, 0)
    # SCIP proves its objective to 1e-5; its z is then as far off as the square root, at most.
    assert found.value < 1e-4
    assert found.distance < 2e-2


def test_gurobi_finds_the_same() -> None:
    pytest.importorskip("gurobipy")
    objective, costs = program(10, samples=6, seed=1)
    found = agreement("gurobi", objective, costs, 1.0)
    assert (found.proved, found.worse) == (6, 0)
    assert found.value < 1e-4


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 4.0, 50.0])
def test_the_search_meets_the_first_order_conditions(epsilon: float) -> None:
    objective, costs = program(10, samples=40)
    solution = search(objective, costs, epsilon)
    assert (solution.status == fo.Status.CONVERGED).all()
    x, y = solution.x.split(10, -1)
    c, d = costs.split(10, -1)
    assert torch.allclose(simplex((c + y @ objective.Q.T) / epsilon), x, atol=1e-8)
    assert torch.allclose(capped_simplex((d + x @ objective.Q) / epsilon, 2, 1.0), y, atol=1e-8)
    assert torch.allclose(x.sum(-1), torch.ones(40, dtype=F64))
    assert torch.allclose(y.sum(-1), torch.full((40,), 2.0, dtype=F64))


def test_a_solution_without_conditions_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from foldopt.experiments.bilinear import program as bilinear_program

    monkeypatch.setattr(bilinear_program, "_RESIDUAL", -1.0)
    objective, costs = program(3, samples=2)
    assert (search(objective, costs, 1.0).status == fo.Status.INACCURATE).all()


# -- regret ---------------------------------------------------------------------------------


def test_regret_is_positive_but_for_perfect_predictions() -> None:
    objective, examples = draw(0, samples=100, n=5)
    wrong = best_vertex(objective, torch.zeros_like(examples.truth))
    costs = regret(objective, wrong, examples.optimal, examples.truth)
    assert costs.min() >= -1e-12
    assert costs.max() > 0.1
    right = best_vertex(objective, examples.truth)
    assert mean_regret(objective, right, examples.optimal, examples.truth) == 0


# -- derivatives ----------------------------------------------------------------------------


def test_the_layer_against_finite_differences_of_the_solver() -> None:
    objective, costs = program(10, samples=20)
    random = torch.Generator().manual_seed(5)
    cotangent, move = (torch.randn(20, 20, generator=random, dtype=F64) for _ in range(2))
    layer = folded_program(objective, 1.0)
    own = costs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(own), own, cotangent)
    left_out = gradient.abs().amax(-1) == 0  # or at a vertex, where that is right
    assert layer.differentiated == 20

    def value(step: float) -> Tensor:
        return (search(objective, costs + step * move, 1.0).x * cotangent).sum(-1)

    h = 1e-5
    near, far = (value(h) - value(-h)) / (2 * h), (value(3 * h) - value(-3 * h)) / (6 * h)
    smooth = (near - far).abs() < 1e-6  # no kink and no jump between the points
    compared = smooth & ~left_out
    assert (compared & (gradient.abs().amax(-1) > 1e-3)).sum() >= 10
    assert torch.allclose((gradient * move).sum(-1)[compared], near[compared], atol=1e-6)


def test_an_answer_of_scip_has_the_same_derivative() -> None:
    objective, costs = program(4, samples=3)
    cotangent = torch.linspace(-1, 1, 24, dtype=F64).reshape(3, 8)
    gradients = []
    for solver in ("ascent", "scip"):
        own = costs.clone().requires_grad_()
        z = folded_program(objective, 1.0, solver)(own)
        gradients.append(torch.autograd.grad(z, own, cotangent)[0])
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(*gradients, atol=1e-6)


def test_nothing_moves_without_the_quadratic_term() -> None:
    objective, examples = draw(0, samples=100, n=10)
    assert moving_share(objective, examples.truth, 0.0) == 0
    assert moving_share(objective, examples.truth, 1.0) > 0.3


def test_samples_without_a_derivative_are_left_out() -> None:
    objective = Bilinear(torch.zeros(3, 3, dtype=F64))

    def half(objective: Bilinear, costs: Tensor, epsilon: float) -> fo.Solution:
        found = search(objective, costs, epsilon)
        return found._replace(status=torch.tensor([int(fo.Status.FAILED), 0]))

    layer = Folded(bilinear_layer(objective, 1.0, half, on_failure="mask"))
    costs = torch.tensor([[0.2, 0.0, -9.0, 0.3, 0.0, 0.0]] * 2, dtype=F64).requires_grad_()
    layer(costs)[:, 0].sum().backward()
    assert costs.grad is not None
    assert torch.equal(costs.grad[0], torch.zeros(6, dtype=F64))
    assert costs.grad[1, 0] == pytest.approx(0.5)
    assert (layer.masked, layer.differentiated) == (1, 2)
    with torch.no_grad():
        assert not layer(costs).requires_grad


def test_a_gradient_that_failed_inside_the_step_is_left_out() -> None:
    # Two vertices of a bilinear program at which the step's own projection has no derivative: the
    # fold then gives numbers that are none. Found by search, kept as they were found.
    torch.manual_seed(0)
    objective = Bilinear(torch.randn(10, 10, dtype=F64))
    costs = torch.randn(32, 20, dtype=F64).requires_grad_()
    layer = folded_program(objective, 0.0)
    layer(costs).backward(torch.randn(32, 20, dtype=F64))
    assert costs.grad is not None
    assert costs.grad.abs().max() < 1e-9


def test_global_solvers_by_name() -> None:
    objective, costs = program(3, samples=2)
    assert forward_of("ascent") is search
    found = forward_of("scip")(objective, costs, 1.0)
    assert torch.allclose(found.x, search(objective, costs, 1.0).x, atol=1e-2)
    default = solve_globally(objective, costs, 1.0)
    assert torch.allclose(default.x, found.x, atol=1e-7)
    # Nothing is proved in no time; then there is nothing to compare.
    objective, costs = program(10, samples=1)
    hasty = GlobalQP(max_iterations=1, executor="serial")
    assert solve_globally(objective, costs, 4.0, hasty).status.item() != fo.Status.CONVERGED
