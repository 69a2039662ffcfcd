"""Stabilised biconjugate gradients (van der Vorst, 1992)."""

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

__all__ = ["BiCGSTAB"]


@dataclasses.dataclass(frozen=True)
class BiCGSTAB:
    """Stabilised biconjugate gradients: for any Φ, with eight vectors of memory.

    Two products an iteration. Its residual does not fall monotonically and the recurrence can
    break down; both lead to a restart from the true residual.

    Parameters
    ----------
    rtol, atol
        Stop once ‖b − A v‖ ≤ atol + rtol ‖b‖. ``rtol=None``: 1.1e-11 in float64, 1.4e-5 in
        float32.
    max_iterations
        At most so many iterations, of two products each.

    References
    ----------
    H. A. van der Vorst, SIAM J. Sci. Stat. Comput. 13 (1992), 631–644.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> M = torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)  # spectral radius 2
    >>> c = torch.tensor([[1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    >>> x_star = torch.linalg.solve(torch.eye(2) - M, c.detach().T).T
    >>> x = fo.fold(lambda x, c: x @ M.T + c, x_star, c, adjoint=fo.BiCGSTAB())
    >>> x[0, 0].backward()
    >>> torch.round(c.grad, decimals=6)
    tensor([[0.2000, 0.4000]], dtype=torch.float64)
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
            _cycle, operator, b, self.rtol, self.atol, self.max_iterations, "BiCGSTAB", start
        )


def _cycle(
    operator: LinearOperator, b: Tensor, tolerance: Tensor, budget: int
) -> tuple[Tensor, Tensor]:
    interval = check_interval(b.device)
    # Below this cosine two vectors count as orthogonal, and the division as a breakdown.
    tiny = torch.finfo(b.dtype).eps ** 1.5
    shadow, shadow_length = b, norm(b)
    v, r, p = torch.zeros_like(b), b, b
    rho = dot(shadow, r)
    best, best_length = v, norm(r)
    iterations = torch.zeros(b.shape[:-1], dtype=torch.int64, device=b.device)
    stopped = torch.zeros_like(iterations, dtype=torch.bool)

    def divide(above: Tensor, below: Tensor, where: Tensor) -> Tensor:
        return torch.where(where, above / torch.where(where, below, 1), 0)

    for k in range(budget):
        length = norm(r)
        better = length < best_length
        best = torch.where(better.unsqueeze(-1), v, best)
        best_length = torch.where(better, length, best_length)
        busy = ~stopped & (length > tolerance)
        if k % interval == 0 and not bool(busy.any()):
            break
        q = operator(p)
        sigma = dot(shadow, q)
        sound = sigma.abs() > tiny * shadow_length * norm(q)
        stopped = stopped | (busy & ~sound)
        busy = busy & sound
        alpha = divide(rho, sigma, busy).unsqueeze(-1)
        s = r - alpha * q
        t = operator(s)
        omega = divide(dot(t, s), dot(t, t), busy & (dot(t, t) > 0)).unsqueeze(-1)
        v = v + torch.where(busy.unsqueeze(-1), alpha * p + omega * s, 0)
        r = torch.where(busy.unsqueeze(-1), s - omega * t, r)
        iterations = iterations + busy
        rho_next = dot(shadow, r)
        go_on = (rho_next.abs() > tiny * shadow_length * norm(r)) & (omega.squeeze(-1) != 0)
        stopped = stopped | (busy & ~go_on)
        beta = divide(rho_next, rho, busy & go_on).unsqueeze(-1) * torch.where(
            omega != 0, alpha / torch.where(omega != 0, omega, 1), 0
        )
        p = torch.where(busy.unsqueeze(-1), r + beta * (p - omega * q), p)
        rho = torch.where(busy, rho_next, rho)
    better = (norm(r) < best_length).unsqueeze(-1)
    return torch.where(better, v, best), iterations
