"""What the jobs of the study on real prices gave, by strategy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from foldopt.experiments.frame import merge_certificates
from foldopt.experiments.markowitz.plan import (
    FOLDED,
    TWO_STAGE,
    UNTRAINED,
    Config,
    training_key,
)
from foldopt.experiments.statistics import annual_sharpe
from foldopt.learning import History

__all__ = ["Result", "Track", "gathered"]

TRADING_DAYS = 252


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

    regret: np.ndarray
    returns: np.ndarray
    history: History | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out.

    Attributes
    ----------
    config
        What was run.
    assets
        Their names.
    parts
        ``"train"``, ``"validate"`` and ``"test"``: ``"decisions"``, ``"from"`` and ``"to"``.
    days
        Of the test decisions, ``datetime64``, shape ``(T,)``.
    tracks
        By strategy: one track a seed, or a single one if it is not trained.
    certificates
        Of all trainings together, by strategy.
    """

    config: Config
    assets: tuple[str, ...]
    parts: dict[str, dict[str, Any]]
    days: np.ndarray
    tracks: dict[str, list[Track]]
    certificates: dict[str, dict[str, Any]]

    @property
    def periods_a_year(self) -> float:
        """How many decisions there are in a year."""
        return TRADING_DAYS / self.config.holding

    def sharpes(self, name: str) -> np.ndarray:
        """The test Sharpe ratio of each seed, shape ``(seeds,)``."""
        per_year = self.periods_a_year
        return np.array([annual_sharpe(track.returns, per_year) for track in self.tracks[name]])

    def regrets(self, name: str) -> np.ndarray:
        """The regret of each test decision in each seed, shape ``(seeds, T)``."""
        return np.stack([track.regret for track in self.tracks[name]])

    def returns(self, name: str) -> np.ndarray:
        """The return of each test decision in each seed, shape ``(seeds, T)``."""
        return np.stack([track.returns for track in self.tracks[name]])


def gathered(config: Config, results: dict[str, Any]) -> Result:
    """The results of all jobs as one.

    Parameters
    ----------
    config
        The settings.
    results
        What the jobs returned, by key.

    Returns
    -------
    Result
        The same, by strategy; the trained ones first.
    """
    untrained = results[UNTRAINED]
    trained = {
        loss: [results[training_key(loss, seed)] for seed in range(config.seeds)]
        for loss in (TWO_STAGE, FOLDED)
    }
    tracks = {loss: [_track(one) for one in found] for loss, found in trained.items()}
    tracks |= {name: [_track(one)] for name, one in untrained["tracks"].items()}
    return Result(
        config,
        tuple(untrained["assets"]),
        untrained["parts"],
        np.array(untrained["days"], dtype="datetime64[D]"),
        tracks,
        {
            loss: merge_certificates([one["certificates"] for one in found])
            for loss, found in trained.items()
        },
    )


def _track(found: dict[str, Any]) -> Track:
    history = found.get("history")
    if history is not None:
        lists = {name: tuple(history[name]) for name in ("loss", "score")}
        history = History(**{**history, **lists})
    return Track(np.array(found["regret"]), np.array(found["returns"]), history)
