"""Smooth top-k beside cvxpylayers: time, and how far x and the gradient are off.

B = 32 samples of n = 100 scores, k = 5, float64, one thread, forward and backward. The reference is
bisection on the multiplier in forty digits, which neither layer uses. Times are the least of
several rounds, in which all take turns.

    python benchmarks/top_k.py
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import torch
from _timing import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor

from foldopt.nn import SmoothTopK
from foldopt.nn.smooth_top_k import Form

B, N, K, ROUNDS, SECONDS = 32, 100, 5, 40, 40.0
FORMS: tuple[Form, ...] = ("entropy", "binary")
Layer = Callable[[Tensor], Tensor]


def exact(scores: Tensor, cotangent: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """x, and the gradient of the cotangent's product with it."""
    mpmath.mp.dps = 40
    x, gradient = torch.zeros_like(scores), torch.zeros_like(scores)
    for i in range(B):
        c = [mpmath.mpf(value) for value in scores[i].tolist()]
        w = [mpmath.mpf(value) for value in cotangent[i].tolist()]

        def at(nu: Any, c: list[Any] = c) -> list[Any]:
            if form == "entropy":
                return [min(mpmath.mpf(1), mpmath.exp(v - nu - 1)) for v in c]
            return [1 / (1 + mpmath.exp(nu - v)) for v in c]

        low, high = min(c) - 20, max(c) + 20
        for _ in range(140):
            nu = (low + high) / 2
            low, high = (nu, high) if sum(at(nu)) > K else (low, nu)
        y = at(low)
        if form == "entropy":
            slope = [v if v < 1 else mpmath.mpf(0) for v in y]
        else:
            slope = [v * (1 - v) for v in y]
        mean = sum(a * b for a, b in zip(slope, w, strict=True)) / sum(slope)
        x[i] = torch.tensor([float(v) for v in y])
        gradient[i] = torch.tensor([float(a * (b - mean)) for a, b in zip(slope, w, strict=True)])
    return x, gradient


def rival(form: Form, engine: str | None) -> Layer:
    import cvxpy
    from cvxpylayers.torch import CvxpyLayer

    c, x = cvxpy.Parameter(N), cvxpy.Variable(N)
    entropy: Any = cvxpy.sum(cvxpy.entr(x))
    if form == "binary":
        entropy = entropy + cvxpy.sum(cvxpy.entr(1 - x))
    constraints: list[Any] = [cvxpy.sum(x) == K, x <= 1]
    problem = cvxpy.Problem(cvxpy.Maximize(c @ x + entropy), constraints)
    how: dict[str, Any] = {} if engine is None else {"solver": engine}
    layer = CvxpyLayer(problem, [c], [x], **how)
    return lambda scores: layer(scores)[0]


def once(layer: Layer, scores: Tensor, cotangent: Tensor) -> tuple[float, float, Tensor, Tensor]:
    leaf = scores.clone().requires_grad_()
    begin = time.perf_counter()
    x = layer(leaf)
    middle = time.perf_counter()
    (gradient,) = torch.autograd.grad((x * cotangent).sum(), leaf)
    return middle - begin, time.perf_counter() - middle, x.detach(), gradient


def compare(form: Form, scores: Tensor, cotangent: Tensor) -> None:
    x, gradient = exact(scores, cotangent, form)
    makers: dict[str, Callable[[], Layer]] = {"nn.SmoothTopK": lambda: SmoothTopK(K, form=form)}
    for engine in (None, "MOREAU"):
        makers[f"cvxpylayers {engine or 'DIFFCP'}"] = lambda e=engine: rival(form, e)
    layers, absent, best = {}, {}, {}
    for name, make in makers.items():
        try:
            layer = make()
            best[name] = once(layer, scores, cotangent)
            layers[name] = layer
        except Exception as error:
            missing = isinstance(error, ImportError)
            absent[name] = "not installed" if missing else f"{type(error).__name__}: {error}"[:60]
    begin = time.perf_counter()
    for count in range(ROUNDS):
        if time.perf_counter() - begin > SECONDS and count >= 2:
            break
        for name, layer in layers.items():
            if count % 8 and "DIFFCP" in name:
                continue  # slow, and no contender
            forward, backward, *answers = once(layer, scores, cotangent)
            old = best[name]
            best[name] = (min(forward, old[0]), min(backward, old[1]), answers[0], answers[1])
    table = Table(title=f"Smooth top-k, {form}: B = {B}, n = {N}, k = {K}")
    headings = ("layer", "forward, ms", "backward", "total", "ratio", "x error")
    for heading in (*headings, "gradient error, median", "worst"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    mine = sum(best["nn.SmoothTopK"][:2])
    for name, (forward, backward, y, found) in best.items():
        off = (found - gradient).norm(dim=-1) / gradient.norm(dim=-1).clamp_min(1e-12)
        table.add_row(
            name,
            *(f"{1e3 * value:.2f}" for value in (forward, backward, forward + backward)),
            f"{(forward + backward) / mine:.0f}",
            f"{float((y - x).abs().max()):.0e}",
            f"{float(off.median()):.0e}",
            f"{float(off.max()):.0e}",
        )
    for name, why in absent.items():
        table.add_row(name, why)
    Console(width=120).print(table)


def main() -> None:
    warnings.simplefilter("ignore")  # of inaccurate answers: how inaccurate is what is measured
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    scores, cotangent = 3 * torch.randn(B, N, generator=g), torch.randn(B, N, generator=g)
    for form in FORMS:
        compare(form, scores, cotangent)


if __name__ == "__main__":
    print(machine())
    main()
