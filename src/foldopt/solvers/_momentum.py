"""Accelerated fixed-point iterations with restarts, which FISTA and FDPG share."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from foldopt.solvers._settings import Settings
from foldopt.status import Status

__all__ = ["accelerate", "tolerances", "verdicts"]

_ITERATIONS = 10_000


def tolerances(settings: Settings, dtype: torch.dtype) -> tuple[float, float]:
    """rtol and atol; by default those of :func:`~foldopt.fixed_point`."""
    rtol = torch.finfo(dtype).eps ** 0.7 if settings.rtol is None else float(settings.rtol)
    return rtol, 0.0 if settings.atol is None else float(settings.atol)


def accelerate(
    step: Callable[[Tensor], Tensor], x: Tensor, settings: Settings, restart: bool
) -> tuple[Tensor, Tensor]:
    """Nesterov's extrapolation of ``step``, and the status of each sample ``(*batch,)``.

    A sample is done once ‖U(y) − y‖ ≤ atol + rtol (1 + ‖y‖), and then stays where it is. With
    ``restart`` its momentum ends where it points uphill: (y − x⁺)ᵀ(x⁺ − x) > 0.
    """
    rtol, atol = tolerances(settings, x.dtype)
    begin = time.monotonic()
    y, t = x, torch.ones_like(x[..., :1])
    status = torch.full(x.shape[:-1], -1, dtype=torch.int64, device=x.device)
    for _ in range(_ITERATIONS if settings.max_iterations is None else settings.max_iterations):
        new = step(y)
        moved = torch.linalg.vector_norm(new - y, dim=-1)
        size = 1 + torch.linalg.vector_norm(y, dim=-1)
        running = (status < 0)[..., None]
        status = torch.where(
            (status < 0) & (moved <= atol + rtol * size), int(Status.CONVERGED), status
        )
        broken = (status < 0) & ~torch.isfinite(moved)
        status = torch.where(broken, int(Status.NONFINITE), status)
        uphill = ((y - new) * (new - x)).sum(-1, keepdim=True) > 0
        t = torch.where(uphill, 1, t) if restart else t
        following = (1 + (1 + 4 * t * t).sqrt()) / 2
        y = torch.where(running, new + (t - 1) / following * (new - x), y)
        x = torch.where(running, new, x)
        t = following
        if not bool((status < 0).any()):
            break
        if settings.time_limit is not None and time.monotonic() - begin > settings.time_limit:
            status = torch.where(status < 0, int(Status.TIME_LIMIT), status)
            break
    return x, torch.where(status < 0, int(Status.MAX_ITERATIONS), status)


def verdicts(status: Tensor) -> tuple[str, ...]:
    """A text for each sample, "" where all is well."""
    codes = status.reshape(-1).tolist()
    return tuple("" if code == Status.CONVERGED else Status(code).name for code in codes)
