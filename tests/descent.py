"""Small random programs with steps of gradient type, for every α with the same fixed point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import foldopt as fo
from foldopt import projections, prox, steps

F64 = torch.float64


class Family(NamedTuple):
    """``make_step(alpha)``, and its fixed point at ``params``."""

    make_step: Callable[..., steps.Step]
    x: Tensor
    params: tuple[Tensor, ...]


def spd(samples: int, n: int, condition: float = 20.0) -> Tensor:
    """Eigenvalues at random between 1 and ``condition``, evenly on a log scale."""
    q, _ = torch.linalg.qr(torch.randn(samples, n, n, dtype=F64))
    values = condition ** torch.rand(samples, n, dtype=F64)
    return q @ torch.diag_embed(values) @ q.mT


def quadratic(x: Tensor, c: Tensor, Q: Tensor) -> Tensor:
    return 0.5 * (x * (Q @ x.unsqueeze(-1)).squeeze(-1)).sum(-1) - (c * x).sum(-1)


def l2(y: Tensor, alpha: Any) -> Tensor:
    return prox.l2(y, 1.5 * (alpha.squeeze(-1) if isinstance(alpha, Tensor) else alpha))


BUILD: dict[str, Callable[..., steps.Step]] = {
    "gradient": lambda a: steps.gradient(quadratic, a),
    "box": lambda a: steps.projected_gradient(
        quadratic, lambda y: projections.box(y, -0.2, 0.4), a
    ),
    "simplex": lambda a: steps.projected_gradient(quadratic, projections.simplex, a),
    "capped": lambda a: steps.projected_gradient(
        quadratic, lambda y: projections.capped_simplex(y, 1.5, 0.6), a
    ),
    "ball": lambda a: steps.projected_gradient(quadratic, lambda y: projections.ball(y, 0.5), a),
    "l1": lambda a: steps.proximal_gradient(quadratic, lambda y, a: prox.l1(y, 0.7 * a), a),
    "l2": lambda a: steps.proximal_gradient(quadratic, l2, a),
}


def family(kind: str, samples: int = 1, n: int = 8, condition: float = 20.0) -> Family:
    """A random member of a kind, at a fixed point that is right to rounding."""
    c, Q = 3 * torch.randn(samples, n, dtype=F64), spd(samples, n, condition)
    alpha = 1 / float(torch.linalg.matrix_norm(Q, 2).max())
    start = torch.zeros_like(c)
    x = fo.fixed_point(BUILD[kind](alpha), start, c, Q, rtol=1e-14, max_iterations=20000)
    return Family(BUILD[kind], x.detach(), (c, Q))


def dense_phi(step: steps.Step, x: Tensor, *params: Tensor) -> Tensor:
    """Φ of each sample, by ``torch.func``."""
    return torch.stack(
        [torch.func.jacrev(step)(x[k], *(param[k] for param in params)) for k in range(len(x))]
    )


def radius(step: steps.Step, x: Tensor, *params: Tensor) -> float:
    """ρ(Φ) of the worst sample, by LAPACK."""
    return float(torch.linalg.eigvals(dense_phi(step, x, *params)).abs().max())
