"""The trainings of the bilinear study: equal terms, resumption, and what gradients tell."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foldopt.experiments.bilinear import checks as bilinear_checks
from foldopt.experiments.bilinear import training as bilinear_training
from foldopt.experiments.bilinear.gradients import ERROR, measure, regret_loss
from foldopt.experiments.bilinear.layer import initial_model
from foldopt.experiments.bilinear.plan import (
    ADJOINTS,
    CHECKS,
    GRADIENTS,
    LONGER,
    MORE_ERROR,
    TWO_STAGE,
    Config,
    Model,
    engines,
    folded_name,
    jobs,
    models,
    more_regret,
)
from foldopt.experiments.bilinear.program import best_vertex
from foldopt.experiments.bilinear.study import STUDY
from foldopt.experiments.bilinear.training import Problem, model_seed, train, train_all
from foldopt.experiments.frame import Journal, adjoint_table
from foldopt.learning import Examples, mean_regret

F64 = torch.float64
SMALL = Config(
    problems=1, seeds=2, samples=60, n=4, epochs=1, hidden=8, longer=2, more=1, batch_size=12,
    epsilons=(2.0,), more_epsilons=(2.0,), checked=4, global_epoch=12, time_limit=10.0,
)  # fmt: skip
FOLDED = folded_name(2.0)


def journal_of(folder: pathlib.Path, key: str) -> Journal:
    journal = Journal(folder, key)
    journal.begin()
    return journal


# -- a whole job ----------------------------------------------------------------------------


def test_all_models_of_a_job(tmp_path: pathlib.Path) -> None:
    state = torch.get_rng_state()
    journal = journal_of(tmp_path, "q-0-repetition-0")
    result = STUDY.work(SMALL, "q-0-repetition-0", journal)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(result["models"]) == [model.name for model in models(SMALL)]
    # It announces what it does, one epoch at a time.
    announced = {job.key: job.work for job in jobs(SMALL)}
    assert journal.epochs == announced["q-0-repetition-0"]
    json.dumps(result, allow_nan=False)
    for name, found in result["models"].items():
        assert found["test"] > -1e-12
        assert found["moved"] > 1e-4 or name == folded_name(0.0)
    # ε = 0 has no derivative: nothing moves, and the network stays the untrained one.
    zero = result["models"][folded_name(0.0)]
    assert zero["moved"] < 1e-9
    assert zero["test"] == result["initial weights"]
    for name in (FOLDED, more_regret(2.0)):
        certificates = result["models"][name]["certificates"]
        assert certificates["solved"] == certificates["differentiated"] == 48
        assert certificates["unsolved"] == 0
        assert 0 < certificates["forward"] < 1e-8
    assert "certificates" not in result["models"][TWO_STAGE]


def test_the_regrets_are_those_of_the_predictions(tmp_path: pathlib.Path) -> None:
    problem = Problem.of(SMALL, 0)
    network = initial_model(8, 4, 0)
    found = train(SMALL, Model("some", 1, 0.01), problem, network, seed=0)
    test = problem.test
    with torch.no_grad():
        costs = network(test.features)
    decided = best_vertex(problem.objective, costs)
    expected = mean_regret(problem.objective, decided, test.optimal, test.truth)
    assert found["test"] == pytest.approx(expected)
    assert found["error"] == pytest.approx(float((costs - test.truth).square().mean()))
    mean = train_all(SMALL, 0, 1, journal_of(tmp_path, "job"))["mean costs"]
    ignorant = best_vertex(problem.objective, torch.zeros_like(test.truth))
    assert mean == pytest.approx(mean_regret(problem.objective, ignorant, test.optimal, test.truth))


def test_repetitions_differ_in_weights_alone() -> None:
    seeds = [model_seed(seed, repetition) for seed in range(15) for repetition in range(10)]
    assert len(set(seeds)) == len(seeds)
    assert [model_seed(seed, 0) for seed in range(3)] == [0, 1, 2]


def test_more_epochs_begin_where_the_longer_training_ended(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: dict[str, Tensor] = {}
    ended: dict[str, Tensor] = {}
    real = bilinear_training.train

    def spy(config: Config, model: Model, problem: Problem, network: Any, *rest: Any) -> Any:
        began[model.name] = bilinear_training.weights(network)
        result = real(config, model, problem, network, *rest)
        ended[model.name] = bilinear_training.weights(network)
        return result

    monkeypatch.setattr(bilinear_training, "train", spy)
    train_all(SMALL, 0, 1, journal_of(tmp_path, "job"))
    assert torch.equal(began[TWO_STAGE], began[FOLDED])
    assert torch.equal(began[MORE_ERROR], ended[LONGER])
    assert torch.equal(began[more_regret(2.0)], ended[LONGER])
    assert not torch.equal(began[LONGER], ended[LONGER])


class StopError(Exception):
    """An interruption."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train_all(SMALL, 0, 1, journal_of(tmp_path_factory.mktemp("whole"), "job"))


