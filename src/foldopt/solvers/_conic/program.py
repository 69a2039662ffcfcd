"""One conic program in numpy, what an engine answers, and how good the answer is."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch

from foldopt.solvers._conic.cones import Cones
from foldopt.status import Status

__all__ = ["ConicAnswer", "ConicLimits", "ConicPoint", "ConicProgram", "residual"]

# Engines measure their errors each in a way of its own, and we in ours. An answer is accepted when
# our residual is within this factor of what was asked for.
_LEEWAY = 10.0


@dataclasses.dataclass(frozen=True)
class ConicProgram:
    """min ½xᵀPx + qᵀx s.t. Ax + s = b, s ∈ K; P and A sparse (CSC), P symmetric."""

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    cones: Cones


class ConicLimits(NamedTuple):
    """How accurate, and for how long; None: the engine's own limit."""

    rtol: float
    atol: float
    max_iterations: int | None
    seconds: float | None
    threads: int


class ConicPoint(NamedTuple):
    """x, the dual z with Px + q + Aᵀz = 0, and the slack s."""

    x: np.ndarray
    z: np.ndarray
    s: np.ndarray


class ConicAnswer(NamedTuple):
    """The engine's own verdict, in our words, and its point, if there is one."""

    status: Status
    point: ConicPoint | None
    said: str


def checked(program: ConicProgram, answer: ConicAnswer, limits: ConicLimits) -> ConicAnswer:
    """The answer with a status that our own residual bears out, whatever the engine says."""
    if answer.point is None:
        return answer
    found = residual(program, answer.point, limits)
    if found <= _LEEWAY:
        # Also at a limit: an engine may have been asked for more than was promised.
        return answer._replace(status=Status.CONVERGED, said="")
    said = f"{answer.said}; the optimality conditions hold to {found:.1e} times the tolerance"
    status = Status.INACCURATE if answer.status == Status.CONVERGED else answer.status
    return answer._replace(status=status, said=said)


def residual(program: ConicProgram, point: ConicPoint, limits: ConicLimits) -> float:
    """The worst error of the optimality conditions, in units of atol + rtol · (size of its terms).

    Ax + s = b; Px + q + Aᵀz = 0; s ∈ K; z ∈ K*; and xᵀPx + qᵀx + bᵀz = 0, which is sᵀz there. The
    distance of z from K* is the length of the projection of −z on K (Moreau).
    """
    x, z, s = point
    if not all(np.isfinite(part).all() for part in point):
        return float("inf")
    cones = program.cones
    Px, Ax, Az = program.P @ x, program.A @ x, program.A.T @ z
    to_K = cones.project(torch.as_tensor(s)).numpy() - s
    to_dual = cones.project(torch.as_tensor(-z)).numpy()
    # The dual of the zero cone is everything; the projection on it is zero, as it should be.
    quadratic, linear, constant = x @ Px, program.q @ x, program.b @ z
    errors = (
        (Ax + s - program.b, (Ax, s, program.b)),
        (Px + program.q + Az, (Px, program.q, Az)),
        (to_K, (s,)),
        (to_dual, (z,)),
        (quadratic + linear + constant, (quadratic, linear, constant)),
    )
    return max(
        _size(error) / (limits.atol + limits.rtol * max(map(_size, terms)))
        for error, terms in errors
    )


def _size(v: Any) -> float:
    return float(np.abs(v).max(initial=0))
