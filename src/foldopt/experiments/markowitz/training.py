"""Portfolios on real prices: training on regret against training on error.

Each week's portfolio needs the returns to come, which a network predicts. The same network is
trained twice: on the squared error of its prediction, and on the regret of the portfolio that
follows from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foldopt.experiments import market
from foldopt.experiments.frame import Journal, certificates, compare_adjoints
from foldopt.experiments.market import LAGS, Market, split
from foldopt.experiments.markowitz.mean_variance import (
    MeanVariance,
    portfolio_layer,
    portfolio_step,
)
from foldopt.experiments.markowitz.plan import (
    EQUAL_WEIGHTS,
    FOLDED,
    MINIMUM_VARIANCE,
    TRAILING_MEAN,
    TWO_STAGE,
    Config,
    training_key,
)
from foldopt.learning import Epoch, Examples, Training, end_to_end, mean_regret, regret, two_stage

__all__ = ["Problem", "follow_untrained", "measure_adjoints", "train_one"]


class Predictor(nn.Module):
    """Each asset's return from its own past returns, by one network that all assets share."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, 1)
        # Begin by predicting no differences, as one would who has seen no data: the first
        # portfolios are those of minimum variance, and not bets drawn by the initialisation.
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(
            nn.Linear(len(LAGS), hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last
        )

    def forward(self, features: Tensor) -> Tensor:
        """``(B, n, len(LAGS))`` to ``(B, n)``, in percent per holding period."""
        return self.layers(features).squeeze(-1)


@dataclasses.dataclass(frozen=True)
class Problem:
    """The decisions of training, validation and test, with what was best with hindsight.

    Attributes
    ----------
    objective, decide
        Of the mean–variance portfolio.
    parts
        Training, validation and test decisions.
    examples
        The same, to learn from.
    """

    objective: MeanVariance
    decide: Callable[[Tensor, Tensor], Tensor]
    parts: tuple[Market, Market, Market]
    examples: tuple[Examples, Examples, Examples]

    @staticmethod
    def of(config: Config) -> Problem:
        """Read the prices, and solve every decision with hindsight."""
        objective = MeanVariance(config.risk_aversion)
        decide = portfolio_layer(objective)
        prices = market.load_sp500()
        parts = split(market.observe(*prices, holding=config.holding, window=config.window))
        learn, choose, test = (
            Examples(
                part.features,
                part.realised,
                decide(part.realised, part.covariance),
                (part.covariance,),
            )
            for part in parts
        )
        return Problem(objective, decide, parts, (learn, choose, test))

    def decisions(self, model: nn.Module, given: Examples) -> Tensor:
        """The portfolios that a network's predictions lead to."""
        with torch.no_grad():
            return self.decide(model(given.features), *given.known)

    def follow(self, x: Tensor) -> dict[str, Any]:
        """How the test decisions x fare: regrets and realised returns, both in percent."""
        final = self.examples[2]
        cost = regret(self.objective, x, final.optimal, final.truth, *final.known)
        return {"regret": cost.tolist(), "returns": (x * final.truth).sum(-1).tolist()}


def initial_model(config: Config, seed: int) -> Predictor:
    """The network of a seed before training; torch's own random numbers stay where they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Predictor(config.hidden).double()


def train_one(config: Config, loss: str, seed: int, journal: Journal) -> dict[str, Any]:
    """Train one network and follow its decisions through the test years.

    Both losses get the same initial weights, the same batches in the same order, and the same
    choice of the epoch, by validation regret: nothing else differs between them.

    Parameters
    ----------
    config
        The settings.
    loss
        ``TWO_STAGE`` or ``FOLDED``.
    seed
        Of the weights and the batches.
    journal
        Of the job; the trained weights are left beside it.

    Returns
    -------
    dict
        Regrets, returns, the training's history, and the certificates of all its folds.

    Raises
    ------
    FoldError
        If a quadratic program is not solved, or a gradient cannot be trusted.
    ValueError
        If training diverges.
    """
    settings = Training(config.epochs, config.batch_size, config.learning_rate, seed)
    with certificates(journal.certificates) as seen:
        problem = Problem.of(config)
        training, validation, final = problem.examples
        model = initial_model(config, seed)

        def validate() -> float:
            x = problem.decisions(model, validation)
            return mean_regret(
                problem.objective, x, validation.optimal, validation.truth, *validation.known
            )

        def say(epoch: Epoch) -> None:
            journal.epoch(loss=epoch.loss, score=epoch.score)

        if loss == TWO_STAGE:
            history = two_stage(model, training, validate, settings, say, journal.checkpoint)
        else:
            history = end_to_end(
                model, problem.decide, problem.objective, training, validate, settings, say,
                journal.checkpoint,
            )  # fmt: skip
        followed = problem.follow(problem.decisions(model, final))
    torch.save(model.state_dict(), journal.folder / f"{training_key(loss, seed)}.weights.pt")
    return {
        **followed,
        "history": dataclasses.asdict(history),
        "certificates": seen.summary(),
    }


def follow_untrained(config: Config) -> dict[str, Any]:
    """The strategies that need no training, and what was decided when.

    Parameters
    ----------
    config
        The settings.

    Returns
    -------
    dict
        ``"tracks"`` by strategy, ``"assets"``, ``"parts"`` with numbers of decisions and their
        first and last days, and ``"days"`` of the test decisions.
    """
    problem = Problem.of(config)
    test = problem.parts[2]
    nothing = torch.zeros_like(test.realised)
    decided = {
        TRAILING_MEAN: problem.decide(test.trailing_mean, test.covariance),
        MINIMUM_VARIANCE: problem.decide(nothing, test.covariance),
        EQUAL_WEIGHTS: nothing + 1 / nothing.shape[-1],
    }
    return {
        "tracks": {name: problem.follow(x) for name, x in decided.items()},
        "assets": list(test.assets),
        "parts": {
            name: {"decisions": len(part), "from": str(part.days[0]), "to": str(part.days[-1])}
            for name, part in zip(("train", "validate", "test"), problem.parts, strict=True)
        },
        "days": [str(day) for day in test.days],
    }


def measure_adjoints(config: Config, journal: Journal) -> dict[str, Any]:
    """The adjoint systems of one test batch, at what the folded network of seed 0 has learned.

    Parameters
    ----------
    config
        The settings.
    journal
        Of the job, beside which the weights lie.

    Returns
    -------
    dict
        See :func:`~foldopt.experiments.frame.compare_adjoints`.
    """
    problem = Problem.of(config)
    path = journal.folder / f"{training_key(FOLDED, 0)}.weights.pt"
    model = initial_model(config, 0)
    model.load_state_dict(torch.load(path, weights_only=True))
    final = problem.examples[2]
    batch = final.take(torch.arange(min(config.batch_size, len(final))))
    with torch.no_grad():
        predicted = model(batch.features)
    x = problem.decide(predicted, *batch.known).requires_grad_()
    cost = regret(problem.objective, x, batch.optimal, batch.truth, *batch.known)
    (cotangent,) = torch.autograd.grad(cost.mean(), x)
    step = portfolio_step(problem.objective)
    return compare_adjoints(
        step, x.detach(), predicted.requires_grad_(), *batch.known, cotangent=cotangent
    )
