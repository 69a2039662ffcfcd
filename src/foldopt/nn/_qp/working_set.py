"""Which constraints are active: a least distance problem for each sample.

    min ½‖u‖²  s.t.  low ≤ Nu ≤ high,      each row of N of length 1.

DAQP solves it by a dual active-set method. For many rows, block pivoting on the dual needs far
fewer steps, each on the Gram matrix NNᵀ: all rows that are infeasible change sides at once; where
that does not make them fewer for a while, one at a time does, which always ends (J. Júdice and
F. Pires, Computers & Operations Research 21 (1994), 587–596).
"""

from __future__ import annotations

import concurrent.futures as futures
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foldopt.nn._qp.algebra import times
from foldopt.nn._qp.scaled import Scaled
from foldopt.solvers._run.executors import cores

__all__ = ["Sets", "working_sets"]

_INFINITY = 1e30  # for DAQP
_EQUALITY = 5
# Limits are divided by the largest violation at u = 0, which ‖u‖ is at least, so that this has no
# unit; but not by less than a part of what they were computed from, whose rounding errors stay.
_FEASIBLE = 1e-10
_ROUNDING = 1e-6
# Below this many rows DAQP is faster, above it block pivoting.
_MANY = 200
_PIVOTINGS = 40
_PATIENCE = 3
# Threads pay from this much work on, in multiplications.
_WORTH_THREADS = 2e6


class Sets(NamedTuple):
    """What was found.

    Attributes
    ----------
    sides
        Of each row: −1 (at low), 0, or +1 (at high or equal), ``(B, M)`` int8.
    found
        For which samples, ``(B,)``.
    solution
        u and the multipliers, if DAQP has found them for all samples.
    """

    sides: np.ndarray
    found: np.ndarray
    solution: tuple[np.ndarray, np.ndarray] | None


def working_sets(scaled: Scaled) -> Sets:
    """Find which rows are active, where Q is definite and all data are numbers."""
    N, inverse, t, equal = scaled.N, scaled.inverse, scaled.t, scaled.rows.equal
    there = times(N, t)
    low, high = (limit * inverse + there for limit in (scaled.rows.low, scaled.rows.high))
    scale = np.maximum(np.maximum(low, -high), _ROUNDING * np.abs(there))
    scale = scale.max(-1, keepdims=True, initial=0)
    scale[scale == 0] = 1
    low, high = np.maximum(low / scale, -_INFINITY), np.minimum(high / scale, _INFINITY)
    # What is not finite in the data is not finite here.
    usable = scaled.definite & np.isfinite(scale[:, 0])
    samples = range(len(usable)) if usable.all() else np.flatnonzero(usable).tolist()
    (total, count), n = equal.shape, t.shape[-1]
    rays, multipliers = np.zeros((total, n)), np.zeros((total, count))
    found = np.zeros(total, dtype=bool)
    engine = _daqp() if count else None
    by_daqp = engine is not None or not count
    if _MANY <= count <= 2 * n:
        # A few large matrices, which keep all cores busy by themselves.
        for i in samples:
            gram = torch.from_numpy(scaled.sample(scaled.gram, i))
            limits = torch.from_numpy(low[i]), torch.from_numpy(high[i])
            signs = _pivot(gram, *limits, torch.from_numpy(equal[i]), n)
            if signs is not None:
                multipliers[i], found[i], by_daqp = signs, True, False
        samples = [i for i in samples if not found[i]]
    if engine is not None:
        sense = equal * np.intc(_EQUALITY)  # DAQP writes into it
        several = len(N) > 1

        def search(i: int) -> None:
            # Equalities stay in: where DAQP eliminates them, its multipliers are not those of our
            # rows.
            u, _, flag, info = engine(
                None, None, N[i if several else 0], high[i], low[i], sense[i],
                primal_tol=_FEASIBLE, eq_reduction=-1,
            )  # fmt: skip
            if flag == 1:
                rays[i], multipliers[i], found[i] = u, info["lam"], True

        _one_by_one(search, samples, n * count)
    if not count:
        found = usable
    sides = np.sign(multipliers)
    sides[equal] = 1
    sides = sides.astype(np.int8)
    if not (by_daqp and found.all()):
        return Sets(sides, found, None)
    return Sets(sides, found, (rays * scale, multipliers * (scale * inverse)))


def _daqp() -> Callable[..., Any] | None:
    """The function of that engine, if it is installed."""
    try:
        import daqp
    except ImportError:
        return None  # the caller has other engines
    return daqp.solve


def _one_by_one(search: Callable[[int], None], samples: Sequence[int], size: int) -> None:
    """One search for each sample, of ``size`` numbers, in threads where these pay."""

    def some(part: Sequence[int]) -> None:
        for sample in part:
            search(sample)

    if len(samples) < 2 or cores() < 2 or 10.0 * size * len(samples) < _WORTH_THREADS:
        return some(samples)
    count = min(cores(), len(samples))
    each = -(-len(samples) // (4 * count))  # a task for each sample would cost more than it does
    parts = [samples[i : i + each] for i in range(0, len(samples), each)]
    with futures.ThreadPoolExecutor(count) as pool:
        list(pool.map(some, parts))
    return None


def _pivot(gram: Tensor, low: Tensor, high: Tensor, equal: Tensor, n: int) -> np.ndarray | None:
    """The sides, in the place of multipliers; None: not found."""
    sides = torch.where(equal | (high < 0), 1, torch.where(low > 0, -1, 0)).to(torch.int8)
    fewest, patience = len(low) + 1, _PATIENCE
    for _ in range(_PIVOTINGS):
        active = torch.nonzero(sides).squeeze(-1)
        if len(active) > n:
            return None
        signs = sides[active]
        target = torch.where(signs > 0, high[active], low[active])
        # u = −N_Wᵀλ, and N_W u = target.
        part = gram[active]
        factor, info = torch.linalg.cholesky_ex(part[:, active])
        if int(info):
            return None
        multipliers = -torch.cholesky_solve(target.unsqueeze(-1), factor).squeeze(-1)
        reached = -multipliers @ part
        small = _FEASIBLE * max(1.0, float(torch.linalg.vector_norm(multipliers, torch.inf)))
        free = sides == 0
        above, below = free & (reached > high + _FEASIBLE), free & (reached < low - _FEASIBLE)
        wrong = above | below
        wrong[active] = (multipliers * signs < -small) & ~equal[active]
        number = int(wrong.sum())
        if number == 0:
            return sides.numpy()
        if number < fewest:
            fewest, patience = number, _PATIENCE
        else:
            patience -= 1
        if patience < 0:
            wrong[: int(torch.nonzero(wrong)[-1])] = False
        change = above.to(torch.int8) - below.to(torch.int8)
        sides = torch.where(wrong, torch.where(free, change, 0), sides)
    return None
