"""Conjugate gradients, for a symmetric Φ."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt.linear._common import (
    LinearOperator,
    LinearSolution,
    check_interval,
    dot,
    norm,
    positive,
    restarted,
    tolerances,
)

__all__ = ["CG"]


@dataclasses.dataclass(frozen=True)
class CG:
    """Conjugate gradients: for I − Φ symmetric positive definite, as a gradient step's is.

    One product an iteration and four vectors of memory. For a Φ that is not symmetric, or an
    I − Φ that is not positive definite, it does not converge, and its status says so.

    Parameters
    ----------
    rtol, atol
        Stop once ‖b − A v‖ ≤ atol + rtol ‖b‖. ``rtol=None``: 1.1e-11 in float64, 1.4e-5 in
        float32.
    max_iterations
        At most so many products.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.ones(1, 3, dtype=torch.float64, requires_grad=True)
    >>> scale = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    >>> x = fo.fold(lambda x, c: scale * x + c, c.detach() / (1 - scale), c, adjoint=fo.CG())
    >>> x.sum().backward()
    >>> bool(torch.allclose(c.grad, 1 / (1 - scale)))
    True
    """

    rtol: float | None = None
    atol: float = 0.0
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        tolerances(self.rtol, self.atol)
        positive(max_iterations=self.max_iterations)

    def solve(
        self, operator: LinearOperator, b: Tensor, start: Tensor | None = None
    ) -> LinearSolution:
        """Solve A v = b, b of shape ``(*lead, B, n)``, from a first guess or from zero."""
        return restarted(
            _cycle, operator, b, self.rtol, self.atol, self.max_iterations, "CG", start
        )


def _cycle(
    operator: LinearOperator, b: Tensor, tolerance: Tensor, budget: int
) -> tuple[Tensor, Tensor]:
    interval = check_interval(b.device)
    v, r, p = torch.zeros_like(b), b, b
    rho = dot(r, r)
    iterations = torch.zeros(b.shape[:-1], dtype=torch.int64, device=b.device)
    stopped = torch.zeros_like(iterations, dtype=torch.bool)
    for k in range(budget):
        busy = ~stopped & (norm(r) > tolerance)
        if k % interval == 0 and not bool(busy.any()):
            break
        q = operator(p)
        curvature = dot(p, q)
        stopped = stopped | (busy & ~(curvature > 0))  # not positive definite: stop here
        busy = busy & ~stopped
        alpha = torch.where(busy, rho / torch.where(busy, curvature, 1), 0).unsqueeze(-1)
        v = v + alpha * p
        r = r - alpha * q
        rho_next = dot(r, r)
        beta = torch.where(busy, rho_next / torch.where(busy, rho, 1), 0).unsqueeze(-1)
        p = torch.where(busy.unsqueeze(-1), r + beta * p, p)
        rho = torch.where(busy, rho_next, rho)
        iterations = iterations + busy
    return v, iterations
