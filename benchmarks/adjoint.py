"""Which adjoint solver is fastest where, and how near Auto comes to the best of them.

Each row is one backward pass in float64, with a fresh fold each time; a dash marks a solver that
does not solve that system (it says so itself). The last column is Auto's time over the best fixed
choice's.

    python benchmarks/adjoint.py
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _timing import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor

import foldopt as fo

Case = tuple[Callable[..., Tensor], Tensor, Tensor]
ADJOINTS = (fo.LFPI(), fo.CG(), fo.GMRES(), fo.BiCGSTAB(), fo.Dense(), fo.Auto())


def spd(n: int, condition: float) -> Tensor:
    """A symmetric matrix with eigenvalues spread evenly on a log scale from 1/condition to 1."""
    q, _ = torch.linalg.qr(torch.randn(n, n))
    return q @ torch.diag(torch.logspace(0, -float(torch.tensor(condition).log10()), n)) @ q.T


def quadratic(samples: int, n: int, condition: float, declared: bool) -> Case:
    """A gradient step on ½xᵀQx − cᵀx; Φ = I − Q is symmetric, and may say so."""
    q = spd(n, condition)
    c = torch.randn(samples, n)
    x = torch.linalg.solve(q, c.T).T
    return fo.steps.Step(lambda x, c: x - (x @ q - c), symmetric=declared), x, c


def newton(samples: int, n: int) -> Case:
    """Newton's step for the same: Φ = 0."""
    q = spd(n, 10.0)
    inverse = torch.linalg.inv(q)
    c = torch.randn(samples, n)
    return (lambda x, c: x - (x @ q - c) @ inverse), c @ inverse, c


def general(samples: int, n: int, norm: float) -> Case:
    """tanh(Mx + c): Φ is neither symmetric nor normal."""
    m = torch.randn(n, n)
    m = norm * m / torch.linalg.matrix_norm(m, 2)
    c = torch.randn(samples, n)

    def step(x: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(x @ m.T + c)

    return step, fo.fixed_point(step, torch.zeros(samples, n), c).detach(), c


def lasso(samples: int, n: int, m: int, weight: float) -> Case:
    a = torch.randn(m, n) / m**0.5
    lipschitz = torch.linalg.matrix_norm(a, 2) ** 2
    c = 2 * torch.randn(samples, m)

    def step(x: Tensor, c: Tensor) -> Tensor:
        return fo.prox.l1(x - (x @ a.T - c) @ a / lipschitz, weight / lipschitz)

    start = torch.zeros(samples, n)
    x = fo.fixed_point(step, start, c, max_iterations=20000, rtol=1e-10)
    return step, x.detach(), c


def simplex(samples: int, n: int) -> Case:
    """Mean-variance portfolios."""
    q = spd(n, 30.0) + 0.1 * torch.eye(n)
    step = fo.steps.projected_gradient(
        lambda x, c: 0.5 * ((x @ q) * x).sum(-1) - (c * x).sum(-1), fo.projections.simplex, 0.9
    )
    c = torch.randn(samples, n)
    return step, fo.fixed_point(step, torch.full((samples, n), 1 / n), c).detach(), c


def cases() -> dict[str, Callable[[], Case]]:
    return {
        "tanh, B 1, n 10": lambda: general(1, 10, 0.6),
        "tanh, B 64, n 40": lambda: general(64, 40, 0.9),
        "tanh, B 64, n 200": lambda: general(64, 200, 0.6),
        "tanh, B 16, n 500": lambda: general(16, 500, 0.99),
        "tanh, B 4, n 2000": lambda: general(4, 2000, 0.95),
        "Newton, B 16, n 200": lambda: newton(16, 200),
        "quadratic κ 3, B 16, n 300": lambda: quadratic(16, 300, 3.0, True),
        "quadratic κ 1e3, B 16, n 300": lambda: quadratic(16, 300, 1e3, True),
        "quadratic κ 1e3, undeclared": lambda: quadratic(16, 300, 1e3, False),
        "quadratic κ 100, B 4, n 2000": lambda: quadratic(4, 2000, 100.0, True),
        "lasso, B 64, n 200": lambda: lasso(64, 200, 150, 0.3),
        "lasso, B 8, n 1000": lambda: lasso(8, 1000, 500, 0.5),
        "portfolio, B 32, n 20": lambda: simplex(32, 20),
        "portfolio, B 32, n 200": lambda: simplex(32, 200),
    }


def seconds(case: Case, adjoint: Any, w: Tensor, repeats: int = 7, budget: float = 4.0) -> float:
    """The best backward time of several fresh folds, or inf if the system was not solved."""
    step, x, c = case
    best, begin = float("inf"), time.perf_counter()
    for _ in range(repeats):
        leaf = c.clone().requires_grad_()
        loss = (fo.fold(step, x, leaf, adjoint=adjoint) * w).sum()
        start = time.perf_counter()
        try:
            torch.autograd.grad(loss, leaf)
        except fo.FoldError:
            return float("inf")
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - begin > budget:
            break
    return best


def main() -> None:
    warnings.simplefilter("ignore", fo.FoldWarning)
    torch.set_default_dtype(torch.float64)
    table = Table(title="Backward pass, milliseconds")
    table.add_column("case")
    for adjoint in ADJOINTS:
        table.add_column(type(adjoint).__name__, justify="right")
    table.add_column("Auto / best", justify="right")
    for name, make in cases().items():
        torch.manual_seed(0)
        case = make()
        w = torch.randn_like(case[1])
        times = [seconds(case, adjoint, w) for adjoint in ADJOINTS]
        cells = ["–" if t == float("inf") else f"{1e3 * t:.2f}" for t in times]
        table.add_row(name, *cells, f"{times[-1] / min(times[:-1]):.2f}")
    console = Console(width=120)
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
