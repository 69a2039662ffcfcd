"""FISTA: accelerated proximal gradient descent on a batch, in PyTorch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from foldopt._functions import check_functions, positions_of
from foldopt._gradient import objective_gradient
from foldopt.solvers._momentum import accelerate, verdicts
from foldopt.solvers._settings import Settings
from foldopt.solvers._start import StartLike, check_step_size, picked, start_of
from foldopt.status import Solution, Status

__all__ = ["FISTA"]


@dataclasses.dataclass(frozen=True, eq=False)
class FISTA(Settings):
    r"""Minimize f + g for a smooth f and a g with a proximal operator, all samples at once.

    :math:`x_{k+1} = \operatorname{prox}_{\alpha g}(y_k - \alpha \nabla f(y_k))` with Nesterov's
    extrapolation :math:`y_k`, for convex f and g. The momentum of a sample starts anew where it
    leads uphill. It runs on the device of its params, in their dtype; the fixed point is that of
    :func:`~foldopt.steps.proximal_gradient` with the same arguments.

    Parameters
    ----------
    objective
        The smooth part f: ``objective(x, *params)``, one value for each sample, ``(*batch,)``.
    prox
        ``prox(y, step_size, *selected)``: the proximal operator of ``step_size`` times g, the step
        size being a number, or ``(*batch, 1)`` with ``"auto"``; see :mod:`foldopt.prox`.
    start
        Where to begin: a tensor of the shape of x, ``(*batch, n)``, or a function of the params,
        ``start(*params)``, for batches of any size.
    step_size
        α, at most 1/L for a gradient with the Lipschitz constant L; or ``"auto"``: every sample
        finds its own by backtracking.
    prox_params
        Which of the params, by position, the operator takes after the step size.
    restart
        Whether momentum starts anew.
    rtol, atol
        A sample stops once ‖U(y) − y‖ ≤ atol + rtol (1 + ‖y‖); None: 1.1e-11 in float64, 1.4e-5 in
        float32, and 0.
    max_iterations
        None: 10 000.
    time_limit
        Seconds for the whole batch; None: no limit.
    threads, executor, warm_start
        Of no effect: the samples share their iterations.

    References
    ----------
    A. Beck, M. Teboulle, SIAM J. Imaging Sci. 2 (2009), 183–202. B. O'Donoghue, E. Candès, Found.
    Comput. Math. 15 (2015), 715–732 (restarts).

    Examples
    --------
    >>> import torch
    >>> from foldopt import prox, solvers
    >>> lasso = solvers.FISTA(
    ...     lambda x, c: 0.5 * ((x - c) ** 2).sum(-1), lambda y, a: prox.l1(y, a), torch.zeros_like)
    >>> lasso(torch.tensor([[3.0, -0.5]])).x.round(decimals=3)
    tensor([[2., 0.]])
    """

    objective: Callable[..., Tensor]
    prox: Callable[..., Any]
    start: StartLike
    _: dataclasses.KW_ONLY
    step_size: float | Literal["auto"] = "auto"
    prox_params: Sequence[int] = ()
    restart: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_functions(objective=self.objective, prox=self.prox)
        positions_of("prox_params", self.prox_params)
        check_step_size(self.step_size)

    def __call__(self, *params: Any) -> Solution:
        """Solve every sample.

        Parameters
        ----------
        *params
            What the objective takes after x.

        Returns
        -------
        Solution
            x, of the shape of the start, and the status of each sample.

        Raises
        ------
        TypeError, ValueError
            If shapes or kinds do not fit.
        """
        x, params = start_of("solvers.FISTA", self.start, params)
        selected = picked(params, self.prox_params, "prox_params")
        if self.step_size == "auto":
            step = _Backtracking(self.objective, self.prox, params, selected, x)
        else:
            alpha = self.step_size

            def step(y: Tensor) -> Tensor:
                slope = objective_gradient(self.objective, y, params).detach()
                return self.prox(y - alpha * slope, alpha, *selected)

        with torch.no_grad():
            x, status = accelerate(step, x, self, self.restart)
        lost = (status == Status.NONFINITE)[..., None]
        return Solution(torch.where(lost, torch.nan, x), status, messages=verdicts(status))


class _Backtracking:
    """The step, with a step size for each sample that never grows.

    It starts from the curvature along one direction, a lower bound of L, and is halved until f lies
    below its quadratic model: f(x⁺) ≤ f(y) + ∇fᵀ(x⁺ − y) + ‖x⁺ − y‖²/2α.
    """

    def __init__(
        self,
        objective: Callable[..., Tensor],
        prox: Callable[..., Any],
        params: tuple[Any, ...],
        selected: tuple[Any, ...],
        x: Tensor,
    ) -> None:
        self.objective, self.prox = objective, prox
        self.params, self.selected = params, selected
        slope = self._slope(x)
        eps = torch.finfo(x.dtype).eps
        length = torch.linalg.vector_norm(slope, dim=-1, keepdim=True)
        size = 1 + torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        move = math.sqrt(eps) * size * slope / torch.where(length > 0, length, 1)
        bend = torch.linalg.vector_norm(self._slope(x - move) - slope, dim=-1, keepdim=True)
        L = bend / (math.sqrt(eps) * size)
        self.alpha = torch.where((L > 1e-6) & torch.isfinite(L), 1 / L.clamp_min(1e-6), 1.0)

    def _slope(self, x: Tensor) -> Tensor:
        return objective_gradient(self.objective, x, self.params).detach()

    def __call__(self, y: Tensor) -> Tensor:
        slope, before = self._slope(y), self.objective(y, *self.params)
        noise = 10 * torch.finfo(y.dtype).eps * (1 + before.abs())
        new = y
        for _ in range(60):
            new = self.prox(y - self.alpha * slope, self.alpha, *self.selected)
            move = new - y
            model = (slope * move).sum(-1) + 0.5 * (move.square() / self.alpha).sum(-1)
            above = self.objective(new, *self.params) > before + model + noise
            if not bool(above.any()):
                break
            self.alpha = torch.where(above[..., None], self.alpha / 2, self.alpha)
        return new
