"""The predictor of returns, and the ways to train it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foldopt.experiments.frame import Journal, certificates
from foldopt.experiments.portfolio.data import Instances, chronological, sp500, synthetic
from foldopt.experiments.portfolio.engines import engine_of
from foldopt.experiments.portfolio.layers import (
    ConeLayer,
    folded_portfolio,
    minus_return,
)
from foldopt.experiments.portfolio.plan import (
    CONES,
    SCALED_CONES,
    SPO,
    TWO_STAGE,
    Config,
    Spec,
    Task,
)
from foldopt.learning import Epoch, Examples, History, Training, regret
from foldopt.learning import fit as minimise
from foldopt.nn._portfolio.interior_points import solve

__all__ = [
    "Predictor",
    "decide",
    "examples_of",
    "fit",
    "loss_of",
    "method_of",
    "model_of",
    "parts_of",
    "relative_regret",
    "risks",
    "spo_plus",
    "train_one",
]

SCALE = 1e6  # what cvxpylayers' V and γ are multiplied by where they are scaled


class Predictor(nn.Module):
    """Five linear layers with ReLU between them, in units of the training returns.

    Parameters
    ----------
    inputs, outputs, hidden
        Widths.
    returns
        Those of training: their mean and deviation are where predictions begin.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, returns: Tensor) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * 4]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, outputs))
        self.register_buffer("mean", returns.mean())
        self.register_buffer("deviation", returns.std())

    def forward(self, features: Tensor) -> Tensor:
        """``(B, p)`` to ``(B, n)``; ``(B, n, p)`` asset by asset, with the same weights."""
        found = self.layers(features)
        found = found.squeeze(-1) if features.dim() == 3 else found
        return self.mean + self.deviation * found


def parts_of(config: Config, task: Task, seed: int) -> tuple[Instances, ...]:
    """Training, validation and test."""
    if not task.degree:
        return chronological(sp500(risk=config.sp500_risk))
    first, second = config.train, config.train + config.validation
    data = synthetic(
        second + config.test, degree=task.degree, noise=task.noise, assets=config.assets, seed=seed
    )
    return data.between(0, first), data.between(first, second), data.between(second, len(data))


def decide(c: Tensor, covariance: Tensor, risk: Tensor) -> Tensor:
    """The exact portfolio for predicted returns: every model's decision is scored by it."""
    return solve(c, covariance, risk).x.x


def examples_of(part: Instances) -> Examples:
    """With hindsight's decisions, from which regret is measured."""
    known = (part.covariance, part.risk)
    return Examples(part.features, part.returns, decide(part.returns, *known), known)


def spo_plus(prediction: Tensor, batch: Examples) -> Tensor:
    r"""The SPO+ loss, whose subgradient is 2 (x*(2ĉ − c) − x*(c)).

    For a maximised program, :math:`\max_x (2\hat c - c)^\top x - (2\hat c - c)^\top x^\star(c)`: an
    upper bound of the regret, convex in ĉ. With the maximiser held fixed, autograd finds the
    subgradient (Danskin).

    Parameters
    ----------
    prediction
        ĉ, shape ``(B, n)``.
    batch
        The examples that it was made for.

    Returns
    -------
    Tensor
        Shape ``(B,)``.

    References
    ----------
    A. Elmachtoub and P. Grigas, Management Science 68 (2022), 9–26, section 4.
    """
    mirrored = 2 * prediction - batch.truth
    return (mirrored * (decide(mirrored.detach(), *batch.known) - batch.optimal)).sum(-1)


def model_of(config: Config, training: Instances, seed: int) -> Predictor:
    """The same initial weights for every method."""
    each = training.features.dim() == 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Predictor(
            training.features.shape[-1],
            1 if each else training.returns.shape[-1],
            config.hidden,
            training.returns,
        ).double()


def relative_regret(x: Tensor, examples: Examples) -> float:
    """Regret in percent of the best return that there was, both summed over the decisions."""
    lost = regret(minus_return, x, examples.optimal, examples.truth)
    return float(100 * lost.sum() / (examples.optimal * examples.truth).sum())


