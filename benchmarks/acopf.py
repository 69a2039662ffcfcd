"""AC optimal power flow with its gradient: how time and memory grow with the grid.

For MATPOWER's grids, as PYPOWER has them, one sample at nominal loads:

- Ipopt: its time alone, with our sparse derivatives;
- forward: a call of nn.ACOPF, Ipopt included, with the exact solution and its certificate;
- backward: the gradient of a random linear loss of dispatch and prices in all loads and costs;
- backward / Ipopt;
- error: of that gradient against central differences, each solved anew by Ipopt, over all loads and
  costs where the grid has up to 57 buses, and in four random directions beyond;
- peak: the memory of the process, less that of one that has only loaded the packages.

Each grid has a process of its own. The last line is the exponent of growth: times against the
number of variables, least squares in logarithms. PYPOWER's own solver, which has no gradient, is
timed beside it.

    python benchmarks/acopf.py [rounds]
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from _timing import best_of, machine

from foldopt.nn._acopf.engine import by_ipopt
from foldopt.nn._nlp.engines import Limits
from foldopt.nn.acopf import ACOPF, ACOPFSolution

GRIDS = (14, 30, 57, 118, 300)
STEPS = (1e-2, 1e-2, 1e-6, 1e-3)  # of pd, qd, quadratic, linear
FULL = 57  # buses up to which every component is compared


def loss_of(found: ACOPFSolution, weights: list[torch.Tensor]) -> torch.Tensor:
    loss = torch.zeros_like(found.va[..., 0])
    for part, weight in zip(found[:6], weights, strict=True):
        loss = loss + (part * weight).sum(-1)
    return loss


def gradient_error(layer: ACOPF, buses: int, weights: list[torch.Tensor]) -> float:
    """The worst error, relative to the largest component of that param's gradient."""
    grid = layer.grid
    plain = [torch.tensor(p) for p in (grid.pd, grid.qd, grid.quadratic, grid.linear)]
    leaves = [p.clone().requires_grad_() for p in plain]
    gradients = torch.autograd.grad(loss_of(layer(*leaves), weights), leaves)
    random, worst = torch.Generator().manual_seed(1), 0.0
    for k, (gradient, h) in enumerate(zip(gradients, STEPS, strict=True)):
        ways = torch.eye(len(gradient), dtype=torch.float64)
        if buses > FULL:
            ways = torch.randn(4, len(gradient), generator=random, dtype=torch.float64)
            ways = ways / ways.norm(dim=-1, keepdim=True)
        given = list(plain)
        given[k] = torch.cat([plain[k] + h * ways, plain[k] - h * ways])
        with torch.no_grad():
            ahead, behind = loss_of(layer(*given), weights).chunk(2)
        error = (ahead - behind) / (2 * h) - ways @ gradient
        worst = max(worst, float(error.abs().max() / gradient.abs().max()))
    return worst


def measure(buses: int, rounds: int) -> dict[str, float]:
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    layer = ACOPF(f"case{buses}", prices=True, executor="serial")
    grid, random = layer.grid, torch.Generator().manual_seed(0)
    leaves = [torch.tensor(p) for p in (grid.pd, grid.qd, grid.quadratic, grid.linear)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    found = layer(*leaves)
    weights = [torch.randn(p.shape, generator=random, dtype=torch.float64) for p in found[:6]]
    engine, start = layer.engine, torch.from_numpy(grid.start())[None]
    given = tuple(leaf.detach() for leaf in leaves)

    def ipopt() -> None:
        by_ipopt(engine.network, engine.derivatives, Limits(executor="serial"), given,
                 (0, 1, 2, 3), start)  # fmt: skip

    forward = backward = math.inf
    alone = best_of(ipopt, rounds)
    for _ in range(rounds):
        begin = time.perf_counter()
        loss = loss_of(layer(*leaves), weights)
        middle = time.perf_counter()
        torch.autograd.grad(loss, leaves)
        forward = min(forward, middle - begin)
        backward = min(backward, time.perf_counter() - middle)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "n": grid.variables, "ipopt": alone, "forward": forward, "backward": backward,
        "peak": peak / 1024, "error": gradient_error(layer, buses, weights),
        "pypower": best_of(pypower(buses), max(1, rounds // 5)),
        "cost": float(layer.cost(found.pg).detach()),
    }  # fmt: skip


def pypower(buses: int) -> Callable[[], object]:
    from pypower import api

    tables, options = getattr(api, f"case{buses}")(), api.ppoption(VERBOSE=0, OUT_ALL=0)
    return lambda: api.runopf(tables, options)


def growth(rows: list[dict[str, float]], what: str) -> float:
    sizes, times = (np.log([row[key] for row in rows]) for key in ("n", what))
    return float(np.polyfit(sizes, times, 1)[0])


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print(machine())
    columns = ("PYPOWER", "Ipopt", "forward", "backward")
    print(f"{'grid':>8} {'n':>4} {'cost, $/h':>11}", *(f"{c + ', ms':>12}" for c in columns),
          f"{'b / Ipopt':>9} {'error':>8} {'peak, MB':>8}")  # fmt: skip
    rows = []
    for buses in GRIDS:
        command = [sys.executable, __file__, "--one", str(buses), str(rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        times = (1e3 * row[key] for key in ("pypower", "ipopt", "forward", "backward"))
        print(f"{f'case{buses}':>8} {row['n']:4.0f} {row['cost']:11.2f}",
              *(f"{t:12.2f}" for t in times),
              f"{row['backward'] / row['ipopt']:9.3f} {row['error']:8.1e} {row['peak']:8.0f}",
              flush=True)  # fmt: skip
    exponents = (growth(rows, key) for key in ("pypower", "ipopt", "forward", "backward"))
    print(f"{'growth':>8} {'':4} {'':11}", *(f"{f'n^{e:.2f}':>12}" for e in exponents))


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
