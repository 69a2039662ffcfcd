"""What the trainings of the bilinear study gave, by model, Q and repetition."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from foldopt.experiments.bilinear.plan import Config, models, training_key
from foldopt.experiments.frame import merge_certificates
from foldopt.experiments.statistics import Interval, mean_interval

__all__ = ["Outcome"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of all training jobs of a run.

    Attributes
    ----------
    config
        What was run.
    results
        What :func:`~foldopt.experiments.bilinear.training.train_all` gave, by job key.
    """

    config: Config
    results: dict[str, Any]

    @property
    def seeds(self) -> range:
        """Of the Q."""
        return range(self.config.seed, self.config.seed + self.config.problems)

    def regret(self, name: str) -> np.ndarray:
        """Mean test regrets of a model, shape ``(Q, repetitions)``; ablations have only one."""
        return self._table(lambda result: result["models"][name]["test"], self._repetitions(name))

    def measure(self, name: str, what: str) -> np.ndarray:
        """Another number of a model, in the same shape."""
        return self._table(lambda result: result["models"][name][what], self._repetitions(name))

    def untrained(self, name: str) -> np.ndarray:
        """The regrets of ``"mean costs"`` or of the ``"initial weights"``, in the same shape."""
        return self._table(lambda result: result[name], self.config.seeds)

    def saved(self, reference: str, name: str) -> np.ndarray:
        """By how much a model's regret is below another's: the same Q, weights and batches."""
        first, second = self.regret(reference), self.regret(name)
        both = min(first.shape[1], second.shape[1])
        return first[:, :both] - second[:, :both]

    def saved_overall(self, reference: str, name: str) -> Interval:
        """The same, over all Q: these are independent, repetitions on one Q are not."""
        return mean_interval(self.saved(reference, name).mean(1))

    def overall(self, name: str) -> Interval:
        """The mean regret over all Q."""
        return mean_interval(self.regret(name).mean(1))

    def counts(self, reference: str, name: str) -> tuple[int, int, int]:
        """On how many Q a model's mean is lower, and lower or higher by more than its interval."""
        by_problem = self.saved(reference, name)
        intervals = [mean_interval(row) for row in by_problem]
        lower = sum(interval.mean > 0 for interval in intervals)
        wins = sum(interval.mean > 0 and interval.excludes_zero for interval in intervals)
        losses = sum(interval.mean < 0 and interval.excludes_zero for interval in intervals)
        return lower, wins, losses

    def certificates(self, name: str) -> dict[str, Any]:
        """Of all trainings of a folded model together."""
        return merge_certificates(
            [
                result["models"][name]["certificates"]
                for result in self._all(self._repetitions(name))
            ]
        )

    def _repetitions(self, name: str) -> int:
        usual = {model.name for model in models(self.config, repetition=1)}
        return self.config.seeds if name in usual else 1

    def _all(self, repetitions: int) -> list[dict[str, Any]]:
        return [
            self.results[training_key(seed, repetition)]
            for seed in self.seeds
            for repetition in range(repetitions)
        ]

    def _table(self, take: Any, repetitions: int) -> np.ndarray:
        values = [float(take(result)) for result in self._all(repetitions)]
        return np.array(values).reshape(len(self.seeds), repetitions)
