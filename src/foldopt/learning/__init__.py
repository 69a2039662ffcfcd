"""Learning through decisions: regret, and the two ways to train a predictor for a solver."""

from __future__ import annotations

from foldopt.learning import pyepo
from foldopt.learning.compare import Comparison, Trained, compare
from foldopt.learning.examples import Examples
from foldopt.learning.loop import Epoch, History, Training, fit
from foldopt.learning.methods import end_to_end, two_stage
from foldopt.learning.regret import mean_regret, regret
from foldopt.learning.training import train

__all__ = [
    "Comparison",
    "Epoch",
    "Examples",
    "History",
    "Trained",
    "Training",
    "compare",
    "end_to_end",
    "fit",
    "mean_regret",
    "pyepo",
    "regret",
    "train",
    "two_stage",
]
