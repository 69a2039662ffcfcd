"""Dense QP layers side by side: time, accuracy of x, and accuracy of the gradients.

min ½xᵀQx + pᵀx over Gx ≤ h, Ax = b; the loss is wᵀx, and all of Q, p, G, h, A and b get their
gradient. The layers take turns, so that what disturbs one disturbs all, and the least time of each
counts. The reference is the active set that Clarabel finds, and its KKT system. Errors are relative
in norm over the batch, of the worst of the six gradients.

    python benchmarks/dense_qp.py [B,n,m,k ...] [--gpu]
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _timing import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor

import foldopt as fo

CASES = ((64, 20, 20, 5), (64, 100, 100, 20), (8, 400, 400, 50))
GPU_CASES = ((1024, 20, 20, 5), (16384, 20, 20, 5), (1024, 100, 100, 20))
ROUNDS, BUDGET = 30, 15.0  # seconds for one layer and case

Blocks = tuple[Tensor, ...]
Layer = Callable[..., Tensor]


class Reference(NamedTuple):
    x: Tensor
    gradients: Blocks


def problem(count: int, n: int, m: int, k: int) -> tuple[Blocks, Tensor]:
    """Q, p, G, h, A and b, feasible, and w."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    R = normal(count, n, n) / n**0.5
    Q = R @ R.mT + 0.1 * torch.eye(n, dtype=torch.float64)
    G, A = normal(count, m, n) / n**0.5, normal(count, k, n) / n**0.5
    inside = normal(count, n, 1)
    h = (G @ inside).squeeze(-1) + 0.5 * torch.rand(count, m, generator=draw, dtype=torch.float64)
    return (Q, normal(count, n), G, h, A, (A @ inside).squeeze(-1)), normal(count, n)


def reference(blocks: Blocks, w: Tensor) -> Reference:
    """x and the gradients of wᵀx, from the KKT system of the active rows."""
    solution = fo.solvers.QP("clarabel", rtol=1e-12)(*blocks)
    found = []
    for Q, p, G, h, A, b, one, lam, x in zip(
        *blocks, w, solution.multipliers.inequality, solution.x, strict=True
    ):
        n, active = len(p), lam > h - G @ x
        W = torch.cat([A, G[active]])
        K = torch.cat([torch.cat([Q, W.mT], 1), torch.cat([W, W.new_zeros(len(W), len(W))], 1)], 0)
        first = torch.cat([-p, b, h[active]])
        second = torch.cat([one, one.new_zeros(len(W))])
        z, v = torch.linalg.solve(K, torch.stack([first, second], 1)).unbind(1)
        x, rows, u, mu = z[:n], z[n:], v[:n], v[n:]
        # wᵀdx = vᵀ(−dp − dQ x − dWᵀλ, dw − dW x).
        dW = -torch.outer(rows, u) - torch.outer(mu, x)
        dQ = -(torch.outer(u, x) + torch.outer(x, u)) / 2
        dG, dh = torch.zeros_like(G), torch.zeros_like(h)
        dG[active], dh[active] = dW[len(b) :], mu[len(b) :]
        found.append((x, dQ, -u, dG, dh, dW[: len(b)], mu[: len(b)]))
    x, *gradients = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Reference(x, tuple(gradients))


def module(name: str) -> Any:
    """A rival, whose types nobody checks."""
    return importlib.import_module(name)


def qpth() -> Layer:
    return module("qpth.qp").QPFunction(verbose=-1, eps=1e-12, maxIter=30, check_Q_spd=False)


