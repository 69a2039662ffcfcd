"""What an engine of a global solver hands back of one sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from foldopt.status import Status

__all__ = ["Found", "Limits", "NonconvexQP"]


class NonconvexQP(NamedTuple):
    """min ½xᵀQx + pᵀx, Gx ≤ h, Ax = b, lower ≤ x ≤ upper: one sample, every block there."""

    Q: np.ndarray
    p: np.ndarray
    G: np.ndarray
    h: np.ndarray
    A: np.ndarray
    b: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def value(self, x: np.ndarray) -> float:
        """The objective."""
        return float(0.5 * x @ self.Q @ x + self.p @ x)

    def violation(self, x: np.ndarray) -> float:
        """By how much x breaks its worst constraint."""
        parts = (self.G @ x - self.h, np.abs(self.A @ x - self.b), x - self.upper, self.lower - x)
        return max(0.0, *(float(part.max()) for part in parts if part.size))


class Limits(NamedTuple):
    """How well and how long to search; ``gap`` is relative, ``absolute`` is not."""

    gap: float
    absolute: float
    feasibility: float
    nodes: int | None
    seconds: float | None
    threads: int


class Found(NamedTuple):
    """The best x (None: there is none), how the search ended, and what it proved."""

    x: np.ndarray | None
    status: Status
    bound: float = float("nan")
    message: str = ""
