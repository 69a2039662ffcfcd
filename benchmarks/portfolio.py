"""The portfolio layer (eq. 20) beside cvxpylayers: time, and how far x and the gradient are off.

B = 32 decisions on n = 20 assets in float64, with V and γ at their own scale (1e-4 and 1e-5), as in
Elmachtoub and Grigas; one thread. The rivals get the risk as ‖Lᵀx‖² ≤ γ and as ‖Lᵀx‖ ≤ √γ, the
latter also with both sides times a thousand. "returns": gradients with respect to c alone, V and γ
being constants; "all": with respect to c, V and γ (of the rivals c, L and √γ, since their programs
must be of that form). The reference is Newton's method on the optimality conditions in forty
digits. Times are the least of several rounds, in which all take turns.

    python benchmarks/portfolio.py
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import torch
from _timing import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor

from foldopt.nn.portfolio import Portfolio

B, N, ROUNDS, SECONDS = 32, 20, 40, 40.0
Layer = Callable[[], tuple[Callable[..., Tensor], list[Tensor]]]


class Data(NamedTuple):
    c: Tensor
    V: Tensor
    gamma: Tensor
    cotangent: Tensor


def draw() -> Data:
    g = torch.Generator().manual_seed(0)
    L = 0.0025 * (2 * torch.rand(N, 4, generator=g) - 1)
    V = L @ L.mT + 1e-4 * torch.eye(N)
    c = 0.05 + 0.02 * torch.randn(B, N, generator=g)
    return Data(c, V, 2.25 * V.mean(), torch.randn(B, N, generator=g))


def exact(data: Data) -> tuple[Tensor, Tensor]:
    """x, and the gradient in c of the cotangent's product with it."""
    guess = Portfolio()(data.c, data.V, data.gamma)
    x, gradient = torch.zeros_like(data.c), torch.zeros_like(data.c)
    mpmath.mp.dps = 40
    for i in range(B):
        held = torch.nonzero(guess[i] > 0).flatten().tolist()
        k = len(held)
        W = mpmath.matrix(data.V[held][:, held].tolist())
        c = mpmath.matrix(data.c[i, held].tolist())
        w = mpmath.matrix([*data.cotangent[i, held].tolist(), 0, 0])
        y, lam, nu = mpmath.matrix(guess[i, held].tolist()), mpmath.mpf(1), mpmath.mpf(0)
        K = mpmath.zeros(k + 2, k + 2)
        for _ in range(9):
            Wy = W * y
            F = mpmath.zeros(k + 2, 1)
            F[k], F[k + 1] = -mpmath.mpf(float(data.gamma)), mpmath.mpf(-1)
            for a in range(k):
                F[a] = -c[a] + 2 * lam * Wy[a] + nu
                F[k] += y[a] * Wy[a]
                F[k + 1] += y[a]
                K[a, k] = K[k, a] = 2 * Wy[a]
                K[a, k + 1] = K[k + 1, a] = 1
                for b in range(k):
                    K[a, b] = 2 * lam * W[a, b]
            d = mpmath.lu_solve(K, -F)
            y, lam, nu = y + d[:k], lam + d[k], nu + d[k + 1]
        # The support is right: the multipliers of those that are not held are above zero.
        z = 2 * float(lam) * data.V[:, held] @ torch.tensor([float(v) for v in y])
        others = [j for j in range(N) if j not in held]
        assert float(min(y)) > 0
        assert bool(((z - data.c[i] + float(nu))[others] > 0).all())
        v = mpmath.lu_solve(K, w)
        x[i, held] = torch.tensor([float(value) for value in y])
        gradient[i, held] = torch.tensor([float(value) for value in v[:k]])
    return x, gradient


def ours(data: Data, wanted: str) -> tuple[Callable[..., Tensor], list[Tensor]]:
    layer: Any = Portfolio()
    if wanted == "returns":
        return lambda c: layer(c, data.V, data.gamma), [data.c]
    return layer, [data.c, data.V.expand(B, N, N), data.gamma.expand(B)]


