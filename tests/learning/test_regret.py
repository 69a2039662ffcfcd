"""Regret, and training on it: against closed forms, finite differences and by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foldopt as fo
from foldopt.learning import (
    Epoch,
    Examples,
    Training,
    end_to_end,
    mean_regret,
    regret,
    two_stage,
)

F64 = torch.float64


def distance(x: Tensor, c: Tensor) -> Tensor:
    """f(x, c) = ½‖x − c‖²: over the simplex, its minimiser is the projection of c."""
    return 0.5 * (x - c).square().sum(-1)


def weighted(x: Tensor, c: Tensor, weight: Tensor) -> Tensor:
    return weight * distance(x, c)


project = fo.projections.simplex
decide = fo.folded(fo.steps.projected_gradient(distance, project, 0.5))(project)


def problems(count: int = 40, n: int = 3) -> Examples:
    """Features of which the truth is no linear function."""
    features = torch.randn(count, 2, dtype=F64)
    truth = torch.stack([features[:, 0], features[:, 1] ** 2, features.prod(-1)], -1)[:, :n]
    return Examples(features, truth, project(truth))


EXAMPLES = problems()


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(2, 3, dtype=F64)


def score(model: nn.Module, data: Examples) -> Callable[[], float]:
    def validate() -> float:
        with torch.no_grad():
            x = decide(model(data.features))
        return mean_regret(distance, x, data.optimal, data.truth)

    return validate


def test_regret_is_never_negative_and_zero_at_the_truth() -> None:
    truth = torch.randn(200, 5, dtype=F64)
    best = project(truth)
    assert regret(distance, best, best, truth).eq(0).all()
    for x in (project(torch.randn(200, 5, dtype=F64)), project(truth + 1e-3)):
        assert regret(distance, x, best, truth).min() >= -1e-15


def test_regret_by_hand() -> None:
    truth, weight = torch.tensor([[2.0, 0.0]]), torch.tensor([3.0])
    x, best = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    found = regret(weighted, x, best, truth, weight)
    assert found.tolist() == [3 * (2.5 - 0.5)]
    assert mean_regret(weighted, x, best, truth, weight) == 6.0


def test_mean_regret_records_no_graph_and_regret_does() -> None:
    x = torch.full((1, 2), 0.5, requires_grad=True)
    best, truth = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert regret(distance, x, best, truth).requires_grad
    assert isinstance(mean_regret(distance, x, best, truth), float)


def test_regret_refuses_shapes_that_would_broadcast() -> None:
    x, truth = torch.zeros(4, 2), torch.zeros(4, 2)
    with pytest.raises(ValueError, match="one optimal decision for each x"):
        regret(distance, x, torch.zeros(2), truth)
    with pytest.raises(ValueError, match="one value for each sample"):
        regret(lambda x, c: distance(x, c).sum(), x, x, truth)
    with pytest.raises(ValueError, match="no samples"):
        mean_regret(distance, x[:0], x[:0], truth[:0])


def test_examples_must_agree_in_number() -> None:
    three, four = torch.zeros(3, 1), torch.zeros(4, 1)
    with pytest.raises(ValueError, match=r"\[4, 3, 4\]"):
        Examples(four, three, four)
    with pytest.raises(ValueError, match=r"\[4, 4, 4, 3\]"):
        Examples(four, four, four, (three,))
    with pytest.raises(ValueError, match="at least one"):
        Examples(four[:0], four[:0], four[:0])


def test_taking_examples_takes_the_known_params_too() -> None:
    rows = torch.arange(4.0).unsqueeze(-1)
    taken = Examples(rows, rows, rows, (10 * rows,)).take(torch.tensor([2, 0]))
    assert taken.features.flatten().tolist() == [2, 0]
    assert taken.known[0].flatten().tolist() == [20, 0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    ],
)
def test_training_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**wrong)


def test_two_stage_finds_least_squares() -> None:
    data, model = problems(), linear()
    two_stage(model, data, lambda: 0.0, Training(epochs=1))  # the first of equal scores is kept
    design = torch.cat([data.features, torch.ones(len(data), 1, dtype=F64)], -1)
    expected = torch.linalg.lstsq(design, data.truth).solution
    history = two_stage(
        model,
        data,
        lambda: (model(data.features) - data.truth).square().mean().item(),
        Training(epochs=800, batch_size=40, learning_rate=0.02),
    )
    assert torch.allclose(model.weight, expected[:2].T, atol=1e-4)
    assert torch.allclose(model.bias, expected[2], atol=1e-4)
    error = (design @ expected - data.truth).square().mean()
    assert history.score[history.best] == pytest.approx(float(error), rel=1e-6)


def test_end_to_end_follows_the_gradient_of_regret() -> None:
    """Adam's first step moves every weight by the learning rate against its gradient's sign."""
    data, model = problems(), linear()
    before = model.weight.detach().clone()
    slopes, h = torch.zeros_like(before), 1e-6
    for i in range(before.shape[0]):
        for j in range(before.shape[1]):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    model.weight.copy_(before)
                    model.weight[i, j] += sign * h
                values.append(score(model, data)())
            slopes[i, j] = (values[0] - values[1]) / (2 * h)
    with torch.no_grad():
        model.weight.copy_(before)
    end_to_end(
        model, decide, distance, data, lambda: 0.0, Training(1, batch_size=40, learning_rate=0.01)
    )
    assert slopes.abs().min() > 1e-4  # so that no sign is in doubt
    assert torch.allclose(model.weight, before - 0.01 * slopes.sign(), atol=1e-6)


def test_regret_trains_better_decisions_where_the_model_cannot_be_right() -> None:
    """A line fitted to z⁶ − 0.1 in the mean changes sign at 0.43, and the truth at 0.68."""

    def value(x: Tensor, c: Tensor) -> Tensor:
        return 0.05 * x.square().sum(-1) - (c * x).sum(-1)

    def best(c: Tensor) -> Tensor:
        return project(10 * c)

    choose = fo.folded(fo.steps.projected_gradient(value, project, 1.0))(best)
    z = torch.linspace(0, 1, 60, dtype=F64).unsqueeze(-1)
    truth = torch.cat([z**6 - 0.1, torch.zeros_like(z)], -1)
    data = Examples(z, truth, best(truth))

    def cost(model: nn.Module) -> float:
        with torch.no_grad():
            return mean_regret(value, best(model(z)), data.optimal, truth)

    def fresh() -> nn.Module:
        model = nn.Linear(1, 2, dtype=F64)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        return model

    blind, seeing = fresh(), fresh()
    training = Training(epochs=150, batch_size=60, learning_rate=0.02)
    two_stage(blind, data, lambda: cost(blind), training)
    end_to_end(seeing, choose, value, data, lambda: cost(seeing), training)
    assert cost(seeing) < 0.1 * cost(blind)


def test_known_params_reach_the_solver_and_the_objective() -> None:
    seen: list[float] = []

    def solver(c: Tensor, weight: Tensor) -> Tensor:
        seen.extend(weight.tolist())
        return project(c)

    step = fo.steps.projected_gradient(weighted, project, 0.1)
    data = problems(6)
    data = dataclasses.replace(data, known=(torch.arange(1.0, 7.0, dtype=F64),))
    history = end_to_end(
        linear(), fo.folded(step)(solver), weighted, data, lambda: 0.0, Training(epochs=1)
    )
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]
    model = linear()
    loss = regret(weighted, project(model(data.features)), data.optimal, data.truth, *data.known)
    assert history.loss[0] == pytest.approx(loss.mean().item(), rel=1e-12)


@pytest.mark.parametrize("end", [False, True])
def test_the_best_epoch_is_kept(end: bool) -> None:
    data, model = problems(), linear()
    scores = iter([3.0, 1.0, 2.0])
    states: list[Tensor] = []

    def validate() -> float:
        assert not model.training
        states.append(model.weight.detach().clone())
        return next(scores)

    seen: list[Epoch] = []
    training = Training(epochs=3, learning_rate=0.1)
    if end:
        history = end_to_end(model, decide, distance, data, validate, training, seen.append)
    else:
        history = two_stage(model, data, validate, training, seen.append)
    assert history.best == 1
    assert history.score == (3.0, 1.0, 2.0)
    assert [epoch.index for epoch in seen] == [0, 1, 2]
    assert tuple(epoch.loss for epoch in seen) == history.loss
    assert tuple(epoch.score for epoch in seen) == history.score
    assert torch.equal(model.weight, states[1])
    assert not torch.equal(states[1], states[2])


def test_training_depends_on_its_seed_and_on_nothing_else() -> None:
    def weights(seed: int) -> Tensor:
        data, model = EXAMPLES, linear()
        torch.manual_seed(seed + 17)  # other draws must not matter
        state = torch.get_rng_state()
        two_stage(model, data, lambda: 0.0, Training(2, batch_size=4, seed=seed % 2))
        assert torch.equal(torch.get_rng_state(), state)
        return model.weight.detach()

    assert torch.equal(weights(0), weights(2))
    assert not torch.equal(weights(0), weights(1))


def test_training_that_diverges_says_so() -> None:
    data = dataclasses.replace(EXAMPLES, truth=torch.full_like(EXAMPLES.truth, torch.nan))
    with pytest.raises(ValueError, match="training loss is nan in epoch 1"):
        two_stage(linear(), data, lambda: 0.0, Training(epochs=1))
    with pytest.raises(ValueError, match="validation score is inf in epoch 1"):
        two_stage(linear(), EXAMPLES, lambda: float("inf"), Training(epochs=1))


def test_a_prediction_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"predicted shape \(32, 1\).*\(32, 3\)"):
        two_stage(nn.Linear(2, 1, dtype=F64), EXAMPLES, lambda: 0.0, Training())


def test_a_failed_solver_stops_training() -> None:
    def solver(c: Tensor) -> fo.Solution:
        return fo.Solution(project(c), torch.full((len(c),), int(fo.Status.INFEASIBLE)))

    step = fo.steps.projected_gradient(distance, project, 0.5)
    with pytest.raises(fo.FoldError, match="INFEASIBLE"):
        end_to_end(
            linear(), fo.folded(step)(solver), distance, EXAMPLES, lambda: 0.0, Training(epochs=1)
        )
