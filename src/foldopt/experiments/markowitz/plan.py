"""What a run of the study on real prices depends on, and its jobs."""

from __future__ import annotations

import dataclasses

from foldopt.experiments.frame import option

__all__ = [
    "ADJOINTS",
    "EQUAL_WEIGHTS",
    "FOLDED",
    "MINIMUM_VARIANCE",
    "SHORT",
    "TRAILING_MEAN",
    "TWO_STAGE",
    "UNTRAINED",
    "Config",
    "training_key",
]

TWO_STAGE = "two-stage (MSE)"
FOLDED = "folded (regret)"
TRAILING_MEAN = "trailing mean"
MINIMUM_VARIANCE = "minimum variance"
EQUAL_WEIGHTS = "equal weights"

UNTRAINED, ADJOINTS = "untrained", "adjoints"  # jobs beside the trainings
SHORT = {TWO_STAGE: "two-stage", FOLDED: "folded"}


def training_key(loss: str, seed: int) -> str:
    """Of the job that trains one network.

    Examples
    --------
    >>> training_key(FOLDED, 3)
    'folded-seed-3'
    """
    return f"{SHORT[loss]}-seed-{seed}"


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

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    seeds: int = option(8, "Trainings of each network.", quick=2)
    epochs: int = option(30, "Passes over the training data.", quick=3)
    batch_size: int = option(64, "Decisions a gradient step.")
    learning_rate: float = option(1e-3, "Of Adam.")
    hidden: int = option(32, "Width of the hidden layers.")
    risk_aversion: float = option(0.05, "γ, for returns in percent.")
    holding: int = option(5, "Trading days from one decision to the next.")
    window: int = option(250, "Trading days that covariances are taken over.")

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "batch_size", "hidden", "holding", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"Config: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "risk_aversion"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Config: {name} must be above 0, got {getattr(self, name)}")
