"""Curves of several trainings side by side: by method, over seeds, and how far they are apart."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from foldopt.experiments.multilabel.plan import Config, training_key
from foldopt.experiments.statistics import Interval, mean_interval

__all__ = ["METRICS", "Gap", "curves", "gap", "steps", "summary"]

METRICS = ("train top-1", "train top-5", "test top-1", "test top-5")


def curves(
    config: Config, results: dict[str, Any], logits: str, method: str, metric: str
) -> np.ndarray:
    """One metric over the epochs, 0 being before training.

    Parameters
    ----------
    config
        The settings.
    results
        By job.
    logits, method
        Which trainings.
    metric
        Its name; ``"loss"`` is NaN at epoch 0.

    Returns
    -------
    numpy.ndarray
        Shape (seeds, epochs + 1), or (0, 0) where the method was not trained.
    """
    rows = []
    for seed in config.trained_seeds(method):
        curve = results.get(training_key(logits, method, seed), {}).get("curve")
        if curve:
            values = [entry.get(metric) for entry in curve]
            rows.append([math.nan if value is None else value for value in values])
    return _even(rows)


def steps(config: Config, results: dict[str, Any], logits: str, method: str) -> np.ndarray:
    """The loss of the first gradient steps, shape (seeds, steps), or (0, 0)."""
    rows = [
        results.get(training_key(logits, method, seed), {}).get("steps")
        for seed in config.trained_seeds(method)
    ]
    kept = [row for row in rows if row]
    return _even(kept)


def _even(rows: list[list[float]]) -> np.ndarray:
    """Rows cut to the shortest: a training that diverged has ended early."""
    count = min(map(len, rows), default=0)
    return np.array([row[:count] for row in rows], dtype=float).reshape(len(rows), count)


@dataclasses.dataclass(frozen=True)
class Gap:
    """How far a method's curves are from those of the closed form, same seed and same epoch.

    Attributes
    ----------
    loss
        The largest difference of the loss over the first gradient steps.
    count
        How many of these steps were compared.
    train, test
        The largest difference of the top-1 share over all epochs that both have.
    epochs
        How many these are.
    """

    loss: float
    count: int
    train: float
    test: float
    epochs: int


def gap(
    config: Config, results: dict[str, Any], logits: str, method: str, epochs: int | None = None
) -> Gap | None:
    """See :class:`Gap`, of the first so many epochs; None where the method was not trained."""
    own, exact = (steps(config, results, logits, name) for name in (method, "exact"))
    if not own.size:
        return None
    loss, count = _apart(own, exact)
    found = [
        _apart(
            *(
                curves(config, results, logits, name, metric)[
                    :, : None if epochs is None else epochs + 1
                ]
                for name in (method, "exact")
            )
        )
        for metric in ("train top-1", "test top-1")
    ]
    return Gap(loss, count, found[0][0], found[1][0], found[0][1] - 1)


def _apart(own: np.ndarray, exact: np.ndarray) -> tuple[float, int]:
    """The largest difference on the seeds and times that both have, and how many times."""
    count = min(own.shape[1], exact.shape[1])
    return float(np.abs(own[:, :count] - exact[: len(own), :count]).max()), count


def summary(
    config: Config, results: dict[str, Any], logits: str, method: str, metric: str
) -> Interval | None:
    """A metric after the last epoch, its mean over seeds with the 95 % interval."""
    found = curves(config, results, logits, method, metric)
    return mean_interval(found[:, -1]) if found.size else None
