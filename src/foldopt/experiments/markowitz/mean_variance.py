r"""The mean–variance portfolio as a differentiable layer: PIQP solves it, one step folds it.

    min_x  ½ γ xᵀVx − cᵀx   subject to  1ᵀx = 1, x ≥ 0,

with returns c and their covariance V.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import qpsolvers
from torch import Tensor

import foldopt as fo

__all__ = ["MeanVariance", "portfolio_layer", "portfolio_step", "solve"]

# At PIQP's default of 1e-8, some days of our data end 2e-4 from their solution, with a fixed-point
# residual of 2e-5, of which a fold rightly warns. What counts is the duality gap: where a weight
# and its multiplier are both near 0, the error in x is of the order of its square root. These
# tolerances cost two or three more iterations of about nine.
_TOLERANCE: dict[str, Any] = {
    "eps_abs": 1e-11,
    "eps_rel": 1e-11,
    "eps_duality_gap_abs": 1e-12,
    "eps_duality_gap_rel": 1e-12,
}

_STATUS = {
    "PIQP_SOLVED": fo.Status.CONVERGED,
    "PIQP_MAX_ITER_REACHED": fo.Status.MAX_ITERATIONS,
    "PIQP_PRIMAL_INFEASIBLE": fo.Status.INFEASIBLE,
    "PIQP_DUAL_INFEASIBLE": fo.Status.UNBOUNDED,
}


@dataclasses.dataclass(frozen=True)
class MeanVariance:
    """The objective ½ γ xᵀVx − cᵀx, to be minimised.

    Parameters
    ----------
    risk_aversion
        γ > 0.

    Raises
    ------
    ValueError
        If γ is not above 0, where the portfolio would not be unique.

    Examples
    --------
    >>> import torch
    >>> f = MeanVariance(risk_aversion=2.0)
    >>> f(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 3.0]]), torch.eye(2).unsqueeze(0))
    tensor([-1.5000])
    """

    risk_aversion: float

    def __post_init__(self) -> None:
        if not self.risk_aversion > 0:
            raise ValueError(f"risk_aversion must be above 0, got {self.risk_aversion}")

    def __call__(self, x: Tensor, returns: Tensor, covariance: Tensor) -> Tensor:
        """One value for each sample: x and returns ``(B, n)``, covariance ``(B, n, n)``."""
        risk = (x * (covariance @ x.unsqueeze(-1)).squeeze(-1)).sum(-1)
        return 0.5 * self.risk_aversion * risk - (returns * x).sum(-1)


def portfolio_step(objective: MeanVariance) -> fo.steps.Step:
    """Projected gradient descent with a step size for every day.

    Parameters
    ----------
    objective
        What to minimise.

    Returns
    -------
    Step
        ``step(x, returns, covariance)``.

    Examples
    --------
    >>> import torch
    >>> step = portfolio_step(MeanVariance(risk_aversion=1.0))
    >>> x = torch.tensor([[0.25, 0.75]])  # the best for these returns
    >>> step(x, torch.tensor([[1.0, 1.5]]), torch.eye(2).unsqueeze(0)).detach()
    tensor([[0.2500, 0.7500]])
    """

    def unit_curvature(x: Tensor, returns: Tensor, covariance: Tensor) -> Tensor:
        # Variances differ tenfold between calm years and crises, and with them the right step
        # size, 1/λ_max(γV). Dividing each objective by a bound on its λ_max, the largest absolute
        # row sum (at most twice λ_max here), moves no minimiser and makes 1 a step size for all:
        # ρ(Φ) < 1, and a residual means the same distance on every day.
        curvature = objective.risk_aversion * covariance.detach().abs().sum(-1).amax(-1)
        return objective(x, returns, covariance) / curvature

    return fo.steps.projected_gradient(unit_curvature, fo.projections.simplex, step_size=1.0)


def portfolio_layer(
    objective: MeanVariance, on_failure: Literal["raise", "warn", "mask"] = "raise"
) -> Callable[[Tensor, Tensor], Tensor]:
    """The optimal portfolio as a differentiable function of returns and covariance.

    Parameters
    ----------
    objective
        What to minimise.
    on_failure
        What to do about a day that PIQP cannot solve; see :func:`~foldopt.fold`.

    Returns
    -------
    decide
        ``decide(returns, covariance) -> x``: ``(B, n)`` and ``(B, n, n)`` to ``(B, n)``, float64.

    Raises
    ------
    FoldError
        When called, if PIQP does not solve a problem and ``on_failure`` is ``"raise"``.

    Examples
    --------
    >>> import torch
    >>> decide = portfolio_layer(MeanVariance(risk_aversion=1.0))
    >>> c = torch.tensor([[1.0, 1.5, -9.0]], dtype=torch.float64, requires_grad=True)
    >>> x = decide(c, torch.eye(3, dtype=torch.float64).unsqueeze(0))
    >>> x.detach().round(decimals=6).abs()
    tensor([[0.2500, 0.7500, 0.0000]], dtype=torch.float64)
    >>> x[0, 1].backward()
    >>> c.grad.round(decimals=6)
    tensor([[-0.5000,  0.5000,  0.0000]], dtype=torch.float64)
    """

    @fo.folded(portfolio_step(objective), on_failure=on_failure)
    def decide(returns: Tensor, covariance: Tensor) -> fo.Solution:
        return solve(returns.numpy(), covariance.numpy(), objective.risk_aversion)

    return decide


def solve(returns: np.ndarray, covariance: np.ndarray, risk_aversion: float) -> fo.Solution:
    """Solve each day's quadratic program by PIQP: a blackbox, numpy in and numpy out.

    Parameters
    ----------
    returns, covariance
        c, shape ``(B, n)``, and V, shape ``(B, n, n)``.
    risk_aversion
        γ.

    Returns
    -------
    Solution
        x, shape ``(B, n)``, and each sample's :class:`~foldopt.Status`.

    Examples
    --------
    >>> import numpy as np
    >>> answer = solve(np.array([[1.0, 1.0], [np.nan, 0.0]]), np.stack([np.eye(2)] * 2), 1.0)
    >>> answer.x[0].round(6).tolist(), answer.status.tolist()
    ([0.5, 0.5], [0, 1])
    """
    samples, n = returns.shape
    x = np.empty((samples, n))
    status = np.empty(samples, dtype=np.int64)
    ones, one, zeros = np.ones((1, n)), np.ones(1), np.zeros(n)
    for sample in range(samples):
        problem = qpsolvers.Problem(
            risk_aversion * covariance[sample], -returns[sample], A=ones, b=one, lb=zeros
        )
        answer = qpsolvers.solve_problem(problem, solver="piqp", backend="dense", **_TOLERANCE)
        x[sample] = answer.x
        name = answer.extras["info"].status.name
        status[sample] = _STATUS.get(name, fo.Status.BREAKDOWN)
    return fo.Solution(x, status)
