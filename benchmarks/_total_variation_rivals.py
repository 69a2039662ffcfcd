"""Other ways to a total variation layer: qpth, cvxpylayers, and PIQP with the KKT system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor


def by_qpth(smoothing: float) -> Callable[..., Tensor]:
    from qpth.qp import QPFunction

    solve = QPFunction(verbose=-1, eps=1e-12, maxIter=50, check_Q_spd=False)

    def layer(d: Tensor, weight: Tensor, D: Tensor) -> Tensor:
        count, (m, n) = len(d), D.shape
        Q = torch.diag(torch.cat([d.new_ones(n), d.new_full((m,), smoothing)]))
        p = torch.cat([-d, weight.expand(count, m)], 1)
        t = -torch.eye(m)
        G = torch.cat([torch.cat([D, t], 1), torch.cat([-D, t], 1)]).expand(count, -1, -1)
        none = d.new_empty(0)
        return solve(Q, p, G, d.new_zeros(2 * m), none, none)[:, :n]

    return layer


def by_cvxpylayers(m: int, n: int, solver: str) -> Callable[..., Tensor]:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    d, weight, D = cp.Parameter(n), cp.Parameter(nonneg=True), cp.Parameter((m, n))
    x, t = cp.Variable(n), cp.Variable(m)
    objective = cp.Minimize(0.5 * cp.sum_squares(x - d) + weight * cp.sum(t))
    problem = cp.Problem(objective, [D @ x <= t, -t <= D @ x])
    layer = CvxpyLayer(problem, [d, weight, D], [x], solver=solver)
    return lambda d, weight, D: layer(d, weight, D)[0]


class ByPIQP(torch.autograd.Function):
    """x by PIQP, and its derivative in d from the KKT system of the active rows."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, D: Any, weight: float) -> Tensor:
        import piqp
        from scipy import sparse

        m, n = D.shape
        one: Any = sparse.eye(m)
        P: Any = sparse.block_diag([sparse.eye(n), 1e-6 * one]).tocsc()
        G: Any = sparse.vstack([sparse.hstack([D, -one]), sparse.hstack([-D, -one])]).tocsc()
        solver = piqp.SparseSolver()
        solver.settings.eps_abs = solver.settings.eps_rel = 1e-8
        p = np.concatenate([-d.numpy().ravel(), np.full(m, weight)])
        solver.setup(P, p, G=G, h_u=np.zeros(2 * m), h_l=np.full(2 * m, -1e30))
        solver.solve()
        z = np.array(solver.result.x)
        active = np.array(solver.result.z_u) > np.maximum(-(G @ z), 0)
        ctx.system, ctx.dependent = (P, G.tocsr()[active]), m > n
        return torch.tensor(z[:n]).reshape(d.shape)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        from scipy.sparse import bmat, eye
        from scipy.sparse.linalg import splu

        P, W = ctx.system
        right = np.zeros(P.shape[0] + W.shape[0])
        right[: g[0].numel()] = g[0].numpy().ravel()
        # Differences round a square of pixels depend on one another: without a corner, the system
        # is singular, and SuperLU was seen to crash.
        corner = -1e-10 * eye(W.shape[0]) if ctx.dependent else None
        v = splu(bmat([[P, W.T], [W, corner]]).tocsc()).solve(right)
        return torch.tensor(v[: g[0].numel()]).reshape(g[0].shape), None, None


def tried(make: Callable[[], Callable[..., Tensor]], name: str, console: Console) -> Any:
    """A rival, or None where it is not installed, which is said."""
    try:
        return make()
    except Exception as error:
        console.print(f"{name}: not here ({type(error).__name__}: {str(error)[:80]})")
        return None


def rival_of(D: Any, weight: float, console: Console) -> Any:
    def make() -> Callable[..., Tensor]:
        import piqp  # noqa: F401

        return lambda d: ByPIQP.apply(d, D, weight)  # type: ignore[return-value]

    return tried(make, "PIQP", console)