@pytest.mark.parametrize("after", [1, 3, 6])
def test_an_interrupted_job_goes_on_to_the_same_end(
    after: int, whole: dict[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Journal.epoch

    def interrupted(self: Journal, **metrics: Any) -> None:
        real(self, **metrics)
        if self.epochs == after:
            raise StopError

    folder = tmp_path / "parts"
    journal = journal_of(folder, "job")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", interrupted)
        with pytest.raises(StopError):
            train_all(SMALL, 0, 1, journal)
    trained: list[str] = []
    real_train = bilinear_training.train

    def spy(config: Config, model: Model, *rest: Any) -> Any:
        trained.append(model.name)
        return real_train(config, model, *rest)

    monkeypatch.setattr(bilinear_training, "train", spy)
    assert train_all(SMALL, 0, 1, journal_of(folder, "job")) == whole
    # What was finished is not trained again.
    assert len(trained) < len(whole["models"]) or after == 1


# -- the other jobs -------------------------------------------------------------------------


def test_the_checks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bilinear_checks, "EPSILONS", (0.0, 1.0))
    journal = journal_of(tmp_path, CHECKS)
    found = STUDY.work(SMALL, CHECKS, journal)
    assert journal.epochs == {job.key: job.work for job in jobs(SMALL)}[CHECKS]
    assert {one["engine"] for one in found["agreements"]} == set(engines())
    for one in found["agreements"]:
        assert (one["programs"], one["proved"], one["worse"]) == (4, 4, 0)
        assert one["value"] < 1e-4
    assert found["shares"]["0"] == 0 < found["shares"]["1"]
    assert found["unsmoothed"] == 0
    assert found["epoch"]["examples"] == 12
    assert found["epoch"]["gap"] < 1e-3
    assert found["epoch"]["change"] > 1e-3


def test_the_adjoint_systems(tmp_path: pathlib.Path) -> None:
    found = STUDY.work(SMALL, ADJOINTS, journal_of(tmp_path, ADJOINTS))
    assert list(found) == [FOLDED]
    measured = found[FOLDED]
    assert measured["samples"] + measured["left_out"] == 6
    assert 0 <= measured["median"] <= measured["worst"] < 1
    assert measured["solvers"]["GMRES"]["error"] < 1e-6
    assert len(adjoint_table(found).rows) == len(measured["solvers"])


def test_no_adjoint_systems_where_nothing_moves(tmp_path: pathlib.Path) -> None:
    # With so small an ε every decision is a vertex.
    vertices = dataclasses.replace(SMALL, epsilons=(1e-6,))
    found = STUDY.work(vertices, ADJOINTS, journal_of(tmp_path, ADJOINTS))
    assert found == {}
    assert adjoint_table(found).rows == ()


def test_the_gradients_of_the_losses(tmp_path: pathlib.Path) -> None:
    journal = journal_of(tmp_path, GRADIENTS)
    found = STUDY.work(SMALL, GRADIENTS, journal)
    assert journal.epochs == 2
    assert list(found) == ["initial weights", LONGER]
    for by_loss in found.values():
        error, zero = by_loss[ERROR], by_loss[folded_name(0.0)]
        assert error["samples"] == error["entries"] == 1
        assert error["towards_truth"] == pytest.approx(1)
        assert zero["samples"] == zero["entries"] == zero["signal_to_noise"] == 0
        # The more the program is smoothed, the more costs its gradient reaches.
        assert 0 < by_loss[FOLDED]["entries"] < by_loss[folded_name(16.0)]["entries"]


# -- measuring gradients --------------------------------------------------------------------


class Linear(nn.Module):
    """costs = W features."""

    def __init__(self, W: Tensor) -> None:
        super().__init__()
        self.W = nn.Parameter(W)

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.W.T


def test_signal_and_noise_by_hand() -> None:
    random = torch.Generator().manual_seed(0)
    features, truth = (torch.randn(8, k, generator=random, dtype=F64) for k in (3, 4))
    examples = Examples(features, truth, truth)
    network: Any = Linear(torch.randn(4, 3, generator=random, dtype=F64))

    def error(costs: Tensor, batch: Examples) -> Tensor:
        return 0.5 * (costs - batch.truth).square().sum(-1)

    found = measure(network, error, examples, batch_size=2)
    away = features @ network.W.detach().T - truth
    gradients = torch.stack([(away[i : i + 2].T @ features[i : i + 2]) / 2 for i in (0, 2, 4, 6)])
    noise = gradients.flatten(1).var(0).sum()
    signal = gradients.mean(0).square().sum() - noise / 4
    assert found.signal_to_noise == pytest.approx(float(signal / noise))
    assert (found.samples, found.entries) == (1, 1)
    assert found.towards_truth == pytest.approx(1)

    def first_cost(costs: Tensor, batch: Examples) -> Tensor:
        return torch.where(batch.truth[:, 0] > 0, costs[:, 0], 0 * costs[:, 0])

    part = measure(network, first_cost, examples, batch_size=2)
    share = float((truth[:, 0] > 0).double().mean())
    assert part.samples == pytest.approx(share)
    assert part.entries == pytest.approx(share / 4)


def test_the_mean_of_the_signal_is_that_of_the_gradient() -> None:
    # Without bias: a gradient that is all noise has a signal of 0, on average.
    random = torch.Generator().manual_seed(0)
    network: Any = Linear(torch.zeros(2, 1, dtype=F64))
    ratios = []

    def loss(costs: Tensor, batch: Examples) -> Tensor:
        return (costs * batch.truth).sum(-1)

    for _ in range(400):
        noise = torch.randn(10, 2, generator=random, dtype=F64)
        examples = Examples(torch.ones(10, 1, dtype=F64), noise, noise)
        ratios.append(measure(network, loss, examples, batch_size=1).signal_to_noise)
    # 10 ‖mean‖² is χ² with 2 degrees of freedom, 9 tr S independent of it with 18: the ratio less
    # 1/10 has mean 2/10 · 9/16 − 1/10; with the bias left in it would be 0.1 more.
    assert abs(sum(ratios) / len(ratios) - 0.0125) < 0.03


def test_constants_that_change_no_decision_do_not_count() -> None:
    problem = Problem.of(dataclasses.replace(SMALL, samples=40), 0)
    network: Any = Linear(torch.zeros(8, 10, dtype=F64))
    shift = torch.tensor([3.0] * 4 + [-2.0] * 4, dtype=F64)
    moved = dataclasses.replace(problem.training, truth=problem.training.truth + shift)
    # The gradient is in the differences of costs alone, and so is the way to the truth.
    loss = regret_loss(problem.objective, 50.0)
    found = measure(network, loss, problem.training, 8)
    assert measure(network, loss, moved, 8).towards_truth == pytest.approx(found.towards_truth)
    assert found.towards_truth > 0.9


def test_noise_needs_two_batches() -> None:
    network: Any = Linear(torch.zeros(2, 2, dtype=F64))
    zeros = torch.zeros(5, 2, dtype=F64)
    with pytest.raises(ValueError, match="5 examples make 1 batches of 4"):
        measure(network, lambda costs, _: costs.sum(-1), Examples(zeros, zeros, zeros), 4)
