"""Portfolios on real prices: training on regret against training on error.

Each week's portfolio needs the returns to come, which a network predicts. The same network is
trained twice: on the squared error of its prediction, and on the regret of the portfolio that
follows from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from foldopt.experiments.market import LAGS, Market, split
from foldopt.experiments.markowitz.mean_variance import MeanVariance, portfolio_layer
from foldopt.learning import Examples, History, Training, end_to_end, mean_regret, regret, two_stage
from foldopt.status import record

__all__ = ["Config", "Result", "Track", "run", "workload"]

TWO_STAGE = "two-stage (MSE)"
FOLDED = "folded (regret)"
TRAILING_MEAN = "trailing mean"
MINIMUM_VARIANCE = "minimum variance"
EQUAL_WEIGHTS = "equal weights"


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run of this study depends on, besides the prices.

    Parameters
    ----------
    seeds
        How many times each network is trained: from seeds 0, 1, 2, …
    epochs, batch_size, learning_rate
        See :class:`~foldopt.learning.Training`.
    hidden
        Width of the network's two hidden layers.
    risk_aversion
        γ for returns in percent. It is 1/100 of the γ for returns as fractions, because a variance
        grows by 100² where a return grows by 100: 0.05 is the common γ = 5.
    holding, window
        See :func:`~foldopt.experiments.market.observe`.
    """

    seeds: int = 8
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-3
    hidden: int = 32
    risk_aversion: float = 0.05
    holding: int = 5
    window: int = 250

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"Config: seeds must be at least 1, got {self.seeds}")


@dataclasses.dataclass(frozen=True)
class Track:
    """How one strategy fared on the test decisions.

    Attributes
    ----------
    regret
        Of each decision, in percent of wealth, shape ``(T,)``.
    returns
        The portfolio's realised returns in percent, shape ``(T,)``.
    history
        Of its training, if it was trained.
    """

    regret: Tensor
    returns: Tensor
    history: History | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out.

    Attributes
    ----------
    config
        What was run.
    parts
        Training, validation and test decisions.
    tracks
        By strategy: one track a seed, or a single one if it is not trained.
    problems
        How many quadratic programs the folded layer has solved.
    residual
        The largest fixed-point residual ‖U(x*) − x*‖ / (1 + ‖x*‖) among them.
    seconds
        Wall-clock time.
    """

    config: Config
    parts: tuple[Market, Market, Market]
    tracks: dict[str, list[Track]]
    problems: int
    residual: float
    seconds: float


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


def workload(config: Config, market: Market) -> int:
    """How many quadratic programs the training of :func:`run` will solve, for a progress bar."""
    learn, choose, _ = split(market)
    return config.seeds * config.epochs * (len(learn) + 2 * len(choose))


def run(config: Config, market: Market, advance: Callable[[int], None] | None = None) -> Result:
    """Train every network of the study and follow its decisions through the test years.

    Parameters
    ----------
    config
        What to run.
    market
        All decisions, to be cut in time into training, validation and test.
    advance
        Called after each epoch with the number of quadratic programs that it has solved; they add
        up to :func:`workload`.

    Returns
    -------
    Result
        What came out: the same for the same config and market, on any number of cores, up to what
        another processor's rounding makes of it in training.

    Raises
    ------
    FoldError
        If a quadratic program is not solved, or a gradient cannot be trusted.
    ValueError
        If training diverges, or a number of the config is out of its range.
    """
    began = time.perf_counter()
    with record() as seen, _one_thread():
        tracks, parts = _run(config, market, advance or (lambda solved: None))
    forward = [event for event in seen if event.kind == "forward"]
    return Result(
        config,
        parts,
        tracks,
        problems=sum(event.status.numel() for event in forward),
        residual=max(float(event.residual.max()) for event in forward),
        seconds=time.perf_counter() - began,
    )


def _run(
    config: Config, market: Market, advance: Callable[[int], None]
) -> tuple[dict[str, list[Track]], tuple[Market, Market, Market]]:
    objective = MeanVariance(config.risk_aversion)
    decide = portfolio_layer(objective)
    learn, choose, test = parts = split(market)

    def examples(part: Market) -> Examples:
        # The decisions with hindsight, from which regret is measured.
        optimal = decide(part.realised, part.covariance)
        return Examples(part.features, part.realised, optimal, (part.covariance,))

    training, validation, final = map(examples, parts)

    def decisions(model: nn.Module, given: Examples) -> Tensor:
        with torch.no_grad():
            return decide(model(given.features), *given.known)

    def follow(x: Tensor, history: History | None = None) -> Track:
        cost = regret(objective, x, final.optimal, final.truth, *final.known)
        return Track(cost, (x * final.truth).sum(-1), history)

    def train(loss: str, seed: int) -> Track:
        # Both losses get the same initial weights, the same batches in the same order, and the
        # same choice of the epoch, by validation regret: nothing else differs between them.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Predictor(config.hidden).double()
        settings = Training(config.epochs, config.batch_size, config.learning_rate, seed)

        def validate() -> float:
            x = decisions(model, validation)
            return mean_regret(
                objective, x, validation.optimal, validation.truth, *validation.known
            )

        if loss == TWO_STAGE:
            history = two_stage(model, training, validate, settings, lambda: advance(len(choose)))
        else:
            solved = len(learn) + len(choose)
            history = end_to_end(
                model, decide, objective, training, validate, settings, lambda: advance(solved)
            )
        return follow(decisions(model, final), history)

    tracks: dict[str, list[Track]] = {TWO_STAGE: [], FOLDED: []}
    for seed in range(config.seeds):
        for loss, found in tracks.items():
            found.append(train(loss, seed))
    nothing = torch.zeros_like(final.truth)
    tracks[TRAILING_MEAN] = [follow(decide(test.trailing_mean, test.covariance))]
    tracks[MINIMUM_VARIANCE] = [follow(decide(nothing, test.covariance))]
    tracks[EQUAL_WEIGHTS] = [follow(nothing + 1 / nothing.shape[-1])]
    return tracks, (learn, choose, test)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run PyTorch on one thread.

    The matrices are small: on two threads this study takes longer, six times as long on a busy
    machine. And sums then come out the same whatever the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
