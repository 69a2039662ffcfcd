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
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from foldopt.nn._qp.scaled import Scaled
from foldopt.solvers._run.executors import cores

__all__ = ["Sets", "working_sets"]

Result = tuple[np.ndarray | None, np.ndarray]  # u, if it is known, and multipliers or their signs
Item = TypeVar("Item")
Found = TypeVar("Found")

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
    """What was found for the samples asked for.

    Attributes
    ----------
    sides
        Of each row: −1 (at low), 0, or +1 (at high or equal), ``(len(samples), M)`` int8.
    found
        Whether it was, ``(len(samples),)``.
    solution
        u and the multipliers of the rows of N, if DAQP has found them for all samples there are.
    """

    sides: np.ndarray
    found: np.ndarray
    solution: tuple[np.ndarray, np.ndarray] | None


def working_sets(
    scaled: Scaled, low: Tensor, high: Tensor, there: Tensor, samples: list[int]
) -> Sets:
    """Find which rows are active.

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
    """
    scale = (low.clamp_min(0) + (-high).clamp_min(0)).amax(-1, keepdim=True)
    scale = scale.clamp_min(_ROUNDING * there.abs().amax(-1, keepdim=True))
    scale = scale.where(scale > 0, 1)
    low, high = (low / scale).clamp_min(-_INFINITY), (high / scale).clamp_max(_INFINITY)
    count, n = scaled.N.shape[-2:]
    results: dict[int, Result | None] = dict.fromkeys(samples)
    if _MANY <= count <= 2 * n:
        # A few large matrices, which keep all cores busy by themselves.
        for i in samples:
            gram = scaled.sample(scaled.gram, i)
            signs = _pivot(gram, low[i], high[i], scaled.rows.equal[i], n)
            results[i] = None if signs is None else (None, signs)
    left = [i for i in samples if results[i] is None]
    engine = _daqp()
    if engine is not None and left:
        rows, below, above = (part.numpy() for part in (scaled.N, low, high))
        # DAQP writes into it.
        sense = scaled.rows.equal.numpy().astype(np.intc) * np.intc(_EQUALITY)
        several = len(rows) > 1

        def search(i: int) -> Result | None:
            # Equalities stay in: where DAQP eliminates them, its multipliers are not those of our
            # rows.
            u, _, flag, info = engine(
                None, None, rows[i if several else 0], above[i], below[i], sense[i],
                primal_tol=_FEASIBLE, eq_reduction=-1,
            )  # fmt: skip
            return (u, info["lam"]) if flag == 1 else None

        results.update(zip(left, _one_by_one(search, left, n * count), strict=True))
    rays, multipliers = np.zeros((len(samples), n)), np.zeros((len(samples), count))
    found = np.zeros(len(samples), dtype=bool)
    by_daqp = True
    for row, result in enumerate(results.values()):
        if result is None:
            by_daqp = False
            continue
        u, multipliers[row] = result
        found[row] = True
        if u is None:
            by_daqp = False
        else:
            rays[row] = u
    equal = scaled.rows.equal.numpy()
    sides = np.where(
        equal if len(samples) == len(equal) else equal[samples], 1, np.sign(multipliers)
    )
    if not by_daqp or len(samples) < len(low):
        return Sets(sides.astype(np.int8), found, None)
    scale = scale.numpy()
    return Sets(sides.astype(np.int8), found, (rays * scale, multipliers * scale))


def _daqp() -> Callable[..., Any] | None:
    """The function of that engine, if it is installed."""
    try:
        import daqp
    except ImportError:
        return None  # the caller has other engines
    return daqp.solve


def _one_by_one(search: Callable[[Item], Found], items: Sequence[Item], size: int) -> list[Found]:
    """One search for each program, of ``size`` numbers, in threads where these pay."""
    if len(items) < 2 or cores() < 2 or 10.0 * size * len(items) < _WORTH_THREADS:
        return [search(item) for item in items]
    count = min(cores(), len(items))
    each = -(-len(items) // (4 * count))  # a task for each sample would cost more than it does
    parts = [items[i : i + each] for i in range(0, len(items), each)]
    with futures.ThreadPoolExecutor(count) as pool:
        found = pool.map(lambda part: [search(item) for item in part], parts)
        return [one for part in found for one in part]


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
