"""Builders of the update U: each returns a :class:`Step`, ``step(x, *params) -> x``."""

from __future__ import annotations

from foldopt.step import Step
from foldopt.steps.admm_qp import admm_qp
from foldopt.steps.douglas_rachford import douglas_rachford
from foldopt.steps.fdpg import fdpg
from foldopt.steps.gradient import gradient, projected_gradient, proximal_gradient
from foldopt.steps.mirror_descent import mirror_descent
from foldopt.steps.newton import multipliers, newton, newton_kkt
from foldopt.steps.sqp import sqp

__all__ = [
    "Step",
    "admm_qp",
    "douglas_rachford",
    "fdpg",
    "gradient",
    "mirror_descent",
    "multipliers",
    "newton",
    "newton_kkt",
    "projected_gradient",
    "proximal_gradient",
    "sqp",
]
