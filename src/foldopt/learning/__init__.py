"""Learning through decisions: regret, and the two ways to train a predictor for a solver."""

from __future__ import annotations

from foldopt.learning.examples import Examples
from foldopt.learning.regret import mean_regret, regret
from foldopt.learning.train import History, Training, end_to_end, two_stage

__all__ = [
    "Examples",
    "History",
    "Training",
    "end_to_end",
    "mean_regret",
    "regret",
    "two_stage",
]
