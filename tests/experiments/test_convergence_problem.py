"""The problem of the convergence study, its config, and the graphs that its loops hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foldopt as fo
from foldopt.experiments.convergence.measure import instance
from foldopt.experiments.convergence.plan import Config
from foldopt.experiments.convergence.power_flow import load_case14
from foldopt.experiments.convergence.top_k import TopK

F64 = torch.float64


@pytest.mark.parametrize("temperature", [1.0, 0.15, 0.05])
def test_top_k_meets_its_optimality_conditions(temperature: float) -> None:
    z = torch.randn(4, 30, dtype=F64)
    problem, c = TopK(k=4), z / (temperature * z.norm(dim=-1, keepdim=True))
    x = problem.solve(c)
    torch.testing.assert_close(x.sum(-1), torch.full((4,), 4.0, dtype=F64), rtol=0, atol=1e-12)
    assert float(x.max()) <= 1
    # c − ε (1 + log x) is one number ν over the free entries, and at least ν over those at 1.
    slope = c - 1 - x.log()
    for row, values in zip(x, slope, strict=True):
        free = row < 1
        nu = values[free].mean()
        torch.testing.assert_close(values[free], nu.expand_as(values[free]))
        assert bool((values[~free] >= nu).all())
    if temperature == 1.0:
        torch.testing.assert_close(x, 4 * c.softmax(-1))
    else:
        assert bool((x == 1).any())


def test_the_step_leaves_the_solution_and_its_curvature_gives_the_radius() -> None:
    for temperature in (1.0, 0.2):
        problem, c, _ = instance(Config(temperature=temperature))
        x = problem.solve(c)
        mu = problem.curvature(x[0])
        alpha = 0.6 / float(mu[-1])
        step = problem.step(alpha)
        torch.testing.assert_close(step(x, c), x, rtol=0, atol=1e-12)
        radius = fo.spectral_radius(step, x, c).radius
        torch.testing.assert_close(radius[0], (1 - alpha * mu).abs().max())


@pytest.mark.parametrize(
    "bad",
    [
        {"k": 100}, {"k": 0}, {"iterations": 5}, {"step_sizes": 1}, {"temperature": 0.0},
        {"step_size": -1.0}, {"inner": ()}, {"inner": (0, 3)}, {"seed": -1},
    ],
)  # fmt: skip
def test_a_config_that_makes_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        Config(**bad)


def test_f_pgd_b_holds_as_much_however_many_inner_iterations() -> None:
    G = torch.randn(2, 6, 5, dtype=F64)
    c, h = torch.randn(2, 5, dtype=F64), torch.rand(2, 6, dtype=F64) + 0.5
    functions = (
        lambda x, c, G, h: 0.5 * x @ x - c @ x,
        lambda x, c, G, h: G @ x - h,
    )
    x = fo.operators.polyhedron(c, G, h)

    def inner(count: int):
        def solve(Q, p, G, h, A, b):
            step, prepared = fo.steps.admm_qp(("inequality",)).bind(Q, p, G, h)
            w = torch.zeros_like(h)
            for _ in range(count):
                w = step.update(w, *prepared)
            return step.solution(w, *prepared), (w - h).clamp_min(0), b

        return solve

    sizes = []
    loose = fo.nn.Options(certify=fo.Certify(error_above=1e3, warn_above=1e3))
    for count in (10, 100, 1000):
        layer = fo.nn.f_pgd_b(*functions, inner_solver=inner(count), options=loose)
        params = [value.clone().requires_grad_() for value in (c, G, h)]
        out = layer.fold(x, *params)
        sizes.append(graph_size(out))
        torch.autograd.grad(out.sum(), params)
    assert sizes[0] > 1
    assert sizes[0] == sizes[1] == sizes[2]


def graph_size(x: torch.Tensor) -> int:
    """How many operations autograd holds behind x, inside folds too."""
    todo, seen = [x.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [parent for parent, _ in node.next_functions]
        recorded = getattr(getattr(node, "problem", None), "_recorded", None)
        if recorded is not None:  # the step that a fold holds
            todo += [leaf.grad_fn for leaf in recorded[1].value]
    return len(seen)


def test_case14_is_the_published_problem() -> None:
    grid = load_case14()
    z, loads, costs = grid.solution, grid.loads, grid.costs
    assert float(grid.equality(z, loads, costs).abs().max()) < 1e-9
    assert float(grid.inequality(z, loads, costs).max()) < 1e-9
    assert 1000 * float(grid.objective(z, loads, costs)) == pytest.approx(8081.53, abs=0.01)
    assert grid.objective_value == pytest.approx(8081.53, abs=0.01)
