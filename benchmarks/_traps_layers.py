"""The layers that are put before the traps: each library at its defaults, unless said."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foldopt as fo

Blocks = Callable[..., Any]  # of Q, p, G, h, A and b

# By library: the package, and its settings where they are not the defaults.
LIBRARIES = {
    "fold-opt": ("foldopt", ""),
    "CvxpyLayer": ("cvxpy", "foldopt.cvxpy's"),
    "qpth": ("qpth", ""),
    "QPLayer": ("proxsuite", ""),
    "moreau": ("moreau", 'moreau.torch, solver="ipm", which it recommends for gradients'),
    "dQP": ("dqp", "dense, by DAQP, eps_abs=1e-9"),
    "DIFFCP": ("diffcp", "cvxpylayers, the default backend"),
    "MOREAU": ("moreau", 'cvxpylayers, solver="MOREAU"'),
}


def there(name: str) -> bool:
    needs = [LIBRARIES[name][0], *(["cvxpylayers"] if name in ("DIFFCP", "MOREAU") else [])]
    return all(importlib.util.find_spec(package) is not None for package in needs)


def module(name: str) -> Any:
    """A rival, whose types nobody checks."""
    return importlib.import_module(name)


def heard(layer: Callable[..., Any]) -> Callable[..., Any]:
    """One of our layers, with what it says in its record."""

    def listened(*given: Any) -> tuple[Tensor, str]:
        with fo.record() as seen:
            x = layer(*given)
        x = x[0] if isinstance(x, tuple) else x
        return x, next((text for event in seen for text in event.messages if text), "")

    return listened


def ours() -> Blocks:
    return heard(fo.nn.QP())


def qpth() -> Blocks:
    solve = module("qpth.qp").QPFunction()

    def layer(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor:
        none = torch.tensor([], dtype=p.dtype)
        return solve(Q, p, G, h, *((A, b) if b.numel() else (none, none)))

    return layer


def qplayer() -> Blocks:
    solve = module("proxsuite.torch.qplayer").QPFunction()

    def layer(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor:
        return solve(Q, p, A, b, G, torch.full_like(h, -1e20), h)[0]

    return layer


def moreau() -> Blocks:
    engine, torch_engine = module("moreau"), module("moreau.torch")

    def layer(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Any:
        B, n, m, k = len(Q), p.shape[-1], h.shape[-1], b.shape[-1]
        columns = torch.arange(n)
        solver = torch_engine.Solver(
            n, m + k,
            torch.arange(n + 1) * n, columns.repeat(n),
            torch.arange(m + k + 1) * n, columns.repeat(m + k),
            engine.Cones(num_zero_cones=k, num_nonneg_cones=m),
            settings=engine.Settings(device="cpu", batch_size=B, solver="ipm"),
        )  # fmt: skip
        rows = torch.cat([A, G], 1).reshape(B, -1)
        x = solver.solve(Q.reshape(B, -1), rows, p.expand(B, n), torch.cat([b, h], 1)).x
        bad = [str(one) for one in solver.info.status if str(one) != "Solved"]
        return x, next(iter(bad), "")

    return layer


def dqp() -> Blocks:
    rival = module("dqp")
    settings = rival.build_settings(
        solve_type="dense", qp_solver="daqp", lin_solver="scipy LU", eps_abs=1e-9, eps_rel=0
    )
    solve = rival.dQP_layer(settings=settings)

    def layer(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor:
        given = [Q, p.expand(len(Q), -1), G, h, *((A, b) if b.numel() else ())]
        if len(Q) == 1:  # it takes no batch of one
            given = [block[0] for block in given]
        return solve(*given)[0].reshape(len(Q), -1)

    return layer


def of_cvxpy(name: str) -> Callable[..., Any]:
    """The constructor of a CVXPY layer: ours, or one of cvxpylayers'."""
    if name == "CvxpyLayer":
        make = module("foldopt.cvxpy").CvxpyLayer
        return lambda *parts: heard(make(*parts))
    make = module("cvxpylayers.torch").CvxpyLayer
    how: dict[str, Any] = {} if name == "DIFFCP" else {"solver": name}
    return lambda *parts: lambda *given: make(*parts, **how)(*given)[0]


def root(Q: Tensor) -> Tensor:
    """F with FᵀF = Q, semidefinite ones too."""
    values, vectors = torch.linalg.eigh(Q.detach())
    if bool((values > 0).all()):
        return torch.linalg.cholesky(Q).mT
    return values.clamp_min(0).sqrt().unsqueeze(-1) * vectors.mT


def by_cvxpy(name: str) -> Callable[[], Blocks]:
    """The quadratic program of six blocks, the objective as ‖Fx‖²/2 + pᵀx with FᵀF = Q."""

    def make() -> Blocks:
        cp = module("cvxpy")

        def layer(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Any:
            n, m, k = p.shape[-1], h.shape[-1], b.shape[-1]
            x, q, rows, high = (
                cp.Variable(n),
                cp.Parameter(n),
                cp.Parameter((m, n)),
                cp.Parameter(m),
            )
            parameters, given, constraints = [q, rows, high], [p, G, h], [rows @ x <= high]
            objective = q @ x
            if bool(Q.any()):
                F = cp.Parameter((n, n))
                objective = objective + 0.5 * cp.sum_squares(F @ x)
                parameters.append(F)
                given.append(root(Q))
            if k:
                equal, value = cp.Parameter((k, n)), cp.Parameter(k)
                constraints.append(equal @ x == value)
                parameters += [equal, value]
                given += [A, b]
            problem = cp.Problem(cp.Minimize(objective), constraints)
            return of_cvxpy(name)(problem, parameters, [x])(*given)

        return layer

    return make


QUADRATIC: dict[str, Callable[[], Blocks]] = {
    "fold-opt": ours,
    "CvxpyLayer": by_cvxpy("CvxpyLayer"),
    "qpth": qpth,
    "QPLayer": qplayer,
    "moreau": moreau,
    "dQP": dqp,
    "DIFFCP": by_cvxpy("DIFFCP"),
    "MOREAU": by_cvxpy("MOREAU"),
}
