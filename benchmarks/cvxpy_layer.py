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

import dataclasses
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
from _timing import machine
from dense_qp import problem as quadratic
from rich.console import Console
from rich.table import Table
from torch import Tensor

import foldopt as fo
from foldopt.cvxpy import CvxpyLayer

cp: Any = importlib.import_module("cvxpy")  # of whose operators the type checker knows too little
ROUNDS, BUDGET = 10, 20.0
SECONDS, MEMORY = 300.0, 15 * 2**30
RIVALS = {"cvxpylayers DIFFCP": None, "cvxpylayers MOREAU": "MOREAU"}
Problem = tuple[Any, list[Any], list[Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """What to time.

    Attributes
    ----------
    make
        The problem, its parameters and its variables, new at each call.
    values
        Of the parameters.
    truth
        The solution as a differentiable function of them; None: only construction is timed.
    alone
        Whether each layer has a process of its own, with limits.
    """

    title: str
    make: Callable[[], Problem]
    values: list[Tensor]
    truth: Callable[..., Tensor] | None
    alone: bool = False


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def construction(n: int, alone: bool = False) -> Case:
    def make() -> Problem:
        x, F, g = cp.Variable(n), cp.Parameter((2 * n, n)), cp.Parameter(2 * n)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(F @ x - g)), [x >= 0, cp.sum(x) == 1])
        return problem, [F, g], [x]

    return Case(f"construction, n = {n}", make, [], None, alone)


def programs(count: int, n: int, m: int, k: int) -> Case:
    blocks, _ = quadratic(count, n, m, k)
    Q, *rest = blocks

    def make() -> Problem:
        shapes = ((n, n), n, (m, n), m, (k, n), k)
        F, p, G, h, A, b = parameters = [cp.Parameter(shape) for shape in shapes]
        x = cp.Variable(n)
        objective = cp.Minimize(0.5 * cp.sum_squares(F @ x) + p @ x)
        return cp.Problem(objective, [G @ x <= h, A @ x == b]), parameters, [x]

    def truth(F: Tensor, *others: Tensor) -> Tensor:
        """The KKT system of the rows that Clarabel finds active, by torch.linalg."""
        blocks = (F.mT @ F, *others)
        found = fo.solvers.QP("clarabel", rtol=1e-12)(*(block.detach() for block in blocks))
        rows = []
        for Q, p, G, h, A, b, x, lam in zip(
            *blocks, found.x, found.multipliers.inequality, strict=True
        ):
            held = lam > (h - G @ x).detach()
            W = torch.cat([A, G[held]])
            corner = W.new_zeros(len(W), len(W))
            K = torch.cat([torch.cat([Q, W.mT], 1), torch.cat([W, corner], 1)])
            rows.append(torch.linalg.solve(K, torch.cat([-p, b, h[held]]))[:n])
        return torch.stack(rows)

    values = [torch.linalg.cholesky(Q).mT.contiguous(), *rest]
    return Case(f"quadratic programs, B = {count}, n = {n}, m = {m}, k = {k}", make, values, truth)


