"""Which constraints are active: a least distance problem for each sample.

    min ½‖u‖²  s.t.  low ≤ Nu ≤ high,      each row of N of length 1.

DAQP solves it by a dual active-set method. For many rows, block pivoting on the dual needs far
fewer steps, each on the Gram matrix NNᵀ: all rows that are infeasible change sides at once; where
that does not make them fewer for a while, one at a time does, which always ends (J. Júdice and
F. Pires, Computers & Operations Research 21 (1994), 587–596).
"""

from __future__ import annotations

import concurrent.futures as futures
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.nn._qp.scaled import Scaled
from foldopt.solvers._run.executors import cores

__all__ = ["working_sets"]

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


def working_sets(
    scaled: Scaled, low: Tensor, high: Tensor, there: Tensor, samples: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The side of each row: −1 (at low), 0, or +1 (at high or equal).

    Parameters
    ----------
    scaled
        The programs.
    low, high
        The limits, ``(B, M)``.
    there
        What has been subtracted from the limits, ``(B, M)``.
    samples
        Which to look at.

    Returns
    -------
    sides, found
        For the samples asked for, ``(len(samples), M)`` int8, and whether it was found,
        ``(len(samples),)``.
    """
    scale = (low.clamp_min(0) + (-high).clamp_min(0)).amax(-1, keepdim=True)
    scale = scale.clamp_min(_ROUNDING * there.abs().amax(-1, keepdim=True))
    scale = scale.where(scale > 0, 1)
    low, high = (low / scale).clamp_min(-_INFINITY), (high / scale).clamp_max(_INFINITY)
    count, n = scaled.N.shape[-2:]
    results: dict[int, np.ndarray | None] = dict.fromkeys(samples)
    if _MANY <= count <= 2 * n:
        # A few large matrices, which keep all cores busy by themselves.
        for i in samples:
            gram = scaled.sample(scaled.gram, i)
            results[i] = _pivot(gram, low[i], high[i], scaled.equal[i], n)
    left = [i for i in samples if results[i] is None]
    engine = _daqp()
    if engine is not None and left:
        rows, below, above, fixed = (part.numpy() for part in (scaled.N, low, high, scaled.equal))
        sense = np.where(fixed, np.intc(_EQUALITY), np.intc(0))  # DAQP writes into it
        several = len(rows) > 1

        def search(i: int) -> np.ndarray | None:
            # Equalities stay in: where DAQP eliminates them, its multipliers are not those of our
            # rows.
            _, _, flag, info = engine(
                None, None, rows[i if several else 0], above[i], below[i], sense[i],
                primal_tol=_FEASIBLE, eq_reduction=-1,
            )  # fmt: skip
            return info["lam"] if flag == 1 else None

        if len(left) < 2 or cores() < 2 or 10.0 * n * count * len(left) < _WORTH_THREADS:
            results.update((i, search(i)) for i in left)
        else:
            with futures.ThreadPoolExecutor(min(cores(), len(left))) as pool:
                results.update(zip(left, pool.map(search, left), strict=True))
    none = np.zeros(count)
    sides = np.stack([none if one is None else one for one in results.values()])
    found = np.array([one is not None for one in results.values()])
    return np.where(scaled.equal.numpy()[samples], 1, np.sign(sides)).astype(np.int8), found


def _daqp() -> Callable[..., Any] | None:
    try:
        import daqp
    except ImportError:
        return None  # the caller has other engines
    return daqp.solve


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
