"""Projected gradient descent from several starts, for objectives that are not convex."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foldopt._functions import check_functions, positions_of
from foldopt._gradient import objective_gradient
from foldopt.solvers._momentum import verdicts
from foldopt.solvers._settings import Settings
from foldopt.solvers._start import StartLike, picked, start_of
from foldopt.status import Solution, Status

__all__ = ["ProjectedGradient"]

_ITERATIONS = 2000
_ARMIJO = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class ProjectedGradient(Settings):
    r"""Minimize a smooth f on a set with a projection, from several starts; the best one counts.

    :math:`x_{k+1} = P_C(x_k - \alpha_k \nabla f(x_k))` with spectral step sizes, shortened until f
    has fallen enough along the arc of projections. f need not be convex: every start leads to some
    stationary point, and a sample takes the lowest of them. That is a heuristic, and no proof of
    a global minimum. It runs on the device of its params, in their dtype; the fixed points are
    those of :func:`~foldopt.steps.projected_gradient`.

    Parameters
    ----------
    objective
        ``objective(x, *params)``: one value for each sample, ``(*batch,)``.
    projection
        ``projection(y, *selected)`` on the feasible set; see :mod:`foldopt.projections`.
    start
        Where to begin: a tensor of the shape of x, ``(*batch, n)``, or a function of the params,
        ``start(*params)``. It is projected first.
    projection_params
        Which of the params, by position, the projection takes after y.
    restarts
        How many starts there are: the given one, and others around it.
    spread
        The standard deviation of the normal noise that makes the others.
    seed
        Of that noise: the same call gives the same answer.
    rtol, atol
        A start is done once ‖P(x − α∇f) − x‖ ≤ atol + rtol (1 + ‖x‖) with the spectral α; None:
        4e-10 in float64, 7e-5 in float32, and 0.
    max_iterations
        From each start; None: 2000.
    time_limit
        Seconds for the whole batch; None: no limit.
    threads, executor, warm_start
        Of no effect: the samples share their iterations.

    References
    ----------
    D. P. Bertsekas, IEEE Trans. Autom. Control 21 (1976), 174–184 (the arc). J. Barzilai, J. M.
    Borwein, IMA J. Numer. Anal. 8 (1988), 141–148 (the step sizes).

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> lowest = solvers.ProjectedGradient(
    ...     lambda x, c: (c * x**2).sum(-1), lambda y: y.clamp(-1, 2), torch.ones_like)
    >>> lowest(torch.tensor([[1.0, -1.0]])).x.round(decimals=4) + 0
    tensor([[0., 2.]])
    """

    objective: Callable[..., Tensor]
    projection: Callable[..., Any]
    start: StartLike
    _: dataclasses.KW_ONLY
    projection_params: Sequence[int] = ()
    restarts: int = 8
    spread: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_functions(objective=self.objective, projection=self.projection)
        positions_of("projection_params", self.projection_params)
        if not isinstance(self.restarts, int) or self.restarts < 1:
            raise ValueError(f"restarts must be an integer of 1 or more, got {self.restarts!r}")
        if not 0 <= self.spread < math.inf:
            raise ValueError(f"spread must be a finite number of 0 or more, got {self.spread!r}")

    def __call__(self, *params: Any) -> Solution:
        """Solve every sample.

        Parameters
        ----------
        *params
            What the objective takes after x.

        Returns
        -------
        Solution
            x, of the shape of the start, and the status of each sample: that of its best start. A
            start that converged comes before one that did not.

        Raises
        ------
        TypeError, ValueError
            If shapes or kinds do not fit.
        """
        x0, params = start_of("solvers.ProjectedGradient", self.start, params, (torch.float16,))
        selected = picked(params, self.projection_params, "projection_params")
        generator = torch.Generator().manual_seed(self.seed)
        end = None if self.time_limit is None else time.monotonic() + self.time_limit
        run = _Run(self, params, selected, end)
        best: tuple[Tensor, Tensor, Tensor] | None = None
        with torch.no_grad():
            for turn in range(self.restarts):
                # Drawn on the CPU: the same numbers on every device.
                noise = torch.randn(x0.shape, dtype=x0.dtype, generator=generator).to(x0.device)
                found = run(x0 if turn == 0 else x0 + self.spread * noise)
                best = found if best is None else _better(best, found)
        assert best is not None
        x, status, _ = best
        lost = (status == Status.NONFINITE)[..., None]
        return Solution(torch.where(lost, torch.nan, x), status, messages=verdicts(status))


def _better(
    old: tuple[Tensor, Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample by sample: converged before not, finite before not, then the lower value."""

    def rank(status: Tensor) -> Tensor:
        late = torch.where(status == Status.NONFINITE, 2, 1)
        return torch.where(status == Status.CONVERGED, 0, late)

    first, second = rank(old[1]), rank(new[1])
    wins = (second < first) | ((second == first) & (new[2] < old[2]))
    return (
        torch.where(wins[..., None], new[0], old[0]),
        torch.where(wins, new[1], old[1]),
        torch.where(wins, new[2], old[2]),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """Descent from one start."""

    solver: ProjectedGradient
    params: tuple[Any, ...]
    selected: tuple[Any, ...]
    end: float | None

    def value(self, x: Tensor) -> Tensor:
        return self.solver.objective(x, *self.params)

    def slope(self, x: Tensor) -> Tensor:
        return objective_gradient(self.solver.objective, x, self.params).detach()

    def project(self, y: Tensor) -> Tensor:
        return self.solver.projection(y, *self.selected)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, each sample's status, and f."""
        solver, eps = self.solver, torch.finfo(x.dtype).eps
        rtol = eps**0.6 if solver.rtol is None else float(solver.rtol)
        atol = 0.0 if solver.atol is None else float(solver.atol)
        x = self.project(x)
        f, slope = self.value(x), self.slope(x)
        status = torch.full(f.shape, -1, dtype=torch.int64, device=x.device)
        length = torch.linalg.vector_norm(slope, dim=-1, keepdim=True)
        alpha = 1 / torch.where(length > 0, length, 1)
        for _ in range(_ITERATIONS if solver.max_iterations is None else solver.max_iterations):
            trial = self.project(x - alpha * slope)
            residual = torch.linalg.vector_norm(trial - x, dim=-1)
            near = residual <= atol + rtol * (1 + torch.linalg.vector_norm(x, dim=-1))
            status = torch.where((status < 0) & near, int(Status.CONVERGED), status)
            broken = ~torch.isfinite(residual) | ~torch.isfinite(f)
            status = torch.where((status < 0) & broken, int(Status.NONFINITE), status)
            open_ = status < 0
            if not bool(open_.any()):
                break
            if self.end is not None and time.monotonic() > self.end:
                status = torch.where(open_, int(Status.TIME_LIMIT), status)
                break
            new, value = self._arc(x, f, slope, alpha, trial, open_)
            change = torch.where(open_[..., None], self.slope(new) - slope, 0)
            move = new - x
            # The spectral step size: the inverse of the curvature along the last move.
            curvature = (move * change).sum(-1, keepdim=True)
            square = move.square().sum(-1, keepdim=True)
            spectral = torch.where(curvature > 0, square / curvature, 10 * alpha)
            alpha = torch.where(square > 0, spectral.clamp(1e-10, 1e10), alpha / 2)
            x, f, slope = new, value, slope + change
        return x, torch.where(status < 0, int(Status.MAX_ITERATIONS), status), f

    def _arc(
        self, x: Tensor, f: Tensor, slope: Tensor, alpha: Tensor, trial: Tensor, open_: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The first point on the arc P(x − α∇f), α halved and halved, where f has fallen enough."""
        noise = 10 * torch.finfo(x.dtype).eps * (1 + f.abs())
        new, value, searching = x, f, open_
        for _ in range(60):
            at = self.value(trial)
            fine = searching & (at <= f + _ARMIJO * (slope * (trial - x)).sum(-1) + noise)
            new = torch.where(fine[..., None], trial, new)
            value = torch.where(fine, at, value)
            searching = searching & ~fine
            if not bool(searching.any()):
                break
            alpha = alpha / 2
            trial = self.project(x - alpha * slope)
        return new, value
