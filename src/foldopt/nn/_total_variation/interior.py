"""An interior-point method for min ½‖d + Dᵀw‖² over |w| ≤ λ, with D sparse.

In v = w/λ, with the rows of D multiplied by λ, slacks s± = 1 ∓ v and multipliers z± ≥ 0 of the two
bounds, the conditions are D (d + Dᵀv) + z⁺ − z⁻ = 0 and z± s± = μ → 0. A Newton step of these is

    (D Dᵀ + S) Δv = ρ,    S = z⁺/s⁺ + z⁻/s⁻,

and with Δx = DᵀΔv the smaller, sparser system (I + Dᵀ S⁻¹ D) Δx = Dᵀ S⁻¹ ρ gives the same. The rule
of predictor and corrector is that of S. Mehrotra, SIAM J. Optim. 2 (1992), 575–601.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from foldopt.solvers import _scipy

__all__ = ["interior_point"]

_ITERATIONS = 80
# The mean of z s, relative to its first value.
_GOAL = 1e-9
# Least entry of S, relative to D Dᵀ: without it the system loses the identity in rounding.
_LEAST = 1e-10
_BACK = 0.995


def interior_point(d: np.ndarray, bound: np.ndarray, D: Any) -> tuple[np.ndarray, np.ndarray]:
    """u = −w, and which rows are free.

    Parameters
    ----------
    d
        ``(n,)``.
    bound
        λ, ``(m,)``. Where it is 0, u is 0 and the row is not free.
    D
        A sparse array ``(m, n)``.
    """
    used = bound > 0
    u, free = np.zeros_like(bound), np.zeros(len(bound), dtype=bool)
    weight = bound[used]
    rows = _scipy.sparse.diags(weight) @ D[used]
    scale = float(np.abs(rows @ d).max(initial=0.0))
    if scale == 0.0:
        free[used] = True
        return u, free
    v, low, high = _solve(d, rows.tocsr(), scale)
    u[used] = -weight * v
    # A row is free if its slack is larger than its multiplier, each on its own scale.
    free[used] = np.minimum(1 - v, 1 + v) > np.maximum(low, high) / scale
    return u, free


@np.errstate(all="ignore")  # what overflows does not converge
def _solve(d: np.ndarray, D: Any, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """v, z⁻ and z⁺."""
    m, n = D.shape
    Dt = D.T.tocsr()
    eye = _scipy.sparse.eye(n, format="csc")
    least = _LEAST * float(D.multiply(D).sum(1).max())
    v = np.zeros(m)
    above, below = np.full(m, scale), np.full(m, scale)  # z⁺, z⁻
    x = d.copy()
    for _ in range(_ITERATIONS):
        up, down = 1 - v, 1 + v
        mu = (above @ up + below @ down) / (2 * m)
        slope = D @ x
        if mu <= _GOAL * scale and np.abs(slope + above - below).max() <= _GOAL * scale:
            break
        S = np.maximum(above / up + below / down, least)
        try:
            factor = _scipy.sparse_linalg.splu(
                (eye + Dt @ _scipy.sparse.diags(1 / S) @ D).tocsc(),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
        except RuntimeError:  # singular in rounding: what follows corrects the choice made so far
            break
        system = _Newton(D, Dt, S, factor, slope, v, above, below)
        dv, da, db = system.step(0.0, 0.0)
        reach = _reach(((up, -dv), (down, dv), (above, da), (below, db)))
        after = (
            (above + reach * da) @ (up - reach * dv) + (below + reach * db) @ (down + reach * dv)
        ) / (2 * m)
        aim = mu * (after / mu) ** 3
        dv, da, db = system.step(aim + dv * da, aim - dv * db)
        reach = min(1.0, _BACK * _reach(((up, -dv), (down, dv), (above, da), (below, db))))
        if not np.isfinite(reach) or reach < 1e-10:
            break
        v, above, below = v + reach * dv, above + reach * da, below + reach * db
        x = d + Dt @ v
    return v, below, above


class _Newton(NamedTuple):
    """The linear system at a point."""

    D: Any
    Dt: Any
    S: np.ndarray
    factor: Any
    slope: np.ndarray
    v: np.ndarray
    above: np.ndarray
    below: np.ndarray

    def step(
        self, rise: np.ndarray | float, fall: np.ndarray | float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The changes of v, z⁺ and z⁻ towards z⁺s⁺ = rise and z⁻s⁻ = fall."""
        up, down = 1 - self.v, 1 + self.v
        right = fall / down - rise / up - self.slope
        dx = self.factor.solve(self.Dt @ (right / self.S))
        dv = (right - self.D @ dx) / self.S
        da = rise / up - self.above + self.above * dv / up
        db = fall / down - self.below - self.below * dv / down
        return dv, da, db


def _reach(pairs: tuple[tuple[np.ndarray, np.ndarray], ...]) -> float:
    """The longest step, 1/0.995 at most, that keeps all of them positive."""
    most = 1 / _BACK
    for value, change in pairs:
        falls = change < 0
        if falls.any():
            most = min(most, float((-value[falls] / change[falls]).min()))
    return most
