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

    With residuals r_k = U(x_k) − x_k, Anderson's next iterate is Σ γ_j U(x_j) over the current
    and the last ``history`` iterates, with Σ γ_j = 1 such that ‖Σ γ_j r_j‖ is least.
    ``history = 0`` is the plain iteration.

    Acceleration is a heuristic. Where it makes a residual grow past twice the least one since the
    last restart, the sample restarts from its best iterate with a run of plain steps: 1, then 2,
    4, …, until that has made progress. So it converges wherever the plain iteration does, if only
    in the end, and also where that iteration's residuals grow before they fall.

    Returns
    -------
    x, status
        The best iterates ``(B, n)``, and a :class:`~foldopt.Status` for each.
    """
    rtol = default_rtol(x.dtype) if rtol is None else rtol
    interval = check_interval(x.device)
    samples, n = x.shape
    values = x.new_zeros(samples, history + 1, n)
    residuals = torch.zeros_like(values)
    filled = torch.zeros(samples, history + 1, dtype=torch.bool, device=x.device)
    done = gone = torch.zeros(samples, dtype=torch.bool, device=x.device)
    plain = torch.zeros(samples, dtype=torch.int64, device=x.device)  # plain steps still to take
    run = torch.ones_like(plain)  # the length of the next run of them
    best = best_value = x
    best_length = length = first = torch.full_like(norm(x), torch.inf)
    mark = level = best_length  # the least residual since the restart, and the best one then
    for k in range(max_iterations):
        value = step(x)
        residual = value - x
        length = norm(residual)
        first = length if k == 0 else first
        # The iterate that meets the tolerance is the answer, also if a smaller x had a smaller
        # residual and did not: the tolerance grows with ‖x‖.
        reached = length <= atol + rtol * (1 + norm(x))
        improved = ~done & (reached | (length < best_length))
        best = torch.where(improved.unsqueeze(-1), x, best)
        best_value = torch.where(improved.unsqueeze(-1), value, best_value)
        best_length = torch.where(improved, length, best_length)
        done = done | reached
        # Overflow is near, or has come, and no acceleration is to blame.
        unaided = (plain > 0) if history and k else torch.ones_like(done)
        gone = gone | (~done & unaided & ~(length <= 1e12 * (1 + first)))
        still = (done | gone).unsqueeze(-1)
        if k % interval == 0 and bool(still.all()):
            break
        if history == 0:
            x = torch.where(still, best, value)
            continue
        wild = ~unaided & ~(length <= 2 * mark)
        mark = torch.where(unaided, length, torch.minimum(mark, length))
        mark = torch.where(wild, torch.inf, mark)
        slot, kept = k % (history + 1), ~wild.unsqueeze(-1)
        filled = filled & kept
        filled[:, slot] = ~wild
        values[:, slot] = torch.where(kept, value, 0)  # which may be NaN
        residuals[:, slot] = torch.where(kept, residual, 0)
        following = torch.where(unaided.unsqueeze(-1), value, _mix(values, residuals, filled))
        following = torch.where(wild.unsqueeze(-1), best_value, following)
        x = torch.where(still, best, following)
        plain = torch.where(wild, run, (plain - 1).clamp_min(0))
        progress = best_length <= 0.9 * level
        level = torch.where(wild | progress, best_length, level)
        run = torch.where(wild, 2 * run, torch.where(progress, 1, run))
    grown = gone | ~(length <= 1e3 * first)
    status = torch.where(grown, int(Status.DIVERGED), int(Status.MAX_ITERATIONS))
    status = torch.where(torch.isfinite(first), status, int(Status.NONFINITE))
    return best, torch.where(done, int(Status.CONVERGED), status)


def _mix(values: Tensor, residuals: Tensor, filled: Tensor) -> Tensor:
    """Σ γ_j U(x_j), with γ from the constrained least-squares problem.

    With ρ_j = ‖r_j‖ and γ_j = w_j / ρ_j, the Gram matrix of r_j / ρ_j is to be inverted: residuals
    of very different lengths, as they are on the way to convergence, do not spoil it. Nearly
    parallel ones do; a ridge keeps it solvable, at the price of a slightly slower convergence and
    nothing else: any γ that sums to one leaves the fixed point in place.
    """
    tiny = torch.finfo(residuals.dtype).tiny
    length = norm(residuals).clamp_min(tiny)
    rows = residuals / length.unsqueeze(-1)
    ridge = 1e-12 if rows.dtype == torch.float64 else 1e-6
    gram = rows @ rows.mT + torch.diag_embed(torch.where(filled, ridge, 1.0).to(rows.dtype))
    least = torch.where(filled, length, torch.inf).amin(-1, keepdim=True)
    shares = torch.where(filled, least / length, 0)
    weights = torch.linalg.solve_ex(gram, shares.unsqueeze(-1))[0].squeeze(-1) * shares
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights.unsqueeze(1) @ values).squeeze(1)
