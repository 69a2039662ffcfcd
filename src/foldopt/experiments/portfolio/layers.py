"""Eq. 20 as a layer: f-SQP around any solver, and the differentiable layer of cvxpy."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from foldopt.nn import Options, f_sqp
from foldopt.nn._optimizer import FoldedOptimizer
from foldopt.operators import PrimalDual
from foldopt.step import Step
from foldopt.steps import newton_kkt

__all__ = ["ConeLayer", "flat_step", "folded_portfolio", "minus_return"]

Solver = Callable[[Tensor, Tensor, Tensor], Any]


def minus_return(x: Tensor, r: Tensor, *_: Any) -> Tensor:
    """−rᵀx, sample by sample: what is minimised."""
    return -(r * x).sum(-1)


def folded_portfolio(
    solver: Solver, method: Literal["sqp", "newton"] = "sqp", options: Options | None = None
) -> FoldedOptimizer:
    r"""Fold SQP around a solver of eq. 20: ``layer(c, covariance, risk) -> x``.

    The risk is written as xᵀVx / γ ≤ 1, which is the same set with a constraint of size one.

    Parameters
    ----------
    solver
        ``solver(c, covariance, risk)`` gives x, or x with its multipliers.
    method
        ``"sqp"``, f-SQP; or ``"newton"``, the Newton step on the optimality conditions, which has
        the same derivative. It also serves where the risk does not bind: the Hessian of the
        Lagrangian is then zero, and the quadratic program of SQP a linear one.
    options
        Of the fold; None: samples without a trustworthy gradient give none, and are counted.

    Returns
    -------
    FoldedOptimizer
        c ``(B, n)``, covariance ``(B, n, n)``, risk ``(B,)``.

    Examples
    --------
    >>> from foldopt.nn._portfolio.interior_points import solve
    >>> c = torch.tensor([[2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    >>> V, gamma = torch.eye(2).double()[None], torch.tensor([0.68], dtype=torch.float64)
    >>> folded_portfolio(solve)(c, V, gamma)
    tensor([[0.8000, 0.2000]], dtype=torch.float64, grad_fn=...)
    """
    options = options or Options(on_failure="mask")
    program = (_objective, _inequality, _equality)
    layer = f_sqp(*program, solver=solver, options=options)
    if method == "sqp":
        return layer
    return FoldedOptimizer(newton_kkt(*program), layer.to_state, solver, options, "portfolio")


def _objective(x: Tensor, c: Tensor, V: Tensor, gamma: Tensor) -> Tensor:
    return -(c @ x)


def _inequality(x: Tensor, c: Tensor, V: Tensor, gamma: Tensor) -> list[Tensor]:
    return [x @ V @ x / gamma - 1, -x]


def _equality(x: Tensor, c: Tensor, V: Tensor, gamma: Tensor) -> Tensor:
    return x.sum() - 1


def flat_step(layer: FoldedOptimizer) -> Step:
    """The step of a layer on one tensor: x and the multipliers side by side, ``(B, 2n + 2)``.

    Parameters
    ----------
    layer
        What :func:`folded_portfolio` returns.

    Returns
    -------
    Step
        ``step(z, c, covariance, risk)``.
    """

    def update(z: Tensor, c: Tensor, *known: Tensor) -> Tensor:
        n = c.shape[-1]
        state = PrimalDual(*z.split([n, n + 1, 1], -1))
        return torch.cat([*layer.step.update(state, c, *known)], -1)

    return dataclasses.replace(layer.step, update=update, readout=None)


class ConeLayer:
    r"""The layer of cvxpylayers for eq. 20, with V and γ multiplied by a number.

    Parameters
    ----------
    covariance, risk
        V ``(n, n)`` and γ, which all samples share.
    scale
        What V and γ are multiplied by: the set of portfolios does not change.
    norm
        Whether the risk is written as ‖Lᵀx‖ ≤ √γ, and not as its square.
    solver_args
        For diffcp, such as ``{"eps": 1e-8}``; None: its defaults.

    Attributes
    ----------
    refused
        How many batches the solver has raised an error for: their loss has no gradient.

    Raises
    ------
    ImportError
        If cvxpylayers or diffcp is missing.
    """

    def __init__(
        self,
        covariance: Tensor,
        risk: float,
        scale: float = 1.0,
        *,
        norm: bool = False,
        solver_args: dict[str, Any] | None = None,
    ) -> None:
        try:
            import cvxpy
            from cvxpylayers.torch import CvxpyLayer
        except ImportError as error:
            raise ImportError(
                "portfolio: the method cvxpylayers needs the packages cvxpylayers and diffcp: "
                "pip install cvxpylayers diffcp"
            ) from error
        n = covariance.shape[-1]
        root = math.sqrt(scale) * torch.linalg.cholesky(covariance).mT.numpy()
        x, c = cvxpy.Variable(n), cvxpy.Parameter(n)
        if norm:
            bound = cvxpy.norm(root @ x) <= math.sqrt(scale * risk)
        else:
            bound = cvxpy.sum_squares(root @ x) <= scale * risk
        constraints: list[Any] = [bound, cvxpy.sum(x) == 1, x >= 0]
        problem = cvxpy.Problem(cvxpy.Maximize(c @ x), constraints)
        self.layer = CvxpyLayer(problem, parameters=[c], variables=[x])
        self.solver_args = dict(solver_args or {})
        self.refused = 0

    def __call__(self, c: Tensor, *_: Any) -> Tensor:
        """x for each row of c, differentiable in c; what follows c is ignored."""
        from diffcp import SolverError

        with warnings.catch_warnings():
            # Of inaccurate answers, batch by batch: how inaccurate they are is measured.
            warnings.simplefilter("ignore")
            try:
                return self.layer(c, solver_args=self.solver_args)[0]
            except SolverError:
                self.refused += 1
                return torch.full_like(c, 1 / c.shape[-1]) + 0 * c
