"""Nonconvex decisions: the costs of a bilinear program, learned on regret and on error.

For each of some matrices Q, one network is trained twice from the same weights: on the squared
error of the costs that it predicts, and on the regret of the decision that follows. The second
needs the derivative of a nonconvex program, which a fold has: it asks for one step that leaves the
solution where it is, not for convexity.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from foldopt.experiments.bilinear.checks import Checks, check
from foldopt.experiments.bilinear.data import draw, split
from foldopt.experiments.bilinear.layer import (
    Folded,
    Predictor,
    folded_program,
    initial_model,
)
from foldopt.experiments.bilinear.program import Bilinear, Forward, best_vertex, search
from foldopt.learning import Examples, History, Training, end_to_end, mean_regret, regret, two_stage
from foldopt.learning.regret import Objective

__all__ = ["Config", "Fold", "Result", "Track", "Trial", "run"]

TWO_STAGE = "two-stage (MSE)"
UNTRAINED = "mean costs"


@dataclasses.dataclass(frozen=True)
class Fold:
    """One folded model: its layer, and the loss that it is trained on.

    Parameters
    ----------
    epsilon
        ε > 0 of the layer's (ε/2)(‖x‖² + ‖y‖²).
    smooth_loss
        Whether the regret of the loss (eq. 36) is that of the program that the layer solves, ε and
        all, or that of the bilinear one. The first is least at the true costs. The second can be
        lowered by larger and larger costs, which drive decisions into vertices, where the
        derivative ends. Test regret is always that of the bilinear program.
    """

    epsilon: float
    smooth_loss: bool = True

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(
                f"Fold: epsilon must be above 0, got {self.epsilon}: without it the derivative "
                "is zero, and nothing is learned (the study shows that case too)"
            )

    @property
    def name(self) -> str:
        """For tables."""
        return f"folded, ε = {self.epsilon:g}" + ("" if self.smooth_loss else ", bilinear loss")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run of this study depends on.

    Parameters
    ----------
    problems
        How many matrices Q. Each comes with examples and initial weights of its own, from seeds
        ``seed``, ``seed`` + 1, …: they are independent, and statistics over them mean something.
    seed
        Of the first.
    samples, n
        See :func:`~foldopt.experiments.bilinear.data.draw`.
    folds
        The folded models, each with its ε and its loss. That ε = 4 and the smooth loss are worth
        showing was seen on seeds 100, 101 and 103, which are none of the default ones.
    solver
        Who solves the layer's program in training: ``"ascent"``, a local search from all vertices,
        or ``"scip"`` or ``"gurobi"``, which prove that they found the optimum.
    epochs, batch_size, learning_rate
        See :class:`~foldopt.learning.Training`.
    hidden
        Width of the network's four hidden layers.
    checked
        How many programs of the first problem are compared with global solvers.
    global_epoch
        How many examples are trained on, for one epoch, by SCIP's answers too.
    time_limit
        Seconds that a global solver gets for a program of the checks.
    """

    problems: int = 15
    seed: int = 0
    samples: int = 1000
    n: int = 10
    folds: tuple[Fold, ...] = (Fold(1.0), Fold(4.0), Fold(1.0, smooth_loss=False))
    solver: Forward = "ascent"
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-2
    hidden: int = 64
    checked: int = 100
    global_epoch: int = 160
    time_limit: float = 20.0

    def __post_init__(self) -> None:
        for name, least in (("problems", 1), ("samples", 20), ("n", 2), ("checked", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"Config: {name} must be at least {least}, got {getattr(self, name)}"
                )
        if not self.folds:
            raise ValueError("Config: folds must name one folded model at least")


@dataclasses.dataclass(frozen=True)
class Track:
    """How one model fared on the test examples of one Q.

    Attributes
    ----------
    regret
        Of each test decision, shape ``(T,)``, scored on the bilinear program itself, at an exact
        optimum for the predicted costs.
    history
        Of its training, if it was trained.
    masked, differentiated
        How many samples had no derivative in training, and were left out, and of how many.
    """

    regret: Tensor
    history: History | None = None
    masked: int = 0
    differentiated: int = 0


@dataclasses.dataclass(frozen=True)
class Trial:
    """What came of one Q.

    Attributes
    ----------
    seed
        Of the problem, its examples and the initial weights.
    tracks
        By model: :data:`TWO_STAGE`, the folded ones, and :data:`UNTRAINED`.
    """

    seed: int
    tracks: dict[str, Track]


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out.

    Attributes
    ----------
    config
        What was run.
    trials
        One a matrix Q.
    checks
        Against global solvers, and without the quadratic term.
    seconds
        Wall-clock time.
    """

    config: Config
    trials: list[Trial]
    checks: Checks
    seconds: float


def run(config: Config, progress: Callable[[str], None] | None = None) -> Result:
    """Train both models for every Q, and check what their decisions rest on.

    Parameters
    ----------
    config
        What to run.
    progress
        Called with a word on what is being done.

    Returns
    -------
    Result
        What came out: the same for the same config.

    Raises
    ------
    ValueError
        If training diverges.
    """
    began = time.perf_counter()
    say = progress or (lambda text: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # over tensors as small as these a second one costs more
    try:
        trials: list[Trial] = []
        checks: Checks | None = None
        for index in range(config.problems):
            seed = config.seed + index
            trial, objective, parts, model = _trial(
                config, seed, lambda text, at=index: say(f"Q {at + 1} of {config.problems}: {text}")
            )
            trials.append(trial)
            if checks is None:
                checks = check(
                    objective,
                    parts,
                    model,
                    lambda: initial_model(config.hidden, config.n, config.seed),
                    _training(config, config.seed),
                    epsilons=tuple(dict.fromkeys(fold.epsilon for fold in config.folds)),
                    checked=config.checked,
                    global_epoch=config.global_epoch,
                    time_limit=config.time_limit,
                    say=say,
                )
    finally:
        torch.set_num_threads(threads)
    assert checks is not None
    return Result(config, trials, checks, time.perf_counter() - began)


def _training(config: Config, seed: int) -> Training:
    return Training(config.epochs, config.batch_size, config.learning_rate, seed)


def _trial(
    config: Config, seed: int, say: Callable[[str], None]
) -> tuple[Trial, Bilinear, tuple[Examples, Examples, Examples], Predictor]:
    """One Q; also the problem, and the first folded model, on which the checks are made."""
    objective, examples = draw(seed, config.samples, config.n)
    training, validation, test = parts = split(examples)
    settings = _training(config, seed)

    def decide(model: nn.Module, part: Examples) -> Tensor:
        with torch.no_grad():
            return best_vertex(objective, model(part.features))

    def follow(z: Tensor, history: History | None = None, layer: Folded | None = None) -> Track:
        cost = regret(objective, z, test.optimal, test.truth)
        counts = (0, 0) if layer is None else (layer.masked, layer.differentiated)
        return Track(cost, history, *counts)

    # Every model gets the same initial weights, the same batches in the same order, and the same
    # choice of the epoch, by validation regret: only the loss differs.
    def train(fold: Fold | None) -> tuple[Predictor, Track]:
        model = initial_model(config.hidden, config.n, seed)

        def validate() -> float:
            z = decide(model, validation)
            return mean_regret(objective, z, validation.optimal, validation.truth)

        if fold is None:
            layer, history = None, two_stage(model, training, validate, settings)
        else:
            layer = folded_program(objective, fold.epsilon, config.solver)
            loss, part = _loss(objective, fold, training)
            history = end_to_end(model, layer, loss, part, validate, settings)
        return model, follow(decide(model, test), history, layer)

    say("two-stage")
    models: list[Predictor] = []
    tracks = {TWO_STAGE: train(None)[1]}
    for fold in config.folds:
        say(fold.name)
        model, tracks[fold.name] = train(fold)
        models.append(model)
    tracks[UNTRAINED] = follow(best_vertex(objective, torch.zeros_like(test.truth)))
    return Trial(seed, tracks), objective, parts, models[0]


def _loss(objective: Bilinear, fold: Fold, training: Examples) -> tuple[Objective, Examples]:
    """What is to be minimised, and the examples with the decisions that are best for it."""
    if not fold.smooth_loss:
        return objective, training

    def smoothed(z: Tensor, costs: Tensor) -> Tensor:
        return objective.smoothed(z, costs, fold.epsilon)

    best = search(objective, training.truth, fold.epsilon).x
    return smoothed, dataclasses.replace(training, optimal=best)
