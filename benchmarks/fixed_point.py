"""The backward pass through a lasso's ISTA step: ours, unrolled, jaxopt's and torchdeq's.

    min_x ½‖Ax − c‖² + λ‖x‖₁,   B = 64, n = 200, m = 150, λ = 0.3, float64

x* is found once, to rounding; then each method computes the gradient of a random linear loss in the
data c, and is timed and compared with the closed form on the support. The solution is given to
every method but unrolling, whose own backward pass is timed; compilation (jax) is not counted.

    python -m pip install -c constraints.txt -r benchmarks/requirements.txt
    python benchmarks/fixed_point.py
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _timing import best_of, machine
from rich.console import Console
from rich.table import Table
from torch import Tensor

import foldopt as fo

B, N, M, WEIGHT = 64, 200, 150, 0.3
Row = tuple[str, float, float]


def data() -> tuple[Tensor, Tensor, Tensor]:
    """A, the data c and the cotangent w."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(M, N, generator=generator) / M**0.5
    c = torch.randn(B, M, generator=generator) * 2
    return a, c, torch.randn(B, N, generator=generator)


def ista(a: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """x ← T_{λ/L}(x − Aᵀ(Ax − c)/L), as a user would write it."""
    lipschitz = torch.linalg.matrix_norm(a, 2) ** 2

    def step(x: Tensor, c: Tensor) -> Tensor:
        y = x - (x @ a.T - c) @ a / lipschitz
        return torch.sign(y) * torch.relu(y.abs() - WEIGHT / lipschitz)

    return step


def solve(step: Callable[[Tensor, Tensor], Tensor], c: Tensor) -> Tensor:
    """FISTA, then plain steps to polish."""
    x = y = torch.zeros(len(c), N)
    t = 1.0
    for _ in range(6000):
        z = step(y, c)
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y = z + (t - 1) / t_next * (z - x)
        x, t = z, t_next
    for _ in range(500):
        x = step(x, c)
    return x


def closed_form(a: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """∂(wᵀx*)/∂c = A_S (A_SᵀA_S)⁻¹ w_S on the support S."""
    rows = []
    for x_i, w_i in zip(x, w, strict=True):
        support = x_i != 0
        a_s = a[:, support]
        rows.append(a_s @ torch.linalg.solve(a_s.T @ a_s, w_i[support]))
    return torch.stack(rows)


def ours(step: Any, x: Tensor, c: Tensor, w: Tensor, adjoint: Any) -> tuple[float, Tensor]:
    """Backward seconds, the best of several fresh folds, and the gradient."""
    best, grad, begin = float("inf"), torch.empty(0), time.perf_counter()
    for _ in range(7):
        leaf = c.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fo.FoldWarning)  # LFPI does not converge in time
            loss = (fo.fold(step, x, leaf, adjoint=adjoint, on_failure="warn") * w).sum()
            start = time.perf_counter()
            (grad,) = torch.autograd.grad(loss, leaf)
            best = min(best, time.perf_counter() - start)
        if time.perf_counter() - begin > 10:
            break
    return best, grad


def unrolled(step: Any, c: Tensor, w: Tensor, iterations: int) -> tuple[float, Tensor]:
    leaf = c.clone().requires_grad_()
    loss = (fo.unroll(step, torch.zeros(B, N), leaf, iterations=iterations) * w).sum()
    seconds = best_of(lambda: torch.autograd.grad(loss, leaf, retain_graph=True), 3)
    return seconds, torch.autograd.grad(loss, leaf)[0]


def jaxopt_rows(a: Tensor, x: Tensor, c: Tensor, w: Tensor) -> list[tuple[str, float, Tensor]]:
    import jax
    import jax.numpy as jnp
    import jaxopt

    jax.config.update("jax_enable_x64", True)
    matrix = jnp.array(a.numpy())
    lipschitz = float(torch.linalg.matrix_norm(a, 2) ** 2)
    x_, c_, w_ = (jnp.array(t.numpy()) for t in (x, c, w))

    def optimality(x: Any, c: Any) -> Any:
        y = x - matrix.T @ (matrix @ x - c) / lipschitz
        return jnp.sign(y) * jax.nn.relu(jnp.abs(y) - WEIGHT / lipschitz) - x

    found = []
    for name in ("gmres", "bicgstab", "normal_cg"):
        linear = partial(getattr(jaxopt.linear_solve, f"solve_{name}"), tol=1e-10)

        def one(x: Any, c: Any, w: Any, linear: Any = linear) -> Any:
            return jaxopt.implicit_diff.root_vjp(optimality, x, (c,), w, solve=linear)[0]

        vjp = jax.jit(jax.vmap(one))
        seconds = best_of(lambda vjp=vjp: vjp(x_, c_, w_).block_until_ready(), 7, budget=10)
        found.append((f"jaxopt {name}", seconds, torch.tensor(np.array(vjp(x_, c_, w_)))))
    return found


def torchdeq_row(step: Any, x: Tensor, c: Tensor, w: Tensor) -> tuple[str, float, Tensor]:
    from torchdeq import get_deq

    deq = get_deq(
        ift=True,
        f_solver="fixed_point_iter",
        f_max_iter=1,
        b_solver="anderson",
        b_max_iter=400,
        b_tol=1e-9,
        b_stop_mode="rel",
    )
    best, grad = float("inf"), torch.empty(0)
    for _ in range(3):
        leaf = c.clone().requires_grad_()
        z, _info = deq(lambda x: step(x, leaf), x.clone())  # noqa: B023
        loss = (z[-1] * w).sum()
        start = time.perf_counter()
        (grad,) = torch.autograd.grad(loss, leaf)
        best = min(best, time.perf_counter() - start)
    return "torchdeq anderson", best, grad


def main() -> None:
    torch.set_default_dtype(torch.float64)
    a, c, w = data()
    step = ista(a)
    x = solve(step, c)
    reference = closed_form(a, x, w)
    console = Console()
    console.print(machine())
    console.print(
        f"fixed-point residual {float((step(x, c) - x).abs().max()):.1e}, "
        f"{float((x != 0).sum(1).double().mean()):.0f} of {N} coordinates in the support"
    )

    rivals = jaxopt_rows(a, x, c, w)
    rivals.append(torchdeq_row(step, x, c, w))
    rows: list[Row] = []

    def add(name: str, seconds: float, grad: Tensor) -> None:
        error = torch.linalg.norm(grad - reference) / torch.linalg.norm(reference)
        rows.append((name, seconds, float(error)))

    for name, seconds, grad in rivals:
        add(name, seconds, grad)
    for iterations in (200, 1000):
        add(f"unroll {iterations}", *unrolled(step, c, w, iterations))
    for iterations in (100, 1000, 5000):
        lfpi = fo.LFPI(max_iterations=iterations, rtol=0.0)
        add(f"foldopt LFPI {iterations}", *ours(step, x, c, w, lfpi))
    for adjoint in (fo.GMRES(), fo.BiCGSTAB(), fo.Dense(), fo.Auto()):
        add(f"foldopt {type(adjoint).__name__}", *ours(step, x, c, w, adjoint))

    # Only answers count as a time to beat.
    best = min(s for name, s, error in rows if name.startswith("jaxopt") and error < 1e-8)
    table = Table(title="Backward pass through a lasso's ISTA step")
    for heading in ("method", "milliseconds", "gradient error", "time / best jaxopt"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for name, seconds, error in rows:
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{error:.1e}", f"{seconds / best:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
