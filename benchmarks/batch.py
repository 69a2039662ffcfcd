"""A batch on the cores of this machine: throughput of all of them over that of one.

Each engine solves a batch of instances that take a millisecond or more, once in this thread and
once as executor="auto" would spread it: in threads where the engine lets them run and the batch is
shorter than a second or has much data, in processes otherwise (started before the clock is). The
ratio is bounded by the cores; the first line shows what a plain loop without any solver reaches, in
processes.

    python benchmarks/batch.py [seconds]

where a batch takes about so many seconds on one core (default 2).
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _timing import machine
from torch import Tensor

from foldopt import Solution, solvers
from foldopt.solvers._qp.table import ENGINES
from foldopt.solvers._run.executors import cores

F64 = torch.float64


@functools.cache  # made before the clock runs
def programs(samples: int, n: int) -> tuple[Tensor, ...]:
    """Strongly convex, n variables, n inequalities, n/10 equalities."""
    g = torch.Generator().manual_seed(0)
    R = torch.randn(samples, n, n, generator=g, dtype=F64)
    Q = R @ R.mT / n + 0.1 * torch.eye(n, dtype=F64)
    p = torch.randn(samples, n, generator=g, dtype=F64)
    G = torch.randn(samples, n, n, generator=g, dtype=F64)
    A = torch.randn(samples, n // 10, n, generator=g, dtype=F64)
    x0 = torch.randn(samples, n, 1, generator=g, dtype=F64)
    h = (G @ x0).squeeze(-1) + torch.rand(samples, n, generator=g, dtype=F64)
    return Q, p, G, h, A, (A @ x0).squeeze(-1)


@functools.cache
def bilinear(samples: int, n: int) -> tuple[Any, ...]:
    """min cᵀx + xᵀQy over boxes; Q and c random."""
    g = torch.Generator().manual_seed(0)
    half = torch.randn(samples, n // 2, n // 2, generator=g, dtype=F64)
    Q = torch.zeros(samples, n, n, dtype=F64)
    Q[:, : n // 2, n // 2 :], Q[:, n // 2 :, : n // 2] = half, half.mT
    p = torch.randn(samples, n, generator=g, dtype=F64)
    return Q, p, None, None, None, None, 0.0, 1.0


def busy(c: np.ndarray) -> np.ndarray:
    """A millisecond or two of plain Python."""
    total = 0.0
    for i in range(30_000):
        total += i * float(c[0])
    return np.array([total])


def rosenbrock(x: Tensor, c: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2).sum() + ((1 - x) ** 2 * c).sum()


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    help: str  # "threads" or "processes"
    solve: Callable[[str, int], Solution]  # executor, samples


def cases() -> list[Case]:
    def loop(executor: str, samples: int) -> Solution:
        given: Any = executor
        return solvers.solve_batch(busy, torch.rand(samples, 1), executor=given)

    found = [Case("plain Python", "processes", loop)]
    for name, engine in ENGINES.items():
        n = {"highs": 30, "daqp": 100, "moreau": 100}.get(name, 60)

        def quadratic(executor: str, samples: int, name: str = name, n: int = n) -> Solution:
            given: Any = executor
            return solvers.QP(name, executor=given)(*programs(samples, n))

        # What executor="auto" would take: threads for batches shorter than a second, if at all.
        for help in ("threads", "processes")[0 if engine.releases_gil else 1 :]:
            found.append(Case(f"QP {name}, n = {n}", help, quadratic))

    def conic(executor: str, samples: int) -> Solution:
        given: Any = executor
        n = 30
        cones = solvers.Cones(second_order=(n + 1,))
        A = torch.cat([torch.zeros(1, n, dtype=F64), -torch.eye(n, dtype=F64)])
        b = torch.zeros(n + 1, dtype=F64)
        b[0] = 1
        q = torch.randn(samples, n, dtype=F64)
        return solvers.Conic(cones, executor=given)(None, q, A, b)

    def scip(executor: str, samples: int) -> Solution:
        given: Any = executor
        return solvers.GlobalQP("scip", executor=given)(*bilinear(samples, 12))

    def ipopt(executor: str, samples: int) -> Solution:
        given: Any = executor
        solve = solvers.Ipopt(rosenbrock, n=6, executor=given)
        return solve(torch.ones(samples, 6, dtype=F64) + torch.rand(samples, 6, dtype=F64))

    return [
        *found,
        Case("Conic clarabel", "processes", conic),
        Case("GlobalQP scip", "processes", scip),
        Case("Ipopt casadi", "processes", ipopt),
    ]


def timed(solve: Callable[[], Solution]) -> tuple[float, int]:
    begin = time.perf_counter()
    status = solve().status
    return time.perf_counter() - begin, int((status != 0).sum())


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    torch.set_num_threads(1)
    print(machine(), f"{cores()} cores\n")
    print(f"{'':24s}{'samples':>8s}{'ms each':>9s}{'helped by':>11s}{'s':>7s}{'ratio':>7s}  failed")
    for case in cases():
        try:
            case.solve("serial", 2)
            # The faster of two: the first brings in what is imported only now and then.
            first, _ = min(timed(lambda case=case: case.solve("serial", 6)) for _ in range(2))
            samples = max(8, min(4000, int(seconds / (first / 6))))
            case.solve(case.help, 2 * cores())  # starts them, and what they import
            case.solve(case.help, samples)
            rounds = [
                (
                    timed(lambda case=case, count=samples: case.solve("serial", count)),
                    timed(lambda case=case, count=samples: case.solve(case.help, count)),
                )
                for _ in range(3)
            ]
        except ImportError as error:
            print(f"{case.name:24s} {error}")
            continue
        alone, together = (min(one[i][0] for one in rounds) for i in (0, 1))
        failed = rounds[0][0][1] + rounds[0][1][1]
        print(
            f"{case.name:24s}{samples:8d}{1e3 * alone / samples:9.2f}{case.help:>11s}"
            f"{together:7.2f}{alone / together:7.2f}  {failed}"
        )


if __name__ == "__main__":
    main()