def fit(
    config: Config,
    parts: tuple[Examples, ...],
    model: Predictor,
    loss: Callable[[Examples], Tensor],
    epochs: int,
    seed: int,
    journal: Journal,
) -> History:
    """One loop for all methods: the same batches, and the epoch chosen by validation regret."""
    learn, choose = parts[:2]

    def validate() -> float:
        with torch.no_grad():
            return relative_regret(decide(model(choose.features), *choose.known), choose)

    def on_epoch(epoch: Epoch) -> None:
        journal.epoch(loss=epoch.loss, regret=epoch.score)

    settings = Training(epochs, config.batch_size, config.learning_rate, seed)
    return minimise(
        model, loss, learn, validate, settings, on_epoch=on_epoch, checkpoint=journal.checkpoint
    )


def loss_of(
    model: Predictor, method: str, layer: Callable[..., Tensor] | None
) -> Callable[[Examples], Tensor]:
    def loss(batch: Examples) -> Tensor:
        prediction = model(batch.features)
        if method == TWO_STAGE:
            return (prediction - batch.truth).square().mean()
        if method == SPO:
            return spo_plus(prediction, batch).mean()
        assert layer is not None
        x = layer(prediction, *batch.known)
        return regret(minus_return, x, batch.optimal, batch.truth).mean()

    return loss


def method_of(task: Task) -> Literal["sqp", "newton"]:
    """Real stocks may be less risky than γ: then the risk does not bind everywhere."""
    return "sqp" if task.degree else "newton"


def train_one(config: Config, spec: Spec, journal: Journal) -> dict[str, Any]:
    """Train by one method, and score the decisions on the test data.

    Parameters
    ----------
    config, spec, journal
        As for a job of the study.

    Returns
    -------
    dict
        ``"regret"`` in percent of the best return, ``"return"`` a decision, ``"validation"`` by
        epoch, ``"seconds"``; of a fold its ``"certificates"``; of cvxpylayers ``"own"``: its own
        decisions' regret and risk, and the batches that its solver refused.
    """
    data = parts_of(config, spec.task, spec.seed)
    parts = tuple(map(examples_of, data))
    model = model_of(config, data[0], spec.seed)
    cones = None
    layer: Callable[..., Tensor] | None = None
    if spec.method in (CONES, SCALED_CONES):
        scale = SCALE if spec.method == SCALED_CONES else 1.0
        layer = cones = ConeLayer(data[0].covariance[0], float(data[0].risk[0]), scale)
    elif spec.method not in (TWO_STAGE, SPO):
        layer = folded_portfolio(engine_of(config.solver), method_of(spec.task))
    with certificates(journal.certificates) as seen:
        history = fit(
            config,
            parts,
            model,
            loss_of(model, spec.method, layer),
            config.epochs,
            spec.seed,
            journal,
        )
    test = parts[2]
    with torch.no_grad():
        prediction = model(test.features)
    x = decide(prediction, *test.known)
    result: dict[str, Any] = {
        "regret": relative_regret(x, test),
        "return": float((x * test.truth).sum(-1).mean()),
        "best_return": float((test.optimal * test.truth).sum(-1).mean()),
        "validation": history.score,
        "best": history.best,
        "seconds": history.seconds,
        "risk_binds": float((risks(x, test) > 1 - 1e-9).double().mean()),
    }
    if cones is not None:
        own = test.take(torch.arange(min(256, len(test))))
        y = cones(prediction[: len(own)].detach()).detach()
        result["own"] = {
            "regret": relative_regret(y, own),
            "exact": relative_regret(x[: len(own)], own),
            "risk": float(risks(y, own).max()),
            "refused": cones.refused,
        }
    elif layer is not None:
        result["certificates"] = seen.summary()
    return result


def risks(x: Tensor, examples: Examples) -> Tensor:
    """xᵀVx / γ."""
    V, gamma = examples.known
    return torch.einsum("bi,bij,bj->b", x, V, x) / gamma