def rival(
    data: Data, wanted: str, engine: str | None, form: str
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    import cvxpy
    from cvxpylayers.torch import CvxpyLayer

    scale = 1e3 if "1e3" in form else 1.0
    root = scale * torch.linalg.cholesky(data.V).mT
    bound = scale * data.gamma.sqrt()
    x, c = cvxpy.Variable(N), cvxpy.Parameter(N)
    R: Any = root.numpy()
    level: Any = float(bound if "norm" in form else bound**2)
    parameters, values = [c], [data.c]
    if wanted == "all":
        R, level = cvxpy.Parameter((N, N)), cvxpy.Parameter()
        parameters += [R, level]
        limit = bound if "norm" in form else bound**2
        values += [root.expand(B, N, N), limit.expand(B)]
    size = cvxpy.norm(R @ x) if "norm" in form else cvxpy.sum_squares(R @ x)
    constraints: list[Any] = [size <= level, cvxpy.sum(x) == 1, x >= 0]
    problem = cvxpy.Problem(cvxpy.Maximize(c @ x), constraints)
    how: dict[str, Any] = {} if engine is None else {"solver": engine}
    layer = CvxpyLayer(problem, parameters, [x], **how)
    return lambda *given: layer(*given)[0], values


class Measured(NamedTuple):
    forward: float
    backward: float
    x: Tensor
    gradient: Tensor


def once(layer: Callable[..., Tensor], values: list[Tensor], cotangent: Tensor) -> Measured:
    leaves = [value.clone().requires_grad_() for value in values]
    begin = time.perf_counter()
    x = layer(*leaves)
    middle = time.perf_counter()
    gradients = torch.autograd.grad((x * cotangent).sum(), leaves)
    end = time.perf_counter()
    return Measured(middle - begin, end - middle, x.detach(), gradients[0])


def main() -> None:
    warnings.simplefilter("ignore")  # of inaccurate answers: how inaccurate is what is measured
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    data = draw()
    x, gradient = exact(data)
    forms = ("quadratic", "norm", "norm × 1e3")
    for wanted in ("returns", "all"):
        makers: dict[tuple[str, str], Callable[[], Any]] = {
            ("nn.Portfolio", "as it is"): lambda w=wanted: ours(data, w)
        }
        for engine in (None, "MOREAU"):
            for form in forms:
                name = f"cvxpylayers {engine or 'DIFFCP'}"
                makers[name, form] = lambda e=engine, f=form, w=wanted: rival(data, w, e, f)
        _compare(wanted, makers, data, x, gradient)


def _compare(
    wanted: str,
    makers: dict[tuple[str, str], Callable[[], Any]],
    data: Data,
    x: Tensor,
    gradient: Tensor,
) -> None:
    layers, absent, best = {}, {}, {}
    for key, make in makers.items():
        try:
            layer, values = make()
            best[key] = once(layer, values, data.cotangent)
            layers[key] = (layer, values)
        except Exception as error:
            missing = isinstance(error, ImportError)
            absent[key] = "not installed" if missing else f"{type(error).__name__}: {error}"[:60]
    begin = time.perf_counter()
    for count in range(ROUNDS):
        if time.perf_counter() - begin > SECONDS and count >= 3:
            break
        for key, (layer, values) in layers.items():
            if count % 8 and "DIFFCP" in key[0]:
                continue  # slow, and no contender
            found, old = once(layer, values, data.cotangent), best[key]
            best[key] = found._replace(
                forward=min(found.forward, old.forward), backward=min(found.backward, old.backward)
            )
    table = Table(title=f"Portfolio, eq. 20, B = {B}, n = {N}; gradients: {wanted}")
    headings = ("layer", "risk", "forward, ms", "backward", "total", "ratio")
    for heading in (*headings, "x error", "least x", "gradient error, median", "worst"):
        table.add_column(heading, justify="left" if heading in ("layer", "risk") else "right")
    mine = sum(best["nn.Portfolio", "as it is"][:2])
    for key, row in best.items():
        total = row.forward + row.backward
        off = (row.gradient - gradient).norm(dim=-1) / gradient.norm(dim=-1).clamp_min(1e-12)
        table.add_row(
            *key,
            *(f"{1e3 * value:.2f}" for value in (row.forward, row.backward, total)),
            f"{total / mine:.1f}",
            f"{float((row.x - x).abs().max()):.0e}",
            f"{float(row.x.min()):.0e}",
            f"{float(off.median()):.0e}",
            f"{float(off.max()):.0e}",
        )
    for key, why in absent.items():
        table.add_row(*key, why)
    Console(width=140).print(table)


if __name__ == "__main__":
    print(machine())
    main()
