"""Nonconvex decisions: the costs of a bilinear program, learned on regret and on error.

For each of some matrices Q, one network is trained from the same weights on the squared error of
the costs that it predicts, and on the regret of the decision that follows. The second needs the
derivative of a nonconvex program, which a fold has: it asks for one step that leaves the solution
where it is, not for convexity.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from foldopt.experiments.bilinear.data import draw, split
from foldopt.experiments.bilinear.layer import Predictor, folded_program, initial_model
from foldopt.experiments.bilinear.plan import Config, Model, models
from foldopt.experiments.bilinear.program import Bilinear, Forward, best_vertex, search
from foldopt.experiments.frame import Journal, certificates, merge_certificates
from foldopt.learning import Epoch, Examples, Training, end_to_end, mean_regret, two_stage
from foldopt.learning.regret import Objective

__all__ = ["Problem", "model_seed", "train", "train_all"]

# Repetitions of one Q and neighbouring Q must not share their weights.
_STRIDE = 1000


def model_seed(seed: int, repetition: int) -> int:
    """Of a repetition's initial weights, and of the order of its batches.

    Parameters
    ----------
    seed
        Of Q.
    repetition
        From 0.

    Returns
    -------
    int
        The seed.
    """
    return seed + _STRIDE * repetition


@dataclasses.dataclass(frozen=True)
class Problem:
    """One Q with its examples.

    Parameters
    ----------
    objective
        The program.
    training, validation, test
        See :func:`~foldopt.experiments.bilinear.data.split`.
    """

    objective: Bilinear
    training: Examples
    validation: Examples
    test: Examples

    @classmethod
    def of(cls, config: Config, seed: int) -> Problem:
        """That of a seed."""
        objective, examples = draw(seed, config.samples, config.n)
        return cls(objective, *split(examples))

    def regret(self, costs: Tensor, part: Examples) -> float:
        """The mean regret of the exact decisions for predicted costs, shape ``(B, 2 n)``."""
        decided = best_vertex(self.objective, costs)
        return mean_regret(self.objective, decided, part.optimal, part.truth)


def train(
    config: Config,
    model: Model,
    problem: Problem,
    network: Predictor,
    seed: int,
    journal: Journal | None = None,
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Train a network, in place.

    Every model gets the same batches in the same order, and the same choice of the epoch, by
    validation regret: only the loss differs.

    Parameters
    ----------
    config, model
        What to train, and how.
    problem
        What to train on.
    network
        With its initial weights.
    seed
        Of the order of the batches.
    journal, checkpoint
        Where to write down each epoch, and where to save it; None: nowhere.

    Returns
    -------
    dict
        ``"test"``, ``"validation"``, ``"training"``: mean regrets; ``"error"``: the mean squared
        error on the test; ``"epoch"``, counted from 1, whose weights were kept; ``"loss"``,
        ``"score"`` of each epoch; ``"moved"``, the largest change of a weight; ``"certificates"``
        of a folded model.
    """
    settings = Training(model.epochs, config.batch_size, model.learning_rate, seed)
    before = weights(network)

    def predict(part: Examples) -> Tensor:
        with torch.no_grad():
            return network(part.features)

    def validate() -> float:
        return problem.regret(predict(problem.validation), problem.validation)

    layer, noted, warned = None, [], 0

    def note(epoch: Epoch) -> None:
        told: dict[str, Any] = {"loss": epoch.loss, "validation_regret": epoch.score}
        if layer is not None:
            told["certificates"] = layer.take_summary()
        noted.append(told)
        if journal is not None:
            journal.epoch(model=model.name, **told)

    if model.epsilon is None:
        history = two_stage(network, problem.training, validate, settings, note, checkpoint)
    else:
        layer = folded_program(problem.objective, model.epsilon, cast(Forward, config.solver))
        loss, part = _loss(problem, model)
        with certificates() as seen:
            history = end_to_end(network, layer, loss, part, validate, settings, note, checkpoint)
        warned = seen.summary()["warned"]  # since the last interruption
    if journal is not None:  # it also has the epochs before an interruption
        noted = [line for line in journal.lines() if line.get("model") == model.name]
    kept = [line["certificates"] for line in noted if "certificates" in line]
    parts = {name: getattr(problem, name) for name in ("test", "validation", "training")}
    predicted = predict(problem.test)
    return {
        **{name: problem.regret(predict(part), part) for name, part in parts.items()},
        "error": float((predicted - problem.test.truth).square().mean()),
        "epoch": history.best + 1,
        "loss": list(history.loss),
        "score": list(history.score),
        "moved": float((weights(network) - before).abs().max()),
        **({"certificates": {**merge_certificates(kept), "warned": warned}} if kept else {}),
    }


def weights(network: Predictor) -> Tensor:
    """All weights, as one vector."""
    return torch.cat([weight.detach().reshape(-1).clone() for weight in network.parameters()])


def _loss(problem: Problem, model: Model) -> tuple[Objective, Examples]:
    """What is to be minimised, and the examples with the decisions that are best for it."""
    epsilon, objective = model.epsilon, problem.objective
    assert epsilon is not None
    if not model.smooth_loss or epsilon == 0:
        return objective, problem.training

    def smoothed(z: Tensor, costs: Tensor) -> Tensor:
        return objective.smoothed(z, costs, epsilon)

    best = search(objective, problem.training.truth, epsilon).x
    return smoothed, dataclasses.replace(problem.training, optimal=best)


def train_all(config: Config, seed: int, repetition: int, journal: Journal) -> dict[str, Any]:
    """Train every model on one Q, from one set of weights; goes on where it was interrupted.

    Parameters
    ----------
    config
        The settings.
    seed
        Of Q.
    repetition
        Of the trainings.
    journal
        Of the job.

    Returns
    -------
    dict
        ``"models"``: what :func:`train` gave, by name; ``"mean costs"`` and ``"initial weights"``:
        the test regrets of predicting every cost by its mean, and of the untrained network.
    """
    problem, first = Problem.of(config, seed), model_seed(seed, repetition)
    # The checkpoint of the job holds what is finished, a second file the training in progress.
    current = journal.checkpoint.with_suffix(".training.pt")
    if journal.checkpoint.exists():
        done: dict[str, Any] = torch.load(journal.checkpoint, weights_only=True)
    else:
        done = {}
        current.unlink(missing_ok=True)
        _save(done, journal.checkpoint)
    for model in models(config, repetition):
        if model.name in done:
            continue
        network = initial_model(config.hidden, config.n, first)
        if model.after is not None:
            network.load_state_dict(done[model.after]["weights"])
        result = train(config, model, problem, network, first, journal, current)
        done[model.name] = {"result": result, "weights": network.state_dict()}
        _save(done, journal.checkpoint)
        current.unlink(missing_ok=True)
    untrained = initial_model(config.hidden, config.n, first)
    with torch.no_grad():
        initial = untrained(problem.test.features)
    return {
        "models": {name: entry["result"] for name, entry in done.items()},
        "mean costs": problem.regret(torch.zeros_like(initial), problem.test),
        "initial weights": problem.regret(initial, problem.test),
    }


def _save(done: dict[str, Any], path: Path) -> None:
    """Whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new.pt")
    torch.save(done, fresh)
    os.replace(fresh, path)
