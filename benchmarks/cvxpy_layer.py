"""CvxpyLayer beside cvxpylayers, with its DIFFCP and MOREAU backends: time and accuracy.

Cases:

- construction: least squares with x ≥ 0 and Σx = 1, the matrix 2n × n and the vector parameters;
- batches of quadratic programs, those of dense_qp.py, the rows of ‖Fx‖² + pᵀx among the parameters;
- total variation of a sequence of n entries;
- the nearest matrix of trace 1 in the cone of semidefinite ones of order k, B of them; the nearest
  correlation matrix; and the relaxation of the maximal cut, min ⟨C, X⟩ with ones on the diagonal;
- the portfolio of eq. 20 with V and γ at their own scale of 1e-4 and 1e-5, B = 8, n = 20.

The layers take turns, and the least time of each counts. Errors are relative in norm, of the
solution and of the worst gradient, against the KKT system of the active rows, nn.TotalVariation,
the projection of the eigenvalues on the simplex, Newton's method on the dual of the correlation
matrix, the equations of the factors of the cut's matrix, and nn.Portfolio. A layer that has taken
its budget of seconds takes no further turn; one that raises is named with its words. For n = 1000
each layer is constructed in a process of its own, with a limit to its time and its memory.

    python benchmarks/cvxpy_layer.py [construction qp tv psd correlation cut portfolio ...]
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _cvxpy_cases import CASES, Case, construction, normal
from _timing import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor

from foldopt.cvxpy import CvxpyLayer

ROUNDS, BUDGET = 10, 20.0
SECONDS, MEMORY = 300.0, 15 * 2**30
RIVALS = {"cvxpylayers DIFFCP": None, "cvxpylayers MOREAU": "MOREAU"}


class Seen:
    """The best times of one layer, and its answers."""

    def __init__(self, make: Callable[..., Any] | str) -> None:
        self.make = make
        self.layer: Any = None
        self.times = [float("inf")] * 4  # construction, forward, backward, total
        self.spent = 0.0
        self.words = make if isinstance(make, str) else ""
        self.x: Tensor | None = None
        self.gradients: list[Tensor] = []
        self.peak = ""

    def turn(self, case: Case, w: Tensor | None) -> None:
        if self.words or self.spent > BUDGET:
            return
        try:
            self._turn(case, w)
        except Exception as failure:
            self.words = f"{type(failure).__name__}: {failure}"[:70].replace("\n", " ")

    def _turn(self, case: Case, w: Tensor | None) -> None:
        assert callable(self.make)
        begin = time.perf_counter()
        if self.layer is None or case.truth is None:
            self.layer = self.make(*case.make())
            self._note(0, begin)
        if w is not None:
            leaves = [value.clone().requires_grad_() for value in case.values]
            start = time.perf_counter()
            (x,) = self.layer(*leaves)
            self._note(1, start)
            between = time.perf_counter()
            (x * w).sum().backward()
            self._note(2, between)
            self._note(3, start)
            self.x = x.detach()
            self.gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        self.spent += time.perf_counter() - begin

    def _note(self, what: int, since: float) -> None:
        self.times[what] = min(self.times[what], time.perf_counter() - since)


def layers() -> dict[str, Seen]:
    found = {"fold-opt": Seen(CvxpyLayer)}
    there = importlib.util.find_spec("cvxpylayers") is not None
    for name, solver in RIVALS.items():
        if not there or (solver and importlib.util.find_spec(solver.lower()) is None):
            found[name] = Seen("not installed")
            continue
        rival = importlib.import_module("cvxpylayers.torch").CvxpyLayer
        found[name] = Seen(lambda *parts, s=solver, r=rival: r(*parts, solver=s))
    return found


def constructed(name: str, n: int) -> None:
    """What a process of its own does: print the least time of some constructions."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    one = layers()[name]
    one.turn(construction(10), None)  # everything that is done once
    one.layer, one.times, one.spent = None, [float("inf")] * 4, 0.0
    for _ in range(ROUNDS):
        one.turn(construction(n), None)
    # Of this process alone: ru_maxrss would begin with that of the one that started it.
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    print(one.words or f"{one.times[0]} {peak:.2f}")


def alone(case: Case, seen: dict[str, Seen]) -> None:
    """Construct each layer in a process of its own."""
    n = case.title.split()[-1]
    for name, one in seen.items():
        if one.words:
            continue
        command = [sys.executable, __file__, "--construct", name, n]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            one.words = f"took more than {SECONDS:.0f} s"
            continue
        last = (done.stdout.strip().splitlines() or [""])[-1]
        if done.returncode or "Memory" in last:
            one.words = f"ran out of {MEMORY / 2**30:.0f} GiB of memory"
        else:
            one.times[0] = float(last.split()[0])
            one.peak = last.split()[1]


def measure(case: Case) -> Table:
    seen, w, x, gradients = layers(), None, None, []
    if case.alone:
        alone(case, seen)
    if case.truth is not None:
        leaves = [value.clone().requires_grad_() for value in case.values]
        x = case.truth(*leaves)
        w = normal(7, *x.shape)
        if x.dim() > 2:
            w = w + w.mT
        (x * w).sum().backward()
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    for _ in range(0 if case.alone else ROUNDS):
        for one in seen.values():
            one.turn(case, w)
    table = Table(title=case.title)
    headings = ["construction, ms", "forward, ms", "backward, ms", "total, ms", "ours / theirs"]
    for heading in ("layer", *headings, "x error", "gradient error"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    what = 0 if case.truth is None else 3
    ours = seen["fold-opt"].times[what]
    for name, one in seen.items():
        if one.words:
            table.add_row(name, one.words)
            continue
        row = [f"{1e3 * t:.2f}" if t < float("inf") else "" for t in one.times]
        row.append(f"{ours / one.times[what]:.2f}")
        if x is not None and one.x is not None:
            row.append(f"{distance(one.x, x.detach()):.0e}")
            pairs = zip(one.gradients, gradients, strict=True)
            row.append(f"{max(distance(symmetric(a), symmetric(b)) for a, b in pairs):.0e}")
        table.add_row(f"{name} ({one.peak} GiB)" if one.peak else name, *row)
    return table


def symmetric(gradient: Tensor) -> Tensor:
    """Of the gradient in a batch of symmetric matrices, the part that means anything."""
    square = gradient.dim() == 3 and gradient.shape[-1] == gradient.shape[-2]
    return (gradient + gradient.mT) / 2 if square else gradient


def distance(seen: Tensor, right: Tensor) -> float:
    return float((seen - right).norm() / right.norm())


def main() -> None:
    warnings.simplefilter("ignore")  # the rivals' own
    torch.set_default_dtype(torch.float64)
    if sys.argv[1:2] == ["--construct"]:
        constructed(sys.argv[2], int(sys.argv[3]))
        return
    console = Console(width=150)
    console.print(machine())
    for name in sys.argv[1:] or CASES:
        for case in CASES[name]():
            console.print(measure(case))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            console.print(f"peak memory of the process so far: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
