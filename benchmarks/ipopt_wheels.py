"""Which package should bring Ipopt: casadi's wheel, ipyopt's, or a cyipopt that somebody has built.

Processor time of a solve, with the same callbacks of this library everywhere, so that only the
packages differ; the share of it that is spent in them; answers from several threads at once
compared with those of one; and what the packages say of themselves.

    python -m pip install -c constraints.txt casadi ipyopt
    python benchmarks/ipopt_wheels.py

Measured on 2 busy x86 cores, 22 November 2026, Python 3.11, torch 2.13, milliseconds of processor
time, all answers CONVERGED:

                              casadi 3.8.2    ipyopt 0.12.10    cyipopt 1.7.0
    Ipopt inside              3.14.19         3.12.12           Debian's 3.11.9
    HS 1, 71, 100             155, 58, 138    88, 34, 118       105, 46, 127
    chain, n = 30             306             129               204
    chain, n = 100, dense     851             578               620
    chain, n = 100, sparse    503             366               452
    chain, n = 400, sparse    2300            1621              2188
    in callbacks              54-76 %         62-85 %           54-85 %
    last release              2026-10         2025-04           2026-04
    on disk                   284 MB          43 MB             no wheel holds Ipopt
    licence                   LGPL-3.0+       BSD-3-Clause      EPL-2.0

From 2, 4 and 8 threads at once both wheels gave the very answers of one thread, and none crashed;
processor time over wall-clock time stayed near 1 (at most 1.4 for casadi, 1.0 for ipyopt), so that
threads gain nothing: the callbacks are Python. All three return all multipliers and Ipopt's status.

casadi comes first: it is the better kept, its Ipopt has seven more years of fixes, and a limit of
wall-clock time of its own. ipyopt is the lighter one, and the faster one for small programs.
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import importlib.util
import pathlib
import sys
import time
from typing import Any

import torch
from _timing import machine
from torch import Tensor

from foldopt.solvers._ipopt import derivatives
from foldopt.solvers.ipopt import ENGINES, Ipopt

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.nonlinear import HS

F64 = torch.float64
THREADS = 4


def chain(x: Tensor, c: Tensor) -> Tensor:
    """Rosenbrock's chain."""
    return (c * (x[1:] - x[:-1] ** 2) ** 2).sum() + ((1 - x[:-1]) ** 2).sum()


def problems(engine: str) -> dict[str, tuple[Ipopt, tuple[Any, ...]]]:
    """Solvers and their params."""
    common: dict[str, Any] = {"engine": engine, "executor": "serial"}
    found: dict[str, tuple[Ipopt, tuple[Any, ...]]] = {}
    for name in ("1", "26", "71", "100"):
        known = HS[name]
        functions = known.objective, known.inequality, known.equality
        found[f"HS {name}"] = (Ipopt(*functions, start=known.x0, **known.bounds, **common), ())
    c = torch.tensor([20.0], dtype=F64)
    for n, sparse in ((30, False), (100, False), (100, True), (400, True)):
        start = torch.full((n,), -1.0, dtype=F64)
        solver = Ipopt(
            chain, lambda x, c: x[:-1] * x[1:] - 2, start=start, sparse=sparse, **common
        )  # fmt: skip
        found[f"chain, n = {n}, {'sparse' if sparse else 'dense'}"] = (solver, (c,))
    return found


def seconds_of(solver: Ipopt, params: tuple[Any, ...], repeats: int = 5) -> float:
    """Processor time, the least of some runs: other programs on the machine do not count."""
    found = []
    for _ in range(repeats + 1):  # the first to warm up
        start = time.process_time()
        solver(*params)
        found.append(time.process_time() - start)
        if sum(found) > 4:
            break
    return min(found)


def share_of_callbacks(solver: Ipopt, params: tuple[Any, ...]) -> float:
    """The part of the time that the user's functions and their derivatives take."""
    spent = 0.0
    original = derivatives.Oracle._safely

    def timed(self: Any, *arguments: Any) -> Any:
        nonlocal spent
        start = time.process_time()
        try:
            return original(self, *arguments)
        finally:
            spent += time.process_time() - start

    derivatives.Oracle._safely = timed  # pyright: ignore[reportAttributeAccessIssue]
    try:
        start = time.process_time()
        solver(*params)
        return spent / (time.process_time() - start)
    finally:
        derivatives.Oracle._safely = original


def threads(engine: str) -> str:
    """The same programs from one thread and from several: differences, and the speed."""
    known = HS["100"]

    def solve(_: int) -> Tensor:
        solver = Ipopt(known.objective, known.inequality, start=known.x0, engine=engine)
        return solver().x

    start = time.perf_counter()
    alone = [solve(i) for i in range(12)]
    one = time.perf_counter() - start
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(solve, range(12)))
    many = time.perf_counter() - start
    worst = max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True))
    return f"{THREADS} threads: {one / many:.2f} times as fast as one, answers within {worst:.0e}"


def size(package: str) -> float:
    """Megabytes on disk, with the libraries beside it."""
    files = importlib.metadata.files(package) or []
    paths = [pathlib.Path(str(file.locate())) for file in files]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    for engine in ENGINES:
        if importlib.util.find_spec(engine) is None:
            print(f"\n{engine}: not installed")
            continue
        print(f"\n{engine} {importlib.metadata.version(engine)}, {size(engine):.0f} MB")
        for name, (solver, params) in problems(engine).items():
            seconds = seconds_of(solver, params)
            share = share_of_callbacks(solver, params)
            status = int(solver(*params).status)
            print(
                f"  {name:24s} {1e3 * seconds:8.1f} ms   in callbacks "
                f"{100 * share:3.0f} %   status {status}"
            )
        print(" ", threads(engine))


if __name__ == "__main__":
    main()
