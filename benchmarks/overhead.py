"""What a fold costs where there is nothing to compute: B = 1, n = 10, float64.

A fold with its certificates (fixed point recorded and checked, adjoint solved and its residual
checked), forward and backward, beside unrolling 20 of the same steps from the same point.

    python benchmarks/overhead.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _timing import best_of, machine
from rich.console import Console
from rich.table import Table
from torch import Tensor

import foldopt as fo

N, M, STEPS = 10, 8, 20
Update = Callable[[Tensor, Tensor], Tensor]


def steps() -> dict[str, tuple[Update, Tensor]]:
    """Steps of several weights, each with the data that it is called with."""
    a = torch.randn(M, N) / M**0.5
    lipschitz = torch.linalg.matrix_norm(a, 2) ** 2
    q = a.T @ a + torch.eye(N)
    m = 0.5 * torch.randn(N, N) / N**0.5

    def ista(x: Tensor, c: Tensor) -> Tensor:
        y = x - (x @ a.T - c) @ a / lipschitz
        return torch.sign(y) * torch.relu(y.abs() - 0.1 / lipschitz)

    quadratic = fo.steps.projected_gradient(
        lambda x, c: 0.5 * ((x @ q) * x).sum(-1) + (c * x).sum(-1), fo.projections.simplex, 0.2
    )
    return {
        "tanh(Mx + c)": (lambda x, c: torch.tanh(x @ m + c), torch.randn(1, N)),
        "x − α(Qx + c)": (lambda x, c: x - 0.1 * (x @ q + c), torch.randn(1, N)),
        "lasso, ISTA": (ista, torch.randn(1, M)),
        "QP on the simplex": (quadratic, torch.randn(1, N)),
    }


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    table = Table(title=f"One fold beside unrolling {STEPS} steps, B = 1, n = {N}")
    for heading in ("step", "fold, ms", "unroll, ms", "fold / unroll"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for name, (step, data) in steps().items():
        x_star = fo.unroll(step, torch.full((1, N), 1 / N), data, iterations=3000)

        def folded(step: Update = step, data: Tensor = data, x: Tensor = x_star) -> Tensor:
            c = data.clone().requires_grad_()
            return torch.autograd.grad(fo.fold(step, x, c).sum(), c)[0]

        def unrolled(step: Update = step, data: Tensor = data, x: Tensor = x_star) -> Tensor:
            c = data.clone().requires_grad_()
            return torch.autograd.grad(fo.unroll(step, x, c, iterations=STEPS).sum(), c)[0]

        ours, theirs = best_of(folded, 500), best_of(unrolled, 500)
        table.add_row(name, f"{1e3 * ours:.2f}", f"{1e3 * theirs:.2f}", f"{ours / theirs:.2f}")
    console = Console()
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
