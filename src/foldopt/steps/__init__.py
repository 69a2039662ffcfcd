"""Builders of the update U: each returns a :class:`Step`, ``step(x, *params) -> x``."""

from __future__ import annotations

from foldopt.step import Step
from foldopt.steps.gradient import gradient, projected_gradient, proximal_gradient

__all__ = ["Step", "gradient", "projected_gradient", "proximal_gradient"]
