"""Which engine of solvers.QP is fastest where, and how near "auto" comes to the best of them.

Each cell is one program in float64, alone, through solvers.QP: milliseconds, and the relative KKT
residual of the answer. A status instead of a residual marks an engine that did not solve it within
five seconds; a dash, one that failed or took more than half a second for a smaller program of the
same kind, and was not asked. The last column is auto's time over the best one's, and auto's choice.

    python benchmarks/qp_engines.py [dense|sparse]
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from _timing import best_of, machine
from scipy import sparse

from foldopt.solvers._qp.arguments import blocks_of, convexity_of, traits_of
from foldopt.solvers._qp.choose import choose
from foldopt.solvers._qp.one import as_program, point_of
from foldopt.solvers._qp.program import Limits, quality
from foldopt.solvers._qp.table import ENGINES
from foldopt.solvers.qp import QP
from foldopt.status import Solution, Status

PATIENCE, LIMIT = 0.5, 5.0


class Case(NamedTuple):
    kind: str
    n: int
    blocks: tuple[Any, ...]


def dense(n: int, rank: int | None, seed: int = 0) -> tuple[Any, ...]:
    """n inequalities, n/10 equalities, bounds on half of the variables; rank 0 is an LP."""
    r = np.random.default_rng(seed)
    x0, k = r.normal(size=n), n // 10
    if rank == 0:
        Q = None
    else:
        R = r.normal(size=(n, rank or n))
        Q = R @ R.T / n + (0 if rank else 0.1 * np.eye(n))
    G, A = r.normal(size=(n, n)), r.normal(size=(k, n))
    half = np.arange(n) % 2 == 0
    lower = np.where(half, x0 - r.random(n), -np.inf)
    upper = np.where(half, x0 + r.random(n), np.inf)
    h, b = G @ x0 + r.random(n), A @ x0
    # A linear objective that the constraints hold: −Gᵀλ − μ with multipliers of the right sign.
    p = -G.T @ r.random(n) if rank is not None else r.normal(size=n)
    return Q, p, G, h, A, b, lower, upper


def thin(n: int, convexity: str, seed: int = 0) -> tuple[Any, ...]:
    """Four entries in a row, of variables near each other, as in control or on a network.

    n inequalities, n/10 equalities, bounds; Q is banded, diagonal or absent.
    """
    r = np.random.default_rng(seed)
    x0, k = r.normal(size=n), n // 10

    def matrix(rows: int) -> Any:
        near = np.arange(rows)[:, None] * (n // rows) + r.integers(0, 20, size=(rows, 4))
        where = (np.repeat(np.arange(rows), 4), near.ravel() % n)
        return sparse.csc_matrix((r.normal(size=4 * rows), where), shape=(rows, n))

    G, A = matrix(n), matrix(k)
    D = sparse.diags([np.ones(n), -np.ones(n - 1)], [0, 1])  # type: ignore[arg-type]
    Q: Any = None
    if convexity == "strong":
        Q = sparse.csc_matrix(D.T @ D + 0.1 * sparse.eye(n))
    elif convexity == "semidefinite":
        Q = sparse.csc_matrix(sparse.diags(np.where(np.arange(n) % 2, 1.0, 0.0)))
    return Q, r.normal(size=n), G, G @ x0 + r.random(n), A, A @ x0, x0 - 1, x0 + 1


def cases() -> list[Case]:
    found = []
    for kind, rank in (("dense strong", None), ("dense semidefinite", 1), ("dense LP", 0)):
        for n in (5, 20, 100, 300):
            found.append(Case(kind, n, dense(n, rank and max(1, n // 2))))
    for kind in ("strong", "semidefinite", "LP"):
        for n in (100, 1000, 5000):
            found.append(Case(f"sparse {kind}", n, thin(n, kind)))
    return found


def residual(blocks: tuple[Any, ...], solution: Solution) -> float:
    program = as_program(*blocks)
    point = point_of(solution._replace(x=solution.x.numpy()))
    return quality(program, point).worst


def measure(engine: str, blocks: tuple[Any, ...]) -> tuple[float, str]:
    """Seconds, infinite if it was not solved, and a cell for the table."""
    timed = engine != "auto" and "time_limit" in ENGINES[engine].settings
    solver = QP(engine, time_limit=LIMIT if timed else None)
    solve: Callable[[], Solution] = functools.partial(solver, *blocks)
    begin = time.perf_counter()
    solution = solve()
    once = time.perf_counter() - begin
    status = Status(int(solution.status))
    if status != Status.CONVERGED:
        return float("inf"), f"{status.name.lower()[:14]} {1e3 * once:.0f}"
    seconds = min(once, best_of(solve, 5, budget=1.0)) if once < 1.0 else once
    return seconds, f"{1e3 * seconds:.2f} {residual(blocks, solution):.0e}"


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    print(f"{'':24s}" + "".join(f"{name:>20s}" for name in ENGINES) + "   auto / best")
    slow: set[tuple[str, str]] = set()
    for case in cases():
        if not case.kind.startswith(tuple(sys.argv[1:]) or ""):
            continue
        times: dict[str, float] = {}
        cells = []
        for engine in ENGINES:
            # ProxQP has no time limit, and was seen to take minutes.
            endless = engine == "proxqp" and case.kind.startswith("sparse") and case.n > 500
            if endless or (case.kind, engine) in slow:
                cells.append("–")
                continue
            times[engine], cell = measure(engine, case.blocks)
            cells.append(cell)
            if times[engine] > PATIENCE:
                slow.add((case.kind, engine))
        blocks = blocks_of(*case.blocks)
        first = choose(traits_of(blocks, convexity_of(blocks.params[0], None)), Limits())[0]
        best = min(times, key=lambda name: times[name])
        auto = measure("auto", case.blocks)[0]
        print(
            f"{case.kind:19s}{case.n:5d}" + "".join(f"{cell:>20s}" for cell in cells)
            + f"   {auto / times[best]:.2f} {first}; best {best}",
            flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
