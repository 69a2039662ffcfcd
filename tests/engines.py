"""Convex programs with known answers, random ones, and what the tests of the engines share."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from scipy import sparse

from foldopt import Solution
from foldopt.status import Status

INF = math.inf
ALL = ("piqp", "proxqp", "daqp", "osqp", "clarabel", "highs", "scs", "moreau")
NAMES = ("Q", "p", "G", "h", "A", "b", "lower", "upper")
Blocks = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Known:
    """A program whose answer was found by hand."""

    blocks: Blocks
    x: list[float] | None = None
    inequality: list[float] | None = None
    equality: list[float] | None = None
    bounds: list[float] | None = None
    status: Status = Status.CONVERGED


EYE = [[1.0, 0.0], [0.0, 1.0]]
KNOWN: dict[str, Known] = {
    # min ½|x|² + pᵀx: x = −p.
    "free": Known({"Q": EYE, "p": [1.0, -2.0]}, [-1, 2], [], [], [0, 0]),
    "empty blocks": Known(
        {"Q": EYE, "p": [1.0, -2.0], "G": np.zeros((0, 2)), "h": [], "A": np.zeros((0, 2)),
         "b": []},
        [-1, 2], [], [], [0, 0],
    ),
    # The projection of (1, 1) on x₁ + x₂ ≤ 1, and on x₁ + x₂ = 1: multiplier ½.
    "inequality": Known(
        {"Q": EYE, "p": [-1.0, -1.0], "G": [[1.0, 1.0]], "h": [1.0]}, [0.5, 0.5], [0.5], [], [0, 0]
    ),
    "equality": Known(
        {"Q": EYE, "p": [-1.0, -1.0], "A": [[1.0, 1.0]], "b": [1.0]}, [0.5, 0.5], [], [0.5], [0, 0]
    ),
    "equality from below": Known(
        {"Q": EYE, "p": [0.0, 0.0], "A": [[1.0, 1.0]], "b": [2.0]}, [1, 1], [], [-1], [0, 0]
    ),
    # x = clip(−p): μ = −(x + p) above 0 at the upper bound, below 0 at the lower.
    "box": Known(
        {"Q": EYE, "p": [-3.0, 2.0], "lower": [0.0, -1.0], "upper": [1.0, 5.0]},
        [1, -1], [], [], [2, -1],
    ),
    "half infinite box": Known(
        {"Q": EYE, "p": [-3.0, 2.0], "lower": [-INF, -1.0], "upper": [1.0, INF]},
        [1, -1], [], [], [2, -1],
    ),
    "infinite rows": Known(
        {"Q": EYE, "p": [-1.0, -1.0], "G": [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]],
         "h": [INF, 1.0, INF], "lower": -INF, "upper": INF},
        [0.5, 0.5], [0, 0.5, 0], [], [0, 0],
    ),
    # x₁ = 0.3 by its bounds; x₂ = 1 − 0.3 by the row, λ = 1 − 0.7, μ₁ = 1 − 0.3 − λ.
    "fixed": Known(
        {"Q": EYE, "p": [-1.0, -1.0], "G": [[1.0, 1.0]], "h": [1.0], "lower": [0.3, -INF],
         "upper": [0.3, INF]},
        [0.3, 0.7], [0.3], [], [0.4, 0],
    ),
    "all fixed": Known(
        {"Q": EYE, "p": [-1.0, 2.0], "G": [[1.0, 1.0]], "h": [1.0], "A": [[1.0, -1.0]],
         "b": [0.1], "lower": [0.3, 0.2], "upper": [0.3, 0.2]},
        [0.3, 0.2], [0], [0], [0.7, -2.2],
    ),
    # min 2·½x² − 4x, x ≤ 1: λ = 4 − 2.
    "n = 1": Known({"Q": [[2.0]], "p": [-4.0], "G": [[1.0]], "h": [1.0]}, [1], [2], [], [0]),
    "n = 1, linear": Known(
        {"Q": None, "p": [3.0], "lower": [-2.0], "upper": [7.0]}, [-2], [], [], [-3]
    ),
    # Only the symmetric part of Q counts.
    "Q not symmetric": Known({"Q": [[1.0, 2.0], [-2.0, 1.0]], "p": [1.0, -2.0]}, [-1, 2]),
    # max x₁ + 2x₂ in a triangle: the corner (0, 1), λ = 2, μ₁ = −1.
    "linear": Known(
        {"Q": None, "p": [-1.0, -2.0], "G": [[1.0, 1.0]], "h": [1.0], "lower": [0.0, 0.0]},
        [0, 1], [2], [], [-1, 0],
    ),
    "Q of zeros": Known(
        {"Q": np.zeros((2, 2)), "p": [-1.0, -2.0], "G": [[1.0, 1.0]], "h": [1.0], "lower": 0.0},
        [0, 1], [2], [], [-1, 0],
    ),
    # ½x₁² − x₁ + x₂ with x₂ ≥ −1: curvature in x₁ only.
    "semidefinite": Known(
        {"Q": [[1.0, 0.0], [0.0, 0.0]], "p": [-1.0, 1.0], "lower": [-INF, -1.0]},
        [1, -1], [], [], [0, -1],
    ),
    # Rows that depend on each other (no LICQ): x is unique, the multipliers are not.
    "dependent rows": Known(
        {"Q": EYE, "p": [-1.0, -1.0], "G": [[1.0, 1.0], [2.0, 2.0], [1.0, 0.0], [1.0, 1.0]],
         "h": [1.0, 2.0, 0.5, 1.0]},
        [0.5, 0.5],
    ),
    "dependent equalities": Known(
        {"Q": EYE, "p": [-1.0, -1.0], "A": [[1.0, 1.0], [2.0, 2.0]], "b": [1.0, 2.0]}, [0.5, 0.5]
    ),
    "weakly active": Known(
        {"Q": EYE, "p": [-1.0, 0.0], "G": [[1.0, 0.0]], "h": [1.0]}, [1, 0], [0], [], [0, 0]
    ),
    "a row of zeros": Known(
        {"Q": EYE, "p": [-1.0, 0.0], "G": [[0.0, 0.0]], "h": [1.0], "A": [[0.0, 0.0]], "b": [0.0]},
        [1, 0], [0], [0], [0, 0],
    ),
    "empty interior": Known(
        {"Q": EYE, "p": [0.0, 0.0], "G": [[1.0, 0.0], [-1.0, 0.0]], "h": [1.0, -1.0]}, [1, 0]
    ),
    "rows against each other": Known(
        {"Q": EYE, "p": [1.0, 2.0], "G": [[1.0, 0.0], [-1.0, 0.0]], "h": [-1.0, -1.0]},
        status=Status.INFEASIBLE,
    ),
    "equalities against each other": Known(
        {"Q": EYE, "p": [1.0, 2.0], "A": [[1.0, 1.0], [1.0, 1.0]], "b": [1.0, 2.0]},
        status=Status.INFEASIBLE,
    ),
    "row against bounds": Known(
        {"Q": None, "p": [1.0, 2.0], "G": [[1.0, 1.0]], "h": [-1.0], "lower": 0.0, "upper": 1.0},
        status=Status.INFEASIBLE,
    ),
    "lower above upper": Known(
        {"Q": EYE, "p": [1.0, 2.0], "lower": [0.0, 2.0], "upper": [1.0, 1.0]},
        status=Status.INFEASIBLE,
    ),
    "h of minus infinity": Known(
        {"Q": EYE, "p": [1.0, 2.0], "G": [[1.0, 1.0]], "h": [-INF]}, status=Status.INFEASIBLE
    ),
    "fixed against a row": Known(
        {"Q": EYE, "p": [1.0, 2.0], "G": [[1.0, 0.0]], "h": [0.0], "lower": [1.0, 0.0],
         "upper": [1.0, 1.0]},
        status=Status.INFEASIBLE,
    ),
    "falls for ever, linear": Known(
        {"Q": None, "p": [-1.0, 0.0], "G": [[0.0, 1.0]], "h": [1.0]}, status=Status.UNBOUNDED
    ),
    "falls for ever": Known(
        {"Q": [[1.0, 0.0], [0.0, 0.0]], "p": [0.0, -1.0], "G": [[1.0, 0.0]], "h": [1.0]},
        status=Status.UNBOUNDED,
    ),
    "falls for ever, free": Known(
        {"Q": [[1.0, 0.0], [0.0, 0.0]], "p": [0.0, -1.0]}, status=Status.UNBOUNDED
    ),
    "infeasible before unbounded": Known(
        {"Q": None, "p": [-1.0, 0.0], "G": [[0.0, 1.0], [0.0, -1.0]], "h": [-1.0, -1.0]},
        status=Status.INFEASIBLE,
    ),
}  # fmt: skip


def tensors(blocks: Blocks, dtype: torch.dtype = torch.float64) -> Blocks:
    """Every block as a tensor; numbers, None and sparse matrices stay."""
    keep = (type(None), float)
    return {
        name: block
        if isinstance(block, keep) or sparse.issparse(block)
        else torch.as_tensor(np.asarray(block, dtype=float)).to(dtype)
        for name, block in blocks.items()
    }


def random_blocks(n: int, m: int, k: int, seed: int, rank: int | None = None) -> Blocks:
    """A feasible program with a bounded solution; rank of Q, None: full, 0: a linear program."""
    r = np.random.default_rng(seed)
    x0, R = r.normal(size=n), r.normal(size=(n, n if rank is None else rank))
    Q = R @ R.T / n + (0.1 * np.eye(n) if rank is None else 0)
    G, A = r.normal(size=(m, n)), r.normal(size=(k, n))
    return {
        "Q": None if rank == 0 else Q,
        "p": 3 * r.normal(size=n),
        "G": G,
        "h": G @ x0 + r.random(m),
        "A": A,
        "b": A @ x0,
        "lower": x0 - r.random(n),
        "upper": x0 + r.random(n),
    }


def kkt(blocks: Blocks, solution: Solution) -> float:
    """The largest violation of the optimality conditions of one sample, absolute, row by row.

    Complementarity is here min(λᵢ, slackᵢ), another measure than the duality gap of the library.
    """
    x = np.asarray(solution.x, dtype=float)
    lam, nu, mu = (np.asarray(part, dtype=float) for part in solution.multipliers)
    n = len(x)

    def block(name: str, *shape: int) -> np.ndarray:
        given = blocks.get(name)
        if given is None:
            return np.zeros(shape)
        if sparse.issparse(given):
            given = given.toarray()
        return np.broadcast_to(np.asarray(given, dtype=float), shape)

    Q = block("Q", n, n)
    G, h = block("G", len(lam), n), block("h", len(lam))
    A, b = block("A", len(nu), n), block("b", len(nu))
    lower = block("lower", n) if blocks.get("lower") is not None else np.full(n, -INF)
    upper = block("upper", n) if blocks.get("upper") is not None else np.full(n, INF)
    gradient = (Q + Q.T) / 2 @ x + block("p", n) + G.T @ lam + A.T @ nu + mu
    fixed = lower == upper  # its multiplier may have any sign
    up, down = np.maximum(mu, 0)[~fixed], np.maximum(-mu, 0)[~fixed]
    violations = [
        gradient,
        A @ x - b,
        np.minimum(h - G @ x, lam),
        np.minimum(upper - x, 0),
        np.minimum(x - lower, 0),
        np.minimum((upper - x)[~fixed], up),
        np.minimum((x - lower)[~fixed], down),
    ]
    return max(float(np.abs(v).max(initial=0)) for v in violations)
