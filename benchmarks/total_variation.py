"""Total variation layers, forward and backward: nn.TotalVariation beside the other ways to do it.

- dense: a learned D, gradients in the signal, the weight and D. qpth on the quadratic program in
  (x, t) (with σ = 1 for t, as published, which is another problem, and with 1e-4; its mean over the
  batch is corrected to a sum), and cvxpylayers with DIFFCP and with MOREAU.
- sequence: one long signal, its gradient. PIQP's sparse interface on the same program, and the
  derivative from the KKT system of its active rows by SciPy's sparse LU: the way of dQP (arXiv
  2410.06324).
- image: 64 × 64 pixels, anisotropic, with dimensions=2 and as a sparse operator.

Errors are relative, in the 2-norm, to the closed form on the active rows, computed by numpy from a
solution whose optimality conditions are checked. The worst gradient counts. Methods of one case
take turns on one thread; each cell is the best of several runs.

    python benchmarks/total_variation.py [dense|sequence|image]
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from _timing import machine
from _total_variation_cases import Case, Leaves, dense_case, image_case, sequence_case
from rich.console import Console
from rich.table import Table
from torch import Tensor

BUDGET = 8.0  # seconds for one method of one case


class Run(NamedTuple):
    forward: float
    backward: float
    x: Tensor
    gradients: Leaves


def once(method: Callable[..., Tensor], case: Case) -> Run:
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in case.leaves)
    begin = time.perf_counter()
    x = method(*leaves)
    middle = time.perf_counter()
    loss = (x * case.cotangent).sum()
    again = time.perf_counter()
    gradients = torch.autograd.grad(loss, leaves)
    end = time.perf_counter()
    return Run(middle - begin, end - again, x.detach(), gradients)


def relative(value: Tensor, exact: Tensor) -> float:
    return float((value - exact).norm() / exact.norm())


def measure(case: Case, console: Console) -> None:
    best: dict[str, Run] = {}
    spent: dict[str, float] = {}
    methods = {name: method for name, method in case.methods.items() if method is not None}
    for turn in range(12):
        for name, method in list(methods.items()):
            # A method that has had its time sits out, but everything runs once.
            if turn and spent[name] * (turn + 1) / turn > BUDGET:
                continue
            begin = time.perf_counter()
            try:
                run = once(method, case)
            except Exception as error:
                console.print(f"{name}: {type(error).__name__}: {str(error)[:100]}")
                del methods[name]
                continue
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin
            old = best.get(name)
            if old is None or run.forward + run.backward < old.forward + old.backward:
                best[name] = run
    table = Table(title=case.name)
    for heading in ("", "forward, ms", "backward, ms", "total, ms", "/ ours", "x", "gradient"):
        table.add_column(heading, justify="right" if heading else "left")
    ours = next(iter(best.values()))
    for name, run in best.items():
        total = run.forward + run.backward
        pairs = zip(run.gradients, case.gradients, strict=True)
        table.add_row(
            name, f"{1e3 * run.forward:.2f}", f"{1e3 * run.backward:.2f}", f"{1e3 * total:.2f}",
            f"{total / (ours.forward + ours.backward):.1f}", f"{relative(run.x, case.x):.0e}",
            f"{max(relative(mine, exact) for mine, exact in pairs):.0e}",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    console = Console(width=120)
    console.print(machine())
    asked = sys.argv[1:] or ["dense", "sequence", "image"]
    if "dense" in asked:
        for count, n in ((32, 100), (8, 400)):
            for learned in (False, True):
                measure(dense_case(count, n, learned, console), console)
    if "sequence" in asked:
        for n in (100_000, 1_000_000):
            measure(sequence_case(n, console), console)
    if "image" in asked:
        for weight in (0.1, 0.3):
            measure(image_case(64, weight, console), console)


if __name__ == "__main__":
    main()
