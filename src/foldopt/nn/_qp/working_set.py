"""Which constraints are active: one sample at a time, in the coordinates where Q is the identity.

With Q = LLᵀ and u = Lᵀ(x − x₀) about the unconstrained minimum x₀ = −Q⁻¹p, the program is the least
distance problem

    min ½‖u‖²  s.t.  low ≤ Mᵀu ≤ high,      M = L⁻¹Cᵀ, each column of length 1.

DAQP solves it by a dual active-set method. For many rows, block pivoting on the dual needs far
fewer steps, each on the Gram matrix MᵀM: all rows that are infeasible change sides at once; where
that does not make them fewer for a while, one at a time does, which always ends (J. Júdice and
F. Pires, Computers & Operations Research 21 (1994), 587–596).
"""

from __future__ import annotations

import concurrent.futures as futures
from collections.abc import Callable

import numpy as np

from foldopt.solvers import _scipy
from foldopt.solvers._run.executors import cores

__all__ = ["Rows", "working_sets"]

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of one sample: Mᵀ ``(M, n)``, low, high, and which rows are equalities."""

_INFINITY = 1e30  # for DAQP
_EQUALITY = 5
_FEASIBLE = 1e-10
# Below this many rows DAQP is faster, above it block pivoting.
_MANY = 200
_PIVOTINGS = 40
_PATIENCE = 3
# Threads pay from this much work on, in multiplications.
_WORTH_THREADS = 2e6


def working_sets(rows: list[Rows]) -> list[np.ndarray | None]:
    """The side of each row, −1 (at low), 0 or +1 (at high or equal); None: not found.

    Parameters
    ----------
    rows
        One for each sample.
    """
    work = sum(one[0].size for one in rows) * 10.0
    if len(rows) < 2 or cores() < 2 or work < _WORTH_THREADS:
        return [_sides(one) for one in rows]
    # Both DAQP and LAPACK let other threads run.
    with futures.ThreadPoolExecutor(min(cores(), len(rows))) as pool:
        return list(pool.map(_sides, rows))


def _sides(rows: Rows) -> np.ndarray | None:
    gradients, low, high, equal = rows
    if not len(low):
        return np.zeros(0, dtype=np.int8)
    if _MANY <= len(low) <= 2 * gradients.shape[1]:
        found = _pivot(gradients, low, high, equal)
        if found is not None:
            return found
    return _daqp()(gradients, low, high, equal)


def _daqp() -> Callable[..., np.ndarray | None]:
    try:
        import daqp as engine
    except ImportError:
        return lambda *_: None  # the caller has other engines

    def solve(
        gradients: np.ndarray, low: np.ndarray, high: np.ndarray, equal: np.ndarray
    ) -> np.ndarray | None:
        sense = np.where(equal, _EQUALITY, 0).astype(np.intc)
        high = np.minimum(high, _INFINITY)
        low = np.maximum(low, -_INFINITY)
        # Equalities stay in: where DAQP eliminates them, its multipliers are not those of our rows.
        _, _, flag, info = engine.solve(
            None, None, gradients, high, low, sense, primal_tol=_FEASIBLE, eq_reduction=-1
        )
        if flag != 1:
            return None
        return np.where(equal, 1, np.sign(info["lam"])).astype(np.int8)

    return solve


def _pivot(
    gradients: np.ndarray, low: np.ndarray, high: np.ndarray, equal: np.ndarray
) -> np.ndarray | None:
    gram = gradients @ gradients.T
    count = len(low)
    sides = np.where(equal | (high < 0), 1, np.where(low > 0, -1, 0)).astype(np.int8)
    fewest, patience = count + 1, _PATIENCE
    for _ in range(_PIVOTINGS):
        active = np.flatnonzero(sides)
        if len(active) > gradients.shape[1]:
            return None
        target = np.where(sides > 0, high, low)[active]
        # u = −M_W λ, and M_Wᵀu = target.
        try:
            factor = _scipy.linalg.cho_factor(
                gram[np.ix_(active, active)], lower=True, check_finite=False
            )
            multipliers = -_scipy.linalg.cho_solve(factor, target, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        reached = -gram[:, active] @ multipliers
        small = _FEASIBLE * max(1.0, float(np.abs(multipliers).max(initial=0)))
        leaving = np.zeros(count, dtype=bool)
        leaving[active] = (multipliers * sides[active] < -small) & ~equal[active]
        free = sides == 0
        above, below = free & (reached > high + _FEASIBLE), free & (reached < low - _FEASIBLE)
        wrong = leaving | above | below
        number = int(wrong.sum())
        if number == 0:
            return sides
        if number < fewest:
            fewest, patience = number, _PATIENCE
        else:
            patience -= 1
        if patience < 0:
            last = np.flatnonzero(wrong)[-1]
            wrong[:last] = False
        sides[wrong & leaving] = 0
        sides[wrong & above] = 1
        sides[wrong & below] = -1
    return None
