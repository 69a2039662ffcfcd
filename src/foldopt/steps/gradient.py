"""Gradient descent, plain, projected and proximal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from foldopt.step import Step
from foldopt.steps._step import (
    check_functions,
    descend,
    objective_gradient,
    positions_of,
    positive_step_size,
    select,
)

__all__ = ["gradient", "projected_gradient", "proximal_gradient"]


def gradient(objective: Callable[..., Tensor], step_size: float | Tensor) -> Step:
    r"""Gradient descent, :math:`U(x, c) = x - \alpha \nabla_x f(x, c)`.

    :math:`\Phi = I - \alpha \nabla^2 f` is symmetric for one α; ρ(Φ) < 1 for
    :math:`0 < \alpha < 2/\lambda_{\max}` where the Hessian is positive definite. Every stationary
    point is a fixed point for every α, so that a fold works for any α > 0; α decides only how fast
    an iterative adjoint converges.

    Parameters
    ----------
    objective
        ``objective(x, *params)``, in PyTorch: one value for each sample, shape ``(*batch,)``.
    step_size
        α > 0, a number or a constant tensor that broadcasts against x.

    Returns
    -------
    Step
        ``step(x, *params)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, ``step_size`` is not above zero, or the objective's
        shape does not fit x.

    References
    ----------
    arXiv 2301.12047, eq. 4 without constraints.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> step = fo.steps.gradient(lambda x, c: ((x - c) ** 2).sum(-1), step_size=0.1)
    >>> c = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> x = fo.fold(step, c.detach(), c)
    >>> x[0, 0].backward()
    >>> torch.round(c.grad, decimals=3)
    tensor([[1., 0.]])
    """
    check_functions(objective=objective)
    positive_step_size(step_size)

    def update(x: Any, *params: Any) -> Any:
        return descend(x, objective_gradient(objective, x, params), step_size)

    # Different step sizes within a sample scale the rows of the Hessian, and Φ is not symmetric.
    uniform = not isinstance(step_size, Tensor) or step_size.numel() == 1
    return Step(update, symmetric=uniform, name="gradient")


def projected_gradient(
    objective: Callable[..., Tensor],
    projection: Callable[..., Any],
    step_size: float | Tensor,
    *,
    projection_params: Sequence[int] = (),
) -> Step:
    r"""Projected gradient descent, :math:`U(x, c) = P_C(x - \alpha \nabla_x f(x, c))`.

    :math:`\Phi = \partial P_C\,(I - \alpha \nabla^2 f)` (eq. 34): a product of two symmetric
    matrices, itself not symmetric. ρ(Φ) < 1 for :math:`0 < \alpha < 2/\lambda_{\max}` where the
    Hessian is positive definite on the face that holds the solution. Rows of coordinates at a
    bound are zero, which :class:`~foldopt.Dense` exploits.

    Parameters
    ----------
    objective
        ``objective(x, *params)``, in PyTorch: one value for each sample, shape ``(*batch,)``.
    projection
        The projection on the feasible set, ``projection(y, *selected)``; see
        :mod:`foldopt.projections`.
    step_size
        α > 0, a number or a constant tensor that broadcasts against x. Within a sample it may vary
        only if the projection treats each coordinate on its own, as that on a box does: else the
        fixed point is not the solution.
    projection_params
        Which of the params, by position, the projection takes after y. None by default.

    Returns
    -------
    Step
        ``step(x, *params)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, ``step_size`` is not above zero, a position in
        ``projection_params`` does not exist, or the objective's shape does not fit x.

    References
    ----------
    arXiv 2301.12047, eq. 4 and 34.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> step = fo.steps.projected_gradient(
    ...     lambda x, c: 0.5 * ((x - c) ** 2).sum(-1), fo.projections.simplex, step_size=1.0)
    >>> c = torch.tensor([[0.5, 0.7, -1.0]], requires_grad=True)
    >>> x = fo.fold(step, torch.tensor([[0.4, 0.6, 0.0]]), c)
    >>> x[0, 0].backward()
    >>> c.grad
    tensor([[ 0.5000, -0.5000,  0.0000]])
    """
    check_functions(objective=objective, projection=projection)
    positive_step_size(step_size)
    chosen = positions_of("projection_params", projection_params)

    def update(x: Any, *params: Any) -> Any:
        y = descend(x, objective_gradient(objective, x, params), step_size)
        return projection(y, *select(params, chosen, "projection_params"))

    return Step(update, name="projected_gradient")


def proximal_gradient(
    objective: Callable[..., Tensor],
    prox: Callable[..., Any],
    step_size: float,
    *,
    prox_params: Sequence[int] = (),
) -> Step:
    r"""Proximal gradient descent on f + g.

    :math:`U(x, c) = \operatorname{prox}_{\alpha g}(x - \alpha \nabla_x f(x, c))`, with
    :math:`\Phi = \partial\operatorname{prox}_{\alpha g}\,(I - \alpha \nabla^2 f)`,
    a product of two symmetric matrices; ρ(Φ) < 1 as for :func:`projected_gradient`.

    Parameters
    ----------
    objective
        The smooth part f: ``objective(x, *params)``, one value for each sample, ``(*batch,)``.
    prox
        ``prox(y, step_size, *selected)``: the proximal operator of ``step_size`` times g; see
        :mod:`foldopt.prox`. For g = λ‖·‖₁ it is ``lambda y, a: prox.l1(y, a * lam)``.
    step_size
        α > 0.
    prox_params
        Which of the params, by position, the operator takes after the step size.

    Returns
    -------
    Step
        ``step(x, *params)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, ``step_size`` is not above zero, a position in
        ``prox_params`` does not exist, or the objective's shape does not fit x.

    References
    ----------
    arXiv 2301.12047, eq. 6 and 7.

    Examples
    --------
    The lasso with one feature, differentiated in its weight λ:

    >>> import torch, foldopt as fo
    >>> step = fo.steps.proximal_gradient(
    ...     lambda x, c, lam: 0.5 * ((x - c) ** 2).sum(-1),
    ...     lambda y, a, lam: fo.prox.l1(y, a * lam), step_size=0.5, prox_params=(1,))
    >>> c, lam = torch.tensor([[3.0]]), torch.tensor(1.0, requires_grad=True)
    >>> x = fo.fold(step, torch.tensor([[2.0]]), c, lam)
    >>> x.sum().backward()
    >>> lam.grad
    tensor(-1.)
    """
    check_functions(objective=objective, prox=prox)
    positive_step_size(step_size)
    chosen = positions_of("prox_params", prox_params)

    def update(x: Any, *params: Any) -> Any:
        y = descend(x, objective_gradient(objective, x, params), step_size)
        return prox(y, step_size, *select(params, chosen, "prox_params"))

    return Step(update, name="proximal_gradient")
