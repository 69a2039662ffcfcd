"""PyEPO models as solvers of this library: values, regrets and folds, against independent ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import foldopt as fo
from foldopt.learning import regret
from foldopt.learning.pyepo import FoldedRegret, dataset, examples, objective, solver

pytest.importorskip("pyepo")
import pyepo
from pyepo import EPO, dsl
from pyepo.data import portfolio
from pyepo.data.dataset import optDataset

from tests.pyepo_data import F64, GRID, path_data
from tests.pyepo_models import Fussy, Paths, best_values, incidence


def gurobi_paths() -> Any:
    pytest.importorskip("gurobipy")
    from pyepo.model.grb import shortestPathModel

    return shortestPathModel(GRID)


def gurobi_portfolio(assets: int = 8) -> tuple[Any, np.ndarray, Tensor]:
    pytest.importorskip("gurobipy")
    from pyepo.model.grb import portfolioModel

    covariance, features, returns = portfolio.genData(12, 4, assets, deg=2, seed=3)
    return portfolioModel(assets, covariance), features, torch.from_numpy(returns).double()


MODELS = {
    "scipy": lambda: Paths(GRID),
    "scipy, dearest": lambda: Paths(GRID, dearest=True),
    "gurobi": gurobi_paths,
}


# -- a PyEPO model as a solver ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_optima_against_dynamic_programming(name: str) -> None:
    model = MODELS[name]()
    _, c = path_data(20)
    found = solver(model)(c)
    assert found.x.dtype == F64
    assert found.status.tolist() == [0] * 20
    A, b = incidence(model.arcs, GRID)
    np.testing.assert_allclose(found.x.numpy() @ A.T, np.tile(b, (20, 1)), atol=1e-9)
    assert float(found.x.min()) > -1e-9
    dearest = model.modelSense == EPO.MAXIMIZE
    expected = best_values(model.arcs, 25, c.numpy(), dearest)
    np.testing.assert_allclose((c * found.x).sum(-1), expected, rtol=1e-9)
    np.testing.assert_allclose(
        objective(model)(found.x, c), -expected if dearest else expected, rtol=1e-9
    )


def test_costs_reach_gurobi_with_all_their_digits() -> None:
    model = gurobi_paths()
    _, c = path_data(2)
    c = c + 1e-9 * torch.rand_like(c)
    solver(model)(c)
    np.testing.assert_array_equal(model.x.Obj, c[-1])


def test_dtype_stays_and_graphs_are_no_matter() -> None:
    c = torch.rand(3, 40).requires_grad_()
    found = solver(Paths(GRID))(c)
    assert found.x.dtype == torch.float32
    assert not found.x.requires_grad
    assert solver(Paths(GRID))(c.detach().numpy()).status.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "status", "says"),
    [
        ("raise", fo.Status.FAILED, "RuntimeError: negative costs are beyond me"),
        ("nan", fo.Status.NONFINITE, ""),
        ("short", fo.Status.FAILED, "solve() returned 2 numbers for 3 costs"),
        ("none", fo.Status.FAILED, "solve() returned 1 numbers for 3 costs"),
    ],
)
def test_a_sample_that_fails_fails_alone(kind: str, status: fo.Status, says: str) -> None:
    c = torch.tensor([[3.0, 1.0, 2.0], [1.0, -1.0, 0.5], [0.1, 0.5, 0.5]])
    found = solver(Fussy(kind))(c)
    assert found.status.tolist() == [0, int(status), 0]
    assert found.x[[0, 2]].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert bool(found.x[1].isnan().all())
    assert says in found.messages[1]

    step = fo.steps.projected_gradient(
        lambda x, c: (c * x).sum(-1), fo.projections.simplex, step_size=0.1
    )
    with pytest.raises(fo.FoldError, match=status.name):
        fo.folded(step)(solver(Fussy(kind)))(c.requires_grad_())
    masked = fo.folded(step, on_failure="mask")(solver(Fussy(kind)))(c)
    masked[[0, 2]].sum().backward()
    assert c.grad is not None
    assert bool((c.grad == 0).all())  # of a corner, the derivative is zero


def test_all_of_them_may_fail() -> None:
    found = solver(Fussy())(torch.full((2, 3), -1.0))
    assert found.status.tolist() == [int(fo.Status.FAILED)] * 2
    assert bool(found.x.isnan().all())


def test_what_gurobi_says_of_a_sample_is_passed_on() -> None:
    model = gurobi_paths()
    _, c = path_data(2)
    closed = model.addConstr(np.ones(40), 7.5)  # a path has 8 arcs
    found = solver(closed)(c)
    assert found.status.tolist() == [int(fo.Status.INFEASIBLE)] * 2
    assert "Gurobi found no solution" in found.messages[0]

    from pyepo.model.grb import knapsackModel

    rng = np.random.default_rng(0)
    weights = rng.uniform(1, 5, (3, 40))
    packing = knapsackModel(weights, weights.sum(1) / 3)
    values = torch.from_numpy(rng.uniform(1, 5, (1, 40)))
    best = solver(packing)(values)
    assert best.status.tolist() == [0]
    packing._model.Params.Presolve = 0
    packing._model.Params.Cuts = 0
    packing._model.Params.NodeLimit = 0
    stopped = solver(packing)(values)
    assert stopped.status.tolist() == [int(fo.Status.MAX_ITERATIONS)]
    assert (weights @ stopped.x[0].numpy() <= weights.sum(1) / 3 + 1e-9).all()
    assert "status code 8" in stopped.messages[0]
    packing._model.Params.NodeLimit = float("inf")
    packing._model.Params.SolutionLimit = 1
    assert solver(packing)(values).status.tolist() == [int(fo.Status.FAILED)]


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_executors_get_the_cuts_and_give_the_same(executor: str) -> None:
    _, c = path_data(12)
    free = solver(Paths(GRID))(c)
    busy = free.x.mean(0).argmax()
    cut = np.zeros(40)
    cut[busy] = 1
    model = Paths(GRID).addConstr(cut, 0.0)
    found = solver(model, executor)(c)
    assert torch.equal(found.x, solver(model)(c).x)
    assert float(found.x[:, busy].max()) == 0
    assert not torch.equal(found.x, free.x)


def test_costs_of_some_variables_only() -> None:
    """Two goods whose price is predicted and two whose price is known, and a constant."""
    pytest.importorskip("gurobipy")
    x: Any = dsl.Variable(2, lb=0, ub=1)
    y: Any = dsl.Variable(2, lb=0, ub=1)
    known = np.array([2.0, 3.0]) @ (y + 2)
    problem = dsl.Problem(dsl.Maximize(dsl.Parameter(2) @ x + known), [x.sum() + y.sum() <= 2])
    model = problem.compile("gurobi")
    costs = torch.tensor([[1.0, 4.0], [5.0, 6.0]], dtype=F64)
    found = solver(model)(costs)
    assert found.x.tolist() == [[0, 1, 0, 1], [1, 1, 0, 0]]
    assert objective(model)(found.x, costs).tolist() == [-17.0, -21.0]
    data = optDataset(model, np.zeros((2, 1)), costs.numpy())
    assert data.objs.flatten().tolist() == [17.0, 21.0]
    assert torch.equal(dataset(examples(data), model).objs, data.objs)
    loss = FoldedRegret(lambda c: solver(model)(c.detach()).x, model, "none")
    wrong = torch.tensor([[9.0, 4.0], [0.0, 0.0]])
    assert loss(wrong, data.costs, data.sols, data.objs).tolist() == [2.0, 6.0]


# -- regrets ---------------------------------------------------------------------------------------


def test_regrets_are_those_of_pyepo() -> None:
    paths, returns = path_data(12, seed=2), gurobi_portfolio()
    for model, features, c in (
        (Paths(GRID), *paths),
        (Paths(GRID, dearest=True), *paths),
        returns,
    ):
        data = optDataset(model, features, c.numpy())
        torch.manual_seed(0)
        predictor = nn.Linear(features.shape[1], c.shape[1])
        loader = DataLoader(data, batch_size=5)
        theirs = np.asarray(pyepo.metric.regret(predictor, model, loader, reduction="none"))
        assert float(theirs.max()) > 0.01
        many = examples(data)
        with torch.no_grad():
            predicted = predictor(many.features)
        x = solver(model)(predicted).x
        of = objective(model)
        mine = regret(of, x, many.optimal, many.truth)
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-5)
        loss = FoldedRegret(lambda c, m=model: solver(m)(c).x, model, "none")
        np.testing.assert_allclose(
            loss(predicted, data.costs, data.sols, data.objs), theirs, rtol=1e-4, atol=2e-5
        )
        for reduction, expected in (("mean", theirs.mean()), ("sum", theirs.sum())):
            loss.reduction = reduction
            found = loss(predicted, data.costs, data.sols, data.objs)
            assert float(found) == pytest.approx(float(expected), rel=1e-3)


# -- folding it ------------------------------------------------------------------------------------


def test_a_pyepo_model_folded_where_its_solution_moves() -> None:
    """The limit on the variance is curved: x moves with the returns; against Clarabel's answers."""
    model, _, c = gurobi_portfolio()
    model._model.Params.BarQCPConvTol = 1e-10
    covariance, limit = torch.from_numpy(model.covariance), float(model.risk_level)
    n = c.shape[-1]
    functions = (
        lambda x, c: -(c * x).sum(-1),
        lambda x, c: torch.cat([(x @ covariance @ x / limit - 1)[None], -x]),
        lambda x, c: x.sum() - 1,
    )
    found = solver(model)(c)
    assert found.status.tolist() == [0] * len(c)
    risk = torch.einsum("bi,ij,bj->b", found.x, covariance, found.x)
    binding = (risk > 0.999 * limit).nonzero().flatten()[:4]
    assert len(binding) > 1
    c, x = c[binding], found.x[binding]

    def exact(c: Tensor) -> Tensor:
        return fo.solvers.QCQP()(
            None, -c, 2 * covariance[None], None, torch.full((1,), limit, dtype=F64),
            A=torch.ones(1, n, dtype=F64), b=torch.ones(1, dtype=F64), lower=0.0,
        ).x  # fmt: skip

    torch.testing.assert_close(exact(c), x, rtol=0, atol=1e-4)
    params = c.clone().requires_grad_()
    point = fo.steps.multipliers(*functions)(x, c)
    newton = fo.steps.newton_kkt(*functions)
    with torch.no_grad():
        point = newton(newton(point, c), c)  # the digits that Gurobi leaves out
    moved = fo.fold(fo.steps.sqp(*functions), point, params).x
    torch.testing.assert_close(moved, exact(c), rtol=0, atol=1e-7)
    g, direction, h = torch.randn_like(c), torch.randn_like(c), 1e-5
    (grad,) = torch.autograd.grad(moved, params, g)
    found = (grad * direction).sum(-1)
    slope = ((exact(c + h * direction) - exact(c - h * direction)) * g).sum(-1) / (2 * h)
    assert float(slope.abs().max()) > 1e-2
    torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-4)
