"""Random problems, one maker for each kind of step, that several benchmarks run over.

A maker returns a family of steps by step size, its fixed point and its params. Another kind of
step is one more entry of a table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import foldopt as fo


class Family(NamedTuple):
    """``make_step(alpha)``, with the fixed point x of all these steps at ``params``."""

    make_step: Callable[[float], Callable[..., Any]]
    x: Tensor
    params: tuple[Tensor, ...]


def spd(samples: int, n: int, condition: float) -> Tensor:
    """Matrices with eigenvalues spread at random on a log scale from 1 to ``condition``."""
    q, _ = torch.linalg.qr(torch.randn(samples, n, n))
    values = torch.exp(torch.rand(samples, n) * float(torch.tensor(condition).log()))
    return q @ torch.diag_embed(values) @ q.mT


def objective(x: Tensor, c: Tensor, q: Tensor) -> Tensor:
    """½xᵀQx − cᵀx + log Σ exp x."""
    product = (q @ x.unsqueeze(-1)).squeeze(-1)
    return 0.5 * (x * product).sum(-1) - (c * x).sum(-1) + torch.logsumexp(x, -1)


def solved(make_step: Callable[[float], Any], c: Tensor, q: Tensor) -> Family:
    """The family at its fixed point, found with a step size that converges."""
    alpha = 1 / float(torch.linalg.matrix_norm(q, 2).max() + 1)
    x = torch.zeros_like(c)
    x = fo.fixed_point(make_step(alpha), x, c, q, rtol=1e-14, max_iterations=20000)
    return Family(make_step, x.detach(), (c, q))


def draw() -> tuple[Tensor, Tensor]:
    n = int(torch.randint(4, 30, ()))
    condition = float(10 ** (0.3 + 1.7 * torch.rand(())))
    return 3 * torch.randn(2, n), spd(2, n, condition)


def gradient() -> Family:
    return solved(lambda a: fo.steps.gradient(objective, a), *draw())


def projected(project: Callable[[Tensor], Tensor]) -> Callable[[], Family]:
    return lambda: solved(lambda a: fo.steps.projected_gradient(objective, project, a), *draw())


def proximal(prox: Callable[[Tensor, Any], Tensor]) -> Callable[[], Family]:
    return lambda: solved(lambda a: fo.steps.proximal_gradient(objective, prox, a), *draw())


def l2(y: Tensor, alpha: Any) -> Tensor:
    """The prox of 2α‖·‖₂, for one α or one for each sample, ``(B, 1)``."""
    return fo.prox.l2(y, 2.0 * (alpha.squeeze(-1) if isinstance(alpha, Tensor) else alpha))


DESCENT: dict[str, Callable[[], Family]] = {
    "gradient": gradient,
    "projected, box": projected(lambda y: fo.projections.box(y, -0.2, 0.4)),
    "projected, simplex": projected(fo.projections.simplex),
    "projected, capped simplex": projected(lambda y: fo.projections.capped_simplex(y, 1.5, 0.6)),
    "projected, ball": projected(lambda y: fo.projections.ball(y, 0.5)),
    "proximal, l1": proximal(lambda y, a: fo.prox.l1(y, 0.7 * a)),
    "proximal, l2": proximal(l2),
}
