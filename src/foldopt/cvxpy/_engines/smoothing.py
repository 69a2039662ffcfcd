"""Newton's method on smoothed optimality conditions, for programs in semidefinite matrices.

F(x, v) = 0 of :mod:`~foldopt.cvxpy._step` with y·s = μ e in the place of y ⊥ s: a point of the
central path, which Newton's method follows to μ = 0 (B. Chen, X. Chen, Comput. Optim. Appl. 16
(2000); X. Chen, P. Tseng, Math. Programming 95 (2003)). Points need not be interior, so that whole
steps are the rule. A step takes an eigendecomposition and one small system, and some ten steps will
do; what comes after is the polish.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from foldopt.cvxpy._program import Answer, Program
from foldopt.cvxpy._smoothing import Eigen
from foldopt.cvxpy._system import System
from foldopt.status import Status

__all__ = ["solve_smoothed"]

_STEPS, _HALVINGS = 60, 8
# Where the polish takes over: μ, and the length of F, in units in which the data have size 1.
_LAST, _CLOSE = 1e-9, 1e-5
# By what μ falls, by how near the path the point is.
_FAST, _STEADY, _SLOW = 0.02, 0.1, 0.5


def solve_smoothed(program: Program, _start: Any, _options: Any, _verbose: bool) -> Answer:
    """Solve one program; that it has no solution is for another engine to say."""
    scaled, size, cost = _in_units(program)
    x, v, mu = np.zeros(len(program.q)), np.zeros(len(program.b)), 1.0
    eigen = Eigen.of(program.cones, v)
    for count in range(_STEPS):
        y, spectrum = eigen.smoothed(mu)
        F = _conditions(scaled, x, v, y)
        length = np.linalg.norm(F)
        if mu <= _LAST and length <= _CLOSE:
            s = y - v
            said = f"smoothing: {count} steps"
            return Answer(Status.CONVERGED, size * x, y / cost - size * s, said)
        step = System(scaled, spectrum).roughly(-F)
        if step is None or not np.isfinite(step).all():
            break
        share, after = 1.0, np.inf
        for _ in range(_HALVINGS):
            to_x, to_v = x + share * step[: len(x)], v + share * step[len(x) :]
            eigen = Eigen.of(program.cones, to_v)
            after = np.linalg.norm(_conditions(scaled, to_x, to_v, eigen.smoothed(mu)[0]))
            if after <= (1 - 1e-4 * share) * length:
                break
            share /= 2
        else:
            break
        x, v = to_x, to_v
        if share > 0.3:
            near = after / mu**0.5
            mu = max(mu * (_FAST if near < 0.3 else _STEADY if near < 3 else _SLOW), 0.1 * _LAST)
        elif share < 0.1:  # back to where the equations are smoother
            mu = min(4 * mu, 1.0)
    return Answer(Status.FAILED, None, None, "smoothing: no solution found")


def _in_units(program: Program) -> tuple[Program, float, float]:
    """The program with x and s, and then y, in units in which b and q have size 1.

    Of both, what is left of them once the defined variables are eliminated.
    """
    parts = program.parts
    if parts is None:
        return program, 1.0, 1.0
    at, q, b = parts.layout, program.q, program.b
    pull = (q[at.defined] + parts.bend * b[at.defined_rows] / parts.a) / parts.a
    joined = np.bincount(at.square_to, parts.squares * pull[at.square_rows], len(parts.d))
    pulled = (q[at.matrix_columns] - joined) / parts.d
    of_q = float(max(np.abs(pulled).max(), np.abs(q[at.columns]).max(initial=0.0))) or 1.0
    rest = np.concatenate([b[at.rows], b[at.matrix_rows]])
    bend = float(parts.pi.max())
    of_b = float(np.abs(rest).max()) or (of_q / bend if bend else 1.0)
    scaled = dataclasses.replace(program, P=(of_b / of_q) * program.P, q=q / of_q, b=b / of_b)
    return scaled, of_b, 1 / of_q


def _conditions(program: Program, x: np.ndarray, v: np.ndarray, y: np.ndarray) -> np.ndarray:
    P, A, transposed = program.operators
    return np.concatenate([P @ x + program.q + transposed @ y, A @ x + (y - v) - program.b])