def qplayer() -> Layer:
    solve = module("proxsuite.torch.qplayer").QPFunction(
        structural_feasibility=True, eps=1e-9, maxIter=1000, omp_parallel=True
    )

    def layer(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor:
        return solve(Q, p, A, b, G, torch.full_like(h, -1e20), h)[0]

    return layer


def moreau() -> Layer:
    engine, torch_engine = module("moreau"), module("moreau.torch")
    made: dict[tuple, Any] = {}

    def layer(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor:
        (count, n), m, k = p.shape, h.shape[-1], b.shape[-1]
        if (count, n) not in made:
            columns = torch.arange(n)
            cones = engine.Cones(num_zero_cones=k, num_nonneg_cones=m)
            made[count, n] = torch_engine.Solver(
                n, m + k,
                torch.arange(n + 1) * n, columns.repeat(n),
                torch.arange(m + k + 1) * n, columns.repeat(m + k),
                cones, settings=engine.Settings(device=p.device.type, batch_size=count),
            )  # fmt: skip
        rows, limits = torch.cat([A, G], 1).reshape(count, -1), torch.cat([b, h], 1)
        return made[count, n].solve(Q.reshape(count, -1), rows, p, limits).x

    return layer


def cvxpylayers(solver: str | None) -> Layer:
    cp, CvxpyLayer = module("cvxpy"), module("cvxpylayers.torch").CvxpyLayer
    made: dict[int, Any] = {}

    def layer(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor:
        n, m, k = p.shape[-1], h.shape[-1], b.shape[-1]
        if n not in made:
            shapes = ((n, n), n, (m, n), m, (k, n), k)
            matrix, *rest = (cp.Parameter(shape) for shape in shapes)
            q, rows, high, equal, value = rest
            x = cp.Variable(n)
            program = cp.Problem(
                cp.Minimize(0.5 * cp.sum_squares(matrix @ x) + q @ x),
                [rows @ x <= high, equal @ x == value],
            )
            made[n] = CvxpyLayer(program, [matrix, *rest], [x], solver=solver)
        return made[n](torch.linalg.cholesky(Q).mT, p, G, h, A, b)[0]

    return layer


def dqp() -> Layer:
    rival = module("dqp")
    settings = rival.build_settings(
        solve_type="dense", qp_solver="daqp", lin_solver="scipy LU", eps_abs=1e-9, eps_rel=0
    )
    solve = rival.dQP_layer(settings=settings)
    return lambda Q, p, G, h, A, b: solve(Q, p, G, h, A, b)[0]


def layers(gpu: bool) -> dict[str, Layer | str]:
    """By name; the reason where one is missing."""
    rivals: dict[str, tuple[str, Callable[[], Layer]]] = {
        "qpth": ("qpth", qpth),
        "QPLayer (proxsuite)": ("proxsuite", qplayer),
        "moreau.torch": ("moreau", moreau),
        "cvxpylayers DIFFCP": ("cvxpylayers", lambda: cvxpylayers(None)),
        "cvxpylayers MOREAU": ("cvxpylayers", lambda: cvxpylayers("MOREAU")),
        "dQP, DAQP": ("dqp", dqp),
    }
    found: dict[str, Layer | str] = {"fold-opt nn.QP": fo.nn.QP()}
    for name, (module, make) in rivals.items():
        if gpu and name not in ("qpth", "moreau.torch"):
            continue
        there = importlib.util.find_spec(module) is not None
        found[name] = make() if there else "not installed"
    return found


class Seen:
    """The best times of one layer, and its answers."""

    def __init__(self) -> None:
        self.forward = self.backward = self.total = float("inf")
        self.spent = 0.0
        self.words = ""
        self.x: Tensor | None = None
        self.gradients: list[Tensor] = []

    def run(self, layer: Layer, blocks: Blocks, w: Tensor) -> None:
        leaves = [block.clone().requires_grad_() for block in blocks]
        begin = clock(w)
        x = layer(*leaves)
        between = clock(w)
        (x * w).sum().backward()
        end = clock(w)
        self.spent += end - begin
        self.forward = min(self.forward, between - begin)
        self.backward = min(self.backward, end - between)
        self.total = min(self.total, end - begin)
        self.x = x.detach()
        self.gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in leaves]


def clock(like: Tensor) -> float:
    if like.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def distance(seen: Tensor, right: Tensor) -> float:
    return float((seen - right).norm() / right.norm())


def measure(case: tuple[int, ...], gpu: bool) -> Table:
    blocks, w = problem(*case)
    right = reference(blocks, w)
    if gpu:
        blocks, w = tuple(block.cuda() for block in blocks), w.cuda()
    every = layers(gpu)
    seen = {name: Seen() for name in every}
    for turn in range(ROUNDS):
        for name, layer in every.items():
            one = seen[name]
            if isinstance(layer, str):
                one.words = layer
            elif not one.words and one.spent * (turn + 1) / max(turn, 1) < BUDGET:
                try:
                    one.run(layer, blocks, w)
                except Exception as failure:
                    one.words = f"{type(failure).__name__}: {failure}"[:60].replace("\n", " ")
    title = "B = {}, n = {}, m = {}, k = {}".format(*case)
    table = Table(title=title + (", GPU" if gpu else ""))
    for heading in ("layer", "forward, ms", "backward, ms", "total, ms", "ours / theirs"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for heading in ("x error", "gradient error", "of p alone"):
        table.add_column(heading, justify="right")
    ours = next(iter(seen.values())).total
    for name, one in seen.items():
        if one.words or one.x is None:
            table.add_row(name, one.words or "too slow")
            continue
        dQ, *rest = (part.cpu() for part in one.gradients)
        errors = [
            distance(part, true)
            for part, true in zip(((dQ + dQ.mT) / 2, *rest), right.gradients, strict=True)
        ]
        table.add_row(
            name,
            *(f"{1e3 * seconds:.2f}" for seconds in (one.forward, one.backward, one.total)),
            f"{ours / one.total:.2f}",
            *(f"{off:.0e}" for off in (distance(one.x.cpu(), right.x), max(errors), errors[1])),
        )
    return table


def main() -> None:
    warnings.simplefilter("ignore")  # the rivals' own
    gpu = "--gpu" in sys.argv
    torch.set_default_dtype(torch.float64)
    asked = [arg for arg in sys.argv[1:] if arg != "--gpu"]
    cases = [tuple(int(part) for part in arg.split(",")) for arg in asked]
    console = Console(width=130)
    console.print(machine())
    for case in cases or (GPU_CASES if gpu else CASES):
        console.print(measure(case, gpu))


if __name__ == "__main__":
    main()