def total_variation(n: int) -> Case:
    def make() -> Problem:
        x, d, weight = cp.Variable(n), cp.Parameter(n), cp.Parameter(nonneg=True)
        objective = 0.5 * cp.sum_squares(x - d) + weight * cp.norm1(cp.diff(x))
        return cp.Problem(cp.Minimize(objective)), [d, weight], [x]

    def truth(d: Tensor, weight: Tensor) -> Tensor:
        found = fo.nn.TotalVariation()(d, weight)
        assert isinstance(found, Tensor)
        return found

    signal = torch.repeat_interleave(normal(0, n // 50), 50) + 0.3 * normal(1, n)
    return Case(f"total variation, n = {n}", make, [signal, torch.tensor(1.0)], truth)


def semidefinite(count: int, k: int) -> Case:
    def make() -> Problem:
        S, C = cp.Variable((k, k), PSD=True), cp.Parameter((k, k))
        return cp.Problem(cp.Minimize(cp.sum_squares(S - C)), [cp.trace(S) == 1]), [C], [S]

    def truth(C: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh((C + C.mT) / 2)
        return (vectors * fo.projections.simplex(values).unsqueeze(-2)) @ vectors.mT

    C = normal(0, count, k, k)
    return Case(f"semidefinite, B = {count}, k = {k}", make, [(C + C.mT) / 2], truth)


def each(one: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same for a batch of matrices, of which the symmetric part counts."""
    return lambda C: torch.stack([one((part + part.mT) / 2) for part in C])


def correlation(count: int, k: int) -> Case:
    def make() -> Problem:
        X, C = cp.Variable((k, k), PSD=True), cp.Parameter((k, k))
        return cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cp.diag(X) == 1]), [C], [X]

    def point(C: Tensor, y: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(C + torch.diag(y))
        return (vectors * values.relu()) @ vectors.mT

    def one(C: Tensor) -> Tensor:
        """The positive part of C + diag(y), for the y that puts ones on its diagonal."""

        def rest(y: Tensor, C: Tensor) -> Tensor:
            return point(C, y).diagonal() - 1

        y = torch.ones(k) - C.detach().diagonal()
        for _ in range(30):
            y = y - torch.linalg.solve(torch.func.jacfwd(rest)(y, C.detach()), rest(y, C.detach()))
        slope = torch.func.jacfwd(rest)(y, C.detach())
        return point(C, y - torch.linalg.solve(slope, rest(y, C)))

    C = 0.5 * normal(0, count, k, k)
    C = torch.eye(k) + (C + C.mT) / 2 * (1 - torch.eye(k))
    return Case(f"nearest correlation matrix, B = {count}, k = {k}", make, [C], each(one))


def cut(count: int, k: int) -> Case:
    def make() -> Problem:
        X, C = cp.Variable((k, k), PSD=True), cp.Parameter((k, k))
        return cp.Problem(cp.Minimize(cp.trace(C @ X)), [cp.diag(X) == 1]), [C], [X]

    def rest(z: Tensor, C: Tensor) -> Tensor:
        """Of X = VVᵀ and its multipliers y: (C − diag(y)) V = 0, and X has ones on the diagonal."""
        y, V = z[:k], z[k:].view(k, -1)
        return torch.cat([(V * V).sum(1) - 1, ((C - torch.diag(y)) @ V).flatten()])

    def one(C: Tensor) -> Tensor:
        problem, (parameter,), (X,) = make()
        parameter.value = C.detach().numpy()
        problem.solve(solver="SCS", eps=1e-9)
        values, vectors = torch.linalg.eigh(torch.from_numpy(X.value))
        V = (vectors * values.clamp(min=0).sqrt())[:, values > 1e-4]
        z = torch.cat([(C.detach() @ V * V).sum(1), V.flatten()])

        # V may be turned, and so its equations have many solutions; X has one.
        def newton(C: Tensor) -> Tensor:
            slope = torch.func.jacrev(rest)(z, C.detach())
            return z - torch.linalg.pinv(slope, rtol=1e-9) @ rest(z, C)

        for _ in range(4):
            z = newton(C.detach())
        V = newton(C)[k:].view(k, -1)
        return V @ V.mT

    C = normal(0, count, k, k)
    return Case(f"maximal cut, B = {count}, k = {k}", make, [(C + C.mT) / 2], each(one))


def portfolio() -> Case:
    count, n = 8, 20
    L = 0.0025 * (2 * torch.rand(n, 4, generator=torch.Generator().manual_seed(0)) - 1)
    V = L @ L.mT + 1e-4 * torch.eye(n)
    gamma = 2.25 * V.mean()
    root = torch.linalg.cholesky(V).mT.numpy()

    def make() -> Problem:
        x, c = cp.Variable(n), cp.Parameter(n)
        rows = [cp.sum_squares(root @ x) <= float(gamma), cp.sum(x) == 1, x >= 0]
        return cp.Problem(cp.Maximize(c @ x), rows), [c], [x]

    def truth(c: Tensor) -> Tensor:
        found = fo.nn.Portfolio()(c, V, gamma)
        assert isinstance(found, Tensor)
        return found

    return Case(
        "portfolio (eq. 20), B = 8, n = 20", make, [0.05 + 0.02 * normal(1, count, n)], truth
    )


CASES: dict[str, Callable[[], list[Case]]] = {
    "construction": lambda: [construction(100), construction(1000, alone=True)],
    "qp": lambda: [programs(64, 20, 20, 5), programs(64, 100, 100, 20)],
    "tv": lambda: [total_variation(10_000), total_variation(100_000)],
    "psd": lambda: [semidefinite(8, 20), semidefinite(8, 50)],
    "correlation": lambda: [correlation(8, 50)],
    "cut": lambda: [cut(8, 50)],
    "portfolio": lambda: [portfolio()],
}


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
