"""One convex quadratic program in numpy, what an engine answers, and how good the answer is."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from foldopt.solvers import _scipy
from foldopt.status import Status

__all__ = ["Answer", "Limits", "Point", "Program", "Quality", "quality"]

Matrix = Any  # np.ndarray or scipy.sparse.csc_matrix: what follows works on both


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the user set, in our names; None: not set."""

    rtol: float | None = None
    atol: float | None = None
    max_iterations: int | None = None
    time_limit: float | None = None
    threads: int = 1

    def tolerances(self, rtol: float, atol: float) -> tuple[float, float]:
        """(rtol, atol), with the engine's own defaults where none is set."""
        return (
            rtol if self.rtol is None else self.rtol,
            atol if self.atol is None else self.atol,
        )


@dataclasses.dataclass(frozen=True)
class Program:
    """min ½xᵀQx + pᵀx s.t. Gx ≤ h, Ax = b, lower ≤ x ≤ upper; all blocks there, maybe empty.

    Q is None for a linear program. Q, G and A are all dense or all sparse (CSC).
    """

    Q: Matrix | None
    p: np.ndarray
    G: Matrix
    h: np.ndarray
    A: Matrix
    b: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def sparse(self) -> bool:
        return _scipy.sparse.issparse(self.G)

    @property
    def bounded(self) -> bool:
        """Whether any variable has a bound."""
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    @property
    def constrained(self) -> bool:
        """Whether there is any row or bound."""
        return self.bounded or len(self.h) + len(self.b) > 0

    def hessian(self) -> Matrix:
        """Q, as a matrix of zeros where there is none."""
        if self.Q is not None:
            return self.Q
        n = len(self.p)
        return _scipy.sparse.csc_matrix((n, n)) if self.sparse else np.zeros((n, n))

    def as_sparse(self) -> Program:
        """The same with every matrix in CSC."""
        return self if self.sparse else self._with(_scipy.sparse.csc_matrix)

    def as_dense(self) -> Program:
        """The same with every matrix as an array."""
        return self._with(lambda M: M.toarray()) if self.sparse else self

    def tidy(self) -> Program:
        """The same in the memory order that engines want."""
        return self._with(_scipy.sparse.csc_matrix if self.sparse else np.ascontiguousarray)

    def _with(self, form: Any) -> Program:
        Q = None if self.Q is None else form(self.Q)
        return dataclasses.replace(self, Q=Q, G=form(self.G), A=form(self.A))


class Point(NamedTuple):
    """x and its multipliers, in the signs of :class:`~foldopt.solvers.Multipliers`."""

    x: np.ndarray
    inequality: np.ndarray
    equality: np.ndarray
    bounds: np.ndarray


class Answer(NamedTuple):
    """What an engine says of a program: its own verdict, in our words, before we look at it."""

    status: Status
    point: Point | None
    said: str
    gap: float | None = None  # ours to say, once we have looked


class Quality(NamedTuple):
    """How well the optimality conditions hold, each relative to the size of its own terms.

    ``pairs`` is the largest min(λᵢ, slackᵢ): how clear it is which inequalities are active. Beside
    a large objective the gap does not see it; where a constraint is weakly active, an interior
    point cannot have it below the root of the gap. So it says what to polish, and is no failure.
    """

    stationarity: float
    feasibility: float
    sign: float
    gap: float
    pairs: float

    @property
    def worst(self) -> float:
        """All but ``pairs``."""
        return float(np.max(self[:-1]))  # NaN if any is

    @property
    def strictest(self) -> float:
        """All of them."""
        return float(np.max(self))


def quality(program: Program, point: Point) -> Quality:
    r"""The relative residuals of the optimality conditions.

    ∇L = Qx + p + Gᵀλ + Aᵀν + μ; violations of the constraints; multipliers of the wrong sign; and
    the duality gap xᵀQx + pᵀx + hᵀλ + bᵀν + uᵀμ⁺ − lᵀμ⁻, which is Σ multiplier · slack there.
    """
    Q, p, G, h, A, b, lower, upper = (
        getattr(program, field.name) for field in dataclasses.fields(program)
    )
    x, lam, nu, mu = point
    Qx = np.zeros_like(p) if Q is None else Q @ x
    terms = (Qx, p, G.T @ lam, A.T @ nu, mu)
    stationarity = _size(sum(terms)) / (1 + max(map(_size, terms)))

    Gx, Ax = G @ x, A @ x
    far = _size(x)
    feasibility = max(
        _size(np.maximum(Gx - h, 0)) / (1 + max(_size(Gx), _size(h))),
        _size(Ax - b) / (1 + max(_size(Ax), _size(b))),
        _size(np.maximum(x - upper, 0)) / (1 + far),
        _size(np.maximum(lower - x, 0)) / (1 + far),
    )

    up, down = np.maximum(mu, 0), np.minimum(mu, 0)
    free_up, free_down = np.isposinf(upper), np.isneginf(lower)
    wrong = (np.minimum(lam, 0), up[free_up], down[free_down])  # no bound, no multiplier
    sign = max(map(_size, wrong)) / (1 + max(_size(lam), _size(mu)))

    parts = (
        x @ Qx,
        p @ x,
        h @ lam,
        b @ nu,
        np.where(free_up, 0, upper) @ up,
        np.where(free_down, 0, lower) @ down,
    )
    gap = abs(sum(parts)) / (1 + max(map(abs, parts)))
    slack = np.maximum(h - Gx, 0) / (1 + max(_size(Gx), _size(h)))
    room = np.maximum(np.where(mu > 0, upper - x, x - lower), 0) / (1 + far)
    pairs = max(
        _size(np.minimum(slack, np.maximum(lam, 0) / (1 + _size(lam)))),
        _size(np.minimum(room, np.abs(mu) / (1 + _size(mu)))),
    )
    return Quality(float(stationarity), float(feasibility), float(sign), float(gap), float(pairs))


def _size(v: Any) -> float:
    return float(np.abs(v).max()) if v.size else 0.0
