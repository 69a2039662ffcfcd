"""What no engine needs to see: infinite rows, fixed variables, empty rows, crossed bounds."""

from __future__ import annotations

import dataclasses

import numpy as np

from foldopt.solvers._qp.program import Point, Program

__all__ = ["Reduced", "reduce"]


@dataclasses.dataclass(frozen=True)
class Reduced:
    """A smaller program, and the way back.

    Attributes
    ----------
    whole, program
        The program given, and what is left of it; ``program`` has no variables if all were fixed.
    free
        Which variables are left, a boolean array; the others are fixed at ``lower``.
    rows, equations
        Which rows of G and of A are left.
    infeasible
        Why the program has no feasible point, ``""`` if that is not plain to see.
    """

    whole: Program
    program: Program
    free: np.ndarray
    rows: np.ndarray
    equations: np.ndarray
    infeasible: str

    def restore(self, point: Point) -> Point:
        """A point of the whole program. Rows that were dropped have the multiplier 0."""
        whole = self.whole
        x = np.where(self.free, 0, whole.lower)
        x[self.free] = point.x
        lam, nu, mu = np.zeros(len(whole.h)), np.zeros(len(whole.b)), np.zeros(len(x))
        lam[self.rows], nu[self.equations] = point.inequality, point.equality
        mu[self.free] = point.bounds
        if not self.free.all():
            # A fixed variable is held by its bound with whatever the others leave over.
            slope = whole.p + whole.G.T @ lam + whole.A.T @ nu
            slope += 0 if whole.Q is None else whole.Q @ x
            mu[~self.free] = -slope[~self.free]
        return Point(x, lam, nu, mu)

    def shrink(self, point: Point) -> Point:
        """The part of a point that the smaller program has."""
        x, lam, nu, mu = point
        return Point(x[self.free], lam[self.rows], nu[self.equations], mu[self.free])


def reduce(program: Program) -> Reduced:
    """Drop rows with h = +∞, put fixed variables in, drop rows without coefficients."""
    lower, upper = program.lower, program.upper
    crossed = (lower > upper) | np.isposinf(lower) | np.isneginf(upper)
    free = lower < upper
    rows, equations = ~np.isposinf(program.h), np.ones(len(program.b), dtype=bool)
    if crossed.any():
        first = int(np.nonzero(crossed)[0][0])
        why = f"lower > upper at variable {first}"
        return Reduced(program, program, free, rows, equations, why)
    if np.isneginf(program.h).any():
        first = int(np.nonzero(np.isneginf(program.h))[0][0])
        why = f"h is -inf at inequality {first}"
        return Reduced(program, program, free, rows, equations, why)

    if free.all():
        coefficients = (program.G, program.A)
        h, b = program.h, program.b
        sizes = (np.abs(h), np.abs(b))
    else:
        held = np.where(free, 0, lower)
        coefficients = (program.G[:, free], program.A[:, free])
        h, b = program.h - program.G @ held, program.b - program.A @ held
        far = np.abs(held)
        sizes = (abs(program.G) @ far + np.abs(h), abs(program.A) @ far + np.abs(b))
    # An empty row says 0 ≤ h or 0 = b. What rounding leaves where fixed variables fill a row
    # exactly is no proof that it does not hold.
    why = ""
    kinds = (("inequality", rows, -h), ("equality", equations, np.abs(b)))
    for (name, kept, excess), M, size in zip(kinds, coefficients, sizes, strict=True):
        empty = kept & ~(_row_sizes(M) > 0)
        wrong = empty & (excess > 1e-9 * (1 + size))
        if wrong.any() and not why:
            first = int(np.nonzero(wrong)[0][0])
            why = f"{name} {first} cannot hold, whatever the variables that are not fixed"
        kept &= ~empty
    if not why and free.all() and rows.all() and equations.all():
        return Reduced(program, program, free, rows, equations, why)
    Q, p = program.Q, program.p[free]
    if Q is not None and not free.all():
        p = p + (Q @ np.where(free, 0, lower))[free]
        Q = Q[free][:, free]
    left = Program(
        Q, p, program.G[rows][:, free], h[rows], program.A[equations][:, free], b[equations],
        lower[free], upper[free],
    )  # fmt: skip
    return Reduced(program, left.tidy(), free, rows, equations, why)


def _row_sizes(M: object) -> np.ndarray:
    return np.asarray(abs(M).sum(axis=1)).reshape(-1)  # type: ignore[arg-type]
