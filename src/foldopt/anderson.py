"""Anderson acceleration of a batched fixed-point iteration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foldopt.linear._common import check_interval, default_rtol, norm
from foldopt.status import Status


def accelerate(
    step: Callable[[Tensor], Tensor],
    x: Tensor,
    history: int,
    rtol: float | None,
    atol: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """Iterate x ← U(x) to a fixed point, each sample on its own.

    With residuals r_k = U(x_k) − x_k, Anderson's next iterate is Σ γ_j U(x_j) over the last few
    j, with Σ γ_j = 1 such that ‖Σ γ_j r_j‖ is least. ``history = 0`` is the plain iteration.

    A sample whose accelerated residual grows past twice the best it has seen goes back to
    the plain step from there: acceleration is a heuristic, and this keeps it no worse than
    that step's own convergence.

    Returns
    -------
    x, status
        The best iterates ``(B, n)``, and a :class:`~foldopt.Status` for each.
    """
    rtol = default_rtol(x.dtype) if rtol is None else rtol
    interval = check_interval(x.device)
    samples, n = x.shape
    values = x.new_zeros(samples, max(history, 1), n)
    residuals = torch.zeros_like(values)
    filled = torch.zeros(samples, max(history, 1), dtype=torch.bool, device=x.device)
    best, best_length = x, torch.full_like(x[:, 0], torch.inf) if n else x.new_zeros(samples)
    best_value = x
    done = torch.zeros(samples, dtype=torch.bool, device=x.device)
    length = first = torch.full_like(best_length, torch.inf)
    for k in range(max_iterations):
        value = step(x)
        residual = value - x
        length = norm(residual)
        first = length if k == 0 else first
        improved = ~done & (length < best_length)
        best = torch.where(improved.unsqueeze(-1), x, best)
        best_value = torch.where(improved.unsqueeze(-1), value, best_value)
        best_length = torch.where(improved, length, best_length)
        done = done | (length <= atol + rtol * (1 + norm(x)))
        lost = ~(length <= 1e12 * (1 + first))  # overflow is near, or has come
        if k % interval == 0 and bool((done | lost).all()):
            break
        if history == 0:
            x = torch.where(done.unsqueeze(-1), x, value)
            continue
        slot = k % history
        wild = length > 2 * best_length
        filled = filled & ~wild.unsqueeze(-1)
        values[:, slot], residuals[:, slot] = value, residual
        filled[:, slot] = ~wild
        mixed = _mix(values, residuals, filled)
        following = torch.where(wild.unsqueeze(-1), best_value, mixed)
        x = torch.where(done.unsqueeze(-1), x, following)
    status = torch.where(done, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
    status = torch.where(~done & ~(length <= first * 1e3), int(Status.DIVERGED), status)
    return best, status


def _mix(values: Tensor, residuals: Tensor, filled: Tensor) -> Tensor:
    """Σ γ_j U(x_j), with γ from the constrained least-squares problem.

    The Gram matrix squares the condition number; a ridge of 1e-10 of its largest entry keeps it
    solvable, at the price of a slightly slower convergence and nothing else: any γ that sums to
    one leaves the fixed point in place.
    """
    scale = residuals.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(residuals.dtype).tiny)
    rows = residuals / scale * filled.unsqueeze(-1)
    gram = rows @ rows.mT
    size = gram.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    ridge = 1e-10 if gram.dtype == torch.float64 else 1e-6
    empty = torch.where(filled, ridge, 1.0) * size.unsqueeze(-1)
    gram = gram + torch.diag_embed(empty)
    ones = filled.to(gram.dtype)
    weights = torch.linalg.solve_ex(gram, ones.unsqueeze(-1))[0].squeeze(-1) * ones
    total = weights.sum(-1, keepdim=True)
    weights = torch.where(total.abs() > 0, weights / torch.where(total != 0, total, 1), 0)
    return (weights.unsqueeze(1) @ values).squeeze(1)
