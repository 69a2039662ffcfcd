"""Newton's method on the optimality conditions: from an engine's answer to rounding.

F is not smooth where a constraint begins to hold, but semismooth, and the step still converges
quadratically near a regular solution (L. Qi, J. Sun, Math. Programming 58 (1993)). All samples of
a batch take their steps together, so that the projections of all of them are one call.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from foldopt.cvxpy._program import Program, Residual, balanced, residuals
from foldopt.cvxpy._system import System, systems

__all__ = ["Polished", "polished"]

_STEPS, _HALVINGS = 12, 4
# A Newton step of this length was the last one.
_SHORT = 1e-12


@dataclasses.dataclass
class Polished:
    """A point on its way to the solution.

    Attributes
    ----------
    program
        In units in which y and s have the same size; ``gauge`` is the logarithm of those.
    x, v
        The point.
    residual
        F there.
    system
        F' there, or so near that it makes no difference; None: it is not known.
    """

    program: Program
    x: np.ndarray
    v: np.ndarray
    gauge: np.ndarray
    residual: Residual
    system: System | None = None

    @property
    def error(self) -> float:
        """How far the optimality conditions are from holding."""
        return self.residual.error


def polished(programs: list[Program], x: list[np.ndarray], v: list[np.ndarray]) -> list[Polished]:
    """The points after Newton steps on F = 0, as long as they help.

    A small F is not yet a small error where the program is badly scaled. So the length of the step
    decides when to stop, and the last F' serves the derivatives.
    """
    if not programs:
        return []
    y = programs[0].project(np.stack(v))
    units = [balanced(*parts) for parts in zip(programs, v, y, strict=True)]
    scaled, moved = [unit[0] for unit in units], [unit[1] for unit in units]
    found = residuals(scaled, x, moved)
    points = [
        Polished(program, at, to, unit[2], F)
        for program, at, to, unit, F in zip(scaled, x, moved, units, found, strict=True)
    ]
    busy = [point for point in points if np.isfinite(point.error)]
    for _ in range(_STEPS):
        if not busy:
            break
        busy = _stepped(busy)
    return points


def _stepped(points: list[Polished]) -> list[Polished]:
    """Take one step from each point; those that may take another."""
    unknown = [point for point in points if point.system is None]
    made = systems([point.program for point in unknown], [point.v for point in unknown])
    for point, system in zip(unknown, made, strict=True):
        point.system = system
    steps = {}
    for point in points:
        assert point.system is not None
        step = point.system.forward(-point.residual.F)
        if np.isfinite(step).all():
            steps[id(point)] = step
    waiting, share, again = [point for point in points if id(point) in steps], 1.0, []
    # The first of the step, its half, … that lowers the error; a point that none does stays.
    for _ in range(_HALVINGS):
        ends = [_end(point, share * steps[id(point)]) for point in waiting]
        tried = residuals(
            [point.program for point in waiting], [end[0] for end in ends], [end[1] for end in ends]
        )
        still = []
        for point, (x, v), trial in zip(waiting, ends, tried, strict=True):
            if not trial.error < point.error:
                still.append(point)
                continue
            length = np.abs(steps[id(point)]).max(initial=0) / (1 + np.abs(v).max(initial=0))
            point.x, point.v, point.residual = x, v, trial
            if length > _SHORT:
                again.append(point)
                if point.system is not None and not point.system.fits(v):
                    point.system = None
        waiting, share = still, share / 2
    return again


def _end(point: Polished, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = len(point.x)
    return point.x + step[:n], point.v + step[n:]
