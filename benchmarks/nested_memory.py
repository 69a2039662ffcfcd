"""Peak memory of projected gradient descent with a projection by ADMM, by inner iterations.

f-PGDb folds the inner loop: one inner iteration is recorded, however many there are. The rival
unrolls the inner loop inside the same folded outer step. Each measurement is a process of its own;
the peak is that of the resident memory (Linux), above what the process held before.

    python benchmarks/nested_memory.py
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import time
from pathlib import Path

import torch
from _timing import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor

import foldopt as fo

INNER = (10, 100, 1000)
SAMPLES, N, M = 32, 30, 40


def data(samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """c, G and h of min ½‖x‖² + Σ log(1 + eˣ) − cᵀx s.t. Gx ≤ h."""
    G = torch.randn(samples, M, N) / N**0.5
    return 2 * torch.randn(samples, N), G, 0.5 * torch.rand(samples, M)


def objective(x: Tensor, c: Tensor, G: Tensor, h: Tensor) -> Tensor:
    return 0.5 * x @ x + torch.nn.functional.softplus(x).sum() - c @ x


def inequality(x: Tensor, c: Tensor, G: Tensor, h: Tensor) -> Tensor:
    return G @ x - h


def solution(c: Tensor, G: Tensor, h: Tensor) -> Tensor:
    """By projected gradient descent with exact projections; nothing is recorded."""
    x = torch.zeros_like(c)
    for _ in range(80):
        slope = x + torch.sigmoid(x) - c
        x = fo.operators.polyhedron(x - 0.8 * slope, G, h, start=x)
    return x


def by_admm(count: int):
    """A solver of the inner program that runs so many ADMM iterations."""

    def solve(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor):
        step, prepared = fo.steps.admm_qp(("inequality",)).bind(Q, p, G, h)
        w = torch.zeros_like(h)
        for _ in range(count):
            w = step.update(w, *prepared)
        return step.solution(w, *prepared), (w - h).clamp_min(0), b

    return solve


def unrolled(count: int):
    """The same step with every inner iteration recorded."""

    def step(x: Tensor, c: Tensor, G: Tensor, h: Tensor) -> Tensor:
        y = x - 0.8 * (x + torch.sigmoid(x) - c)
        eye = torch.eye(N)
        inner, prepared = fo.steps.admm_qp(("inequality",)).bind(eye, -y, G, h)
        w = torch.zeros_like(h)
        for _ in range(count):
            w = inner.update(w, *prepared)
        return inner.solution(w, *prepared)

    return step


def run(way: str, count: int, x: Tensor, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Ten inner iterations leave the projection off by more than a fold accepts: let it pass, since
    # memory is what is asked for.
    loose = fo.Certify(error_above=1e3, warn_above=1e3)
    if way == "f_pgd_b":
        options = fo.nn.Options(certify=loose)
        layer = fo.nn.f_pgd_b(
            objective, inequality, step_size=0.8, inner_solver=by_admm(count), options=options
        )
        return gradients(lambda *c: layer.fold(x, *c), params)
    return gradients(lambda *c: fo.fold(unrolled(count), x, *c, certify=loose), params)


def measure(way: str, count: int) -> None:
    """Print the peak in MB, the seconds, and the gradient's error against the exact one."""
    torch.manual_seed(0)
    exact = fo.nn.f_pgd_a(objective, inequality, step_size=0.8)
    warm = data(2)
    run(way, 2, solution(*warm), warm)  # loads what torch loads late
    params = data(SAMPLES)
    x = solution(*params)
    resident = reset_peak()
    begin = time.perf_counter()
    grads = run(way, count, x, params)
    seconds = time.perf_counter() - begin
    peak = status("VmHWM") - resident
    reference = gradients(lambda *c: exact.fold(x, *c), params)
    error = max(
        float((a - b).abs().sum() / b.abs().sum()) for a, b in zip(grads, reference, strict=True)
    )
    print(peak, seconds, error)


def reset_peak() -> float:
    """Forget the peak so far (Linux), and return the resident memory in MB."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back to the system
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(field: str) -> float:
    """A field of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def gradients(layer, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = [param.clone().requires_grad_() for param in params]
    return torch.autograd.grad((layer(*leaves) ** 2).sum(), leaves)


def main() -> None:
    table = Table("inner loop", "iterations", "peak MB", "seconds", "gradient error")
    table.title = f"Nested folding, B={SAMPLES}, n={N}, m={M}, float64"
    for way in ("f_pgd_b", "unrolled"):
        for count in INNER:
            child = subprocess.run(
                [sys.executable, __file__, way, str(count)], capture_output=True, text=True
            )
            if child.returncode:
                reason = child.stderr.strip().splitlines()[-1]
                table.add_row(way, str(count), "–", "–", reason[:60])
                continue
            peak, seconds, error = map(float, child.stdout.split())
            table.add_row(way, str(count), f"{peak:.0f}", f"{seconds:.2f}", f"{error:.0e}")
    console = Console()
    console.print(machine(), highlight=False)
    console.print(table)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        main()
