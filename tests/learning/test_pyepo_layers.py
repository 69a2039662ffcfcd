"""Layers of this library in PyEPO's loops, data there and back, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import foldopt as fo
from foldopt.learning import Examples, Training, mean_regret
from foldopt.learning.compare import compare
from foldopt.learning.pyepo import FoldedRegret, dataset, examples, layer, objective, solver

pytest.importorskip("pyepo")
import pyepo
from pyepo import dsl
from pyepo.data.dataset import optDataset, optDatasetKNN

from tests.pyepo_data import F64, GRID, path_data
from tests.pyepo_models import Fussy, Paths, best_values, incidence


def smooth(c: Tensor, epsilon: float = 1.0) -> Tensor:
    """The cheapest flow with ½ ε ‖x‖² added, in float64: it moves with c."""
    model = Paths(GRID)
    A, b = (torch.from_numpy(side).to(c.dtype) for side in incidence(model.arcs, GRID))
    n = len(model.arcs)
    eye = torch.eye(n, dtype=c.dtype)
    G, h = torch.cat([-eye, eye]), torch.cat([torch.zeros(n), torch.ones(n)]).to(c.dtype)
    engine = fo.solvers.QP("piqp")
    return fo.operators.quadratic_program(epsilon * eye, c, G, h, A, b, solver=engine).x


# -- our layers in PyEPO's loops -------------------------------------------------------------------


def test_a_layer_in_float32_computes_in_the_dtype_asked_for() -> None:
    seen = []

    def decide(c: Tensor, scale: Tensor) -> Tensor:
        seen.append((c.dtype, scale.dtype))
        return fo.projections.simplex(-scale * c)

    func = layer(decide, torch.tensor([2.0], dtype=F64), dtype=F64)
    c = torch.rand(4, 6, requires_grad=True)
    x = func(c)
    assert x.dtype == torch.float32
    assert seen == [(F64, F64)]
    g = torch.randn(4, 6)
    (grad,) = torch.autograd.grad(x, c, g)
    wide = c.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(fo.projections.simplex(-2 * wide), wide, g.double())
    assert grad.dtype == torch.float32
    torch.testing.assert_close(grad.double(), expected, rtol=1e-6, atol=1e-7)


def test_a_layer_holds_modules_and_moves_what_is_known() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, c: Tensor, shift: Tensor) -> Tensor:
            return self.scale * c + shift

    func = layer(Scaled(), torch.ones(3))
    assert [name for name, _ in func.named_parameters()] == ["decide.scale"]
    assert list(func.state_dict()) == ["decide.scale"]
    func(torch.ones(1, 3)).sum().backward()
    assert next(func.parameters()).grad == 3
    moved = func.to(F64)
    assert moved(torch.ones(1, 3, dtype=F64)).tolist() == [[3, 3, 3]]
    assert moved(torch.ones(1, 3, dtype=F64)).dtype == F64


def test_the_loss_and_its_gradient_by_finite_differences() -> None:
    model = Paths(GRID)
    features, c = path_data(3)
    data = optDataset(model, features, c.numpy())
    loss = FoldedRegret(smooth, model)
    labels = tuple(torch.as_tensor(part).double() for part in (data.costs, data.sols, data.objs))
    predicted = torch.rand(3, 40, dtype=F64, requires_grad=True)
    value = loss(predicted, *labels)
    assert value.item() > 0
    (grad,) = torch.autograd.grad(value, predicted)
    for seed in range(3):
        torch.manual_seed(seed)
        direction, h = torch.randn_like(grad), 1e-6
        with torch.no_grad():
            ends = [loss(predicted + s * h * direction, *labels) for s in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * h)
        torch.testing.assert_close((grad * direction).sum(), slope, rtol=1e-5, atol=1e-7)


def test_the_sign_of_the_loss_where_the_model_maximises() -> None:
    loss = FoldedRegret(lambda c: fo.projections.simplex(c), Paths((1, 3), dearest=True))
    c = torch.tensor([[1.0, 3.0]])
    predicted = torch.tensor([[0.4, 0.4]], requires_grad=True)
    value = loss(predicted, c, torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0]]))
    assert value.item() == 1.0
    (grad,) = torch.autograd.grad(value, predicted)
    assert grad.tolist() == [[1.0, -1.0]]  # more for the good arc, less regret


def test_training_in_pyepos_loop_lowers_pyepos_regret() -> None:
    model = Paths(GRID)
    features, c = path_data(100, seed=5)
    data = optDataset(model, features[:60], c[:60].numpy())
    test = DataLoader(optDataset(model, features[60:], c[60:].numpy()), batch_size=40)
    torch.manual_seed(0)
    predictor = nn.Linear(5, 40)
    loader = DataLoader(data, batch_size=20, shuffle=True)
    loss_func = FoldedRegret(layer(smooth, dtype=F64), model)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=0.05)
    before = float(pyepo.metric.regret(predictor, model, test))
    for _ in range(6):
        for x, cost, sol, obj in loader:
            optimizer.zero_grad()
            loss_func(predictor(x), cost, sol, obj).backward()
            optimizer.step()
    after = float(pyepo.metric.regret(predictor, model, test))
    assert after < 0.5 * before


# -- data ------------------------------------------------------------------------------------------


def test_datasets_there_and_back() -> None:
    model = Paths(GRID, dearest=True)
    features, c = path_data(6)
    theirs = optDataset(model, features, c.numpy())
    many = examples(theirs)
    assert many.truth.dtype == torch.float32
    assert torch.equal(many.features, torch.from_numpy(features).float())
    assert torch.equal(many.optimal, solver(model)(c).x.float())
    assert examples(theirs, F64).optimal.dtype == F64
    back = dataset(many, model)
    assert isinstance(back, optDataset)
    for mine, other in zip(back[4], theirs[4], strict=True):
        torch.testing.assert_close(mine, other)
        assert mine.dtype == torch.float32
    exact = dataset(Examples(torch.from_numpy(features), c, solver(model)(c).x), model)
    values = best_values(model.arcs, 25, c.numpy(), True)
    np.testing.assert_allclose(exact.objs.flatten(), values, rtol=1e-6)
    smoothed = examples(optDatasetKNN(model, features, c.numpy(), k=2))
    assert len(smoothed) == 6
    # PyEPO's own surrogate takes the dataset, as the source of its pool of solutions too.
    spo = pyepo.func.SPOPlus(model, solve_ratio=0.5, dataset=back)
    assert bool(torch.isfinite(spo(many.truth, back.costs, back.sols, back.objs)))


def test_our_trainings_on_pyepos_data() -> None:
    """Two-stage and end to end on shortest paths, both tested on the program itself."""
    model = Paths(GRID)
    features, c = path_data(100, seed=7)
    solve = solver(model)
    x = solve(c).x
    parts = [
        Examples(torch.from_numpy(features[part]), c[part], x[part])
        for part in (slice(60), slice(60, 80), slice(80, 100))
    ]
    torch.manual_seed(0)
    found = compare(
        nn.Linear(5, 40, dtype=F64), smooth, objective(model), parts[0], parts[1], parts[2],
        Training(epochs=3, batch_size=20, learning_rate=0.05), deployed=solve,
    )  # fmt: skip
    optimum = best_values(model.arcs, 25, c[80:].numpy(), False)
    np.testing.assert_allclose(found.optimum, optimum, rtol=1e-9)
    for part in (found.two_stage, found.end_to_end):
        assert float(part.regret.min()) > -1e-9
        with torch.no_grad():
            decided = solve(part.model(parts[2].features)).x
        cost = mean_regret(objective(model), decided, parts[2].optimal, parts[2].truth)
        assert float(part.regret.mean()) == pytest.approx(cost)


# -- what is refused -------------------------------------------------------------------------------


def test_what_is_no_model_is_refused() -> None:
    for maker in (solver, objective, lambda m: FoldedRegret(smooth, m)):
        with pytest.raises(TypeError, match=r"optModel.*lacks setObj, solve, num_cost, modelSense"):
            maker(nn.Linear(1, 1))
        with pytest.raises(TypeError, match="an instance of"):
            maker(Fussy)
    odd: Any = Fussy()
    odd.modelSense = 3
    with pytest.raises(ValueError, match=r"modelSense must be EPO\.MINIMIZE"):
        solver(odd)


def test_a_quadratic_term_beside_the_costs_is_refused() -> None:
    pytest.importorskip("gurobipy")
    x, c = dsl.Variable(2, lb=0, ub=1), dsl.Parameter(2)
    problem = dsl.Problem(dsl.Minimize(c @ x + x @ np.eye(2) @ x), [x.sum() >= 1])
    with pytest.raises(ValueError, match="a quadratic term, which its costs do not show"):
        objective(problem.compile("gurobi"))


def test_costs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(B, 3\); it has \(2, 4\)"):
        solver(Fussy())(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"it has \(3,\)"):
        solver(Fussy())(torch.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        solver(Fussy())(torch.full((1, 3), torch.nan))


def test_layers_and_losses_that_do_not_fit_are_refused() -> None:
    wrong: Any = 3
    with pytest.raises(TypeError, match="decide must be callable"):
        layer(wrong)
    with pytest.raises(ValueError, match=r"pred_cost must have shape \(B, num_cost\), got \(3,\)"):
        layer(torch.abs)(torch.ones(3))
    with pytest.raises(
        ValueError, match=r"decide returned shape \(3,\) for costs of shape \(2, 3\)"
    ):
        layer(lambda c: c.sum(0))(torch.ones(2, 3))
    unknown: Any = "median"
    with pytest.raises(ValueError, match="reduction must be"):
        FoldedRegret(torch.abs, Fussy(), unknown)
    loss, c = FoldedRegret(torch.abs, Fussy()), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"true_cost \(3,\) must have the same shape"):
        loss(c, c[0], c, torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"true_obj \(1, 1\) one value for each of the 2"):
        loss(c, c, c, torch.ones(1, 1))
    with pytest.raises(
        ValueError, match=r"decide returned shape \(2, 3\), and true_sol has \(3,\)"
    ):
        loss(c, c, c[0], torch.ones(2, 1))


def test_data_that_do_not_fit_are_refused() -> None:
    wrong: Any = [1, 2]
    with pytest.raises(TypeError, match="list lacks feats, costs, sols"):
        examples(wrong)
    c = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"have 1 further params \(known\)"):
        dataset(Examples(c, c, c, (c,)), Fussy())
    with pytest.raises(ValueError, match=r"must have shape \(N, 3\).*it has \(2, 2\)"):
        dataset(Examples(c, c[:, :2], c), Fussy())


def test_without_pyepo_one_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    c = torch.ones(2, 3)
    monkeypatch.setitem(sys.modules, "pyepo.data.dataset", None)
    with pytest.raises(ImportError, match="pip install pyepo"):
        dataset(Examples(c, c, c), Fussy())
