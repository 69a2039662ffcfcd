"""Gradient descent, plain, projected and proximal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from foldopt._functions import check_functions, positions_of
from foldopt._gradient import objective_gradient
from foldopt.step import Step
from foldopt.steps._step import select
from foldopt.steps._step_size import (
    StepSizeLike,
    chooser,
    descend_by,
    is_uniform,
    of_first_leaf,
)

__all__ = ["gradient", "projected_gradient", "proximal_gradient"]


def gradient(objective: Callable[..., Tensor], step_size: StepSizeLike) -> Step:
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
        α > 0: a number; a constant tensor that broadcasts against x; a function of the params,
        ``step_size(*params)``, that returns one of these; or ``"auto"``, the best α of each sample
        (see Notes).

    Returns
    -------
    Step
        ``step(x, *params)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, ``step_size`` is not above zero, or the objective's
        shape does not fit x.

    Notes
    -----
    With ``step_size="auto"``, :math:`\alpha = 2/(\mu_{\min} + \mu_{\max})` of the Hessian at the
    point where U is evaluated, from 12 products with it (Lanczos), a little on the safe side; where
    the Hessian is singular or indefinite, :math:`1/\max|\mu|`. The fixed point is the same for
    every α, so that α counts as a constant in every derivative, of any order, although it depends
    on x and the params; the same holds for a function of the params. Every evaluation of U pays
    for the products: a fold evaluates U once or twice, an iteration at every step.

    References
    ----------
    arXiv 2301.12047, eq. 4 without constraints.
    B. T. Polyak, Introduction to Optimization (1987), Section 1.4 (the optimal step size).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> step = fo.steps.gradient(lambda x, c: ((x - c) ** 2).sum(-1), step_size=0.1)
    >>> c = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> x = fo.fold(step, c.detach(), c)
    >>> x[0, 0].backward()
    >>> torch.round(c.grad, decimals=3)
    tensor([[1., 0.]])
    >>> step = fo.steps.gradient(lambda x, c: ((x - c) ** 2).sum(-1), step_size="auto")
    >>> step(torch.zeros(1, 2), c.detach()).detach()  # α = 1/2: there in one step
    tensor([[1.0000, 2.0000]])
    """
    check_functions(objective=objective)
    size = chooser(step_size, objective)

    def update(x: Any, *params: Any) -> Any:
        slope = objective_gradient(objective, x, params)
        return descend_by(x, slope, size(x, params))

    # Different step sizes within a sample scale the rows of the Hessian, and Φ is not symmetric.
    return Step(update, symmetric=is_uniform(step_size), name="gradient")


def projected_gradient(
    objective: Callable[..., Tensor],
    projection: Callable[..., Any],
    step_size: StepSizeLike,
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
        α > 0: a number; a constant tensor that broadcasts against x; a function of the params; or
        ``"auto"`` (see Notes). Within a sample it may vary only if the projection treats each
        coordinate on its own, as that on a box does: else the fixed point is not the solution.
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

    Notes
    -----
    ``"auto"`` is as for :func:`gradient`, for the Hessian H on the tangent space at the point. With
    :math:`\partial P_C = (I + \alpha G)^{-1}` there, where G is the curvature of the set, it is the
    α of the least ρ(Φ): :math:`2/(\mu_{\min} + \mu_{\max})` on polyhedra and balls. It takes 14
    products with H and about 50 with ∂P_C at every evaluation of U, and is exact up to n = 12.

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
    chosen = positions_of("projection_params", projection_params)

    def project(y: Any, _alpha: Any, params: tuple[Any, ...]) -> Any:
        return projection(y, *select(params, chosen, "projection_params"))

    size = chooser(step_size, objective, project)

    def update(x: Any, *params: Any) -> Any:
        slope = objective_gradient(objective, x, params)
        alpha = size(x, params)
        return project(descend_by(x, slope, alpha), alpha, params)

    return Step(update, name="projected_gradient")


def proximal_gradient(
    objective: Callable[..., Tensor],
    prox: Callable[..., Any],
    step_size: StepSizeLike,
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
        α > 0: a number, a function of the params, or ``"auto"``, as for
        :func:`projected_gradient`. Where α is one number for each sample, ``prox`` gets it as
        ``(*batch, 1)``.
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
    chosen = positions_of("prox_params", prox_params)

    def shrink(y: Any, alpha: Any, params: tuple[Any, ...]) -> Any:
        selected = select(params, chosen, "prox_params")
        try:
            return prox(y, alpha, *selected)
        except ValueError as error:
            if not isinstance(alpha, Tensor) or alpha.dim() == 0:
                raise
            raise ValueError(
                f"{error}. Here prox was given the step size of each sample, of shape "
                f"{tuple(alpha.shape)}: an operator with one weight for each sample takes "
                "alpha.squeeze(-1)"
            ) from error

    size = chooser(step_size, objective, shrink)

    def update(x: Any, *params: Any) -> Any:
        slope = objective_gradient(objective, x, params)
        alpha = size(x, params)
        return shrink(descend_by(x, slope, alpha), of_first_leaf(alpha), params)

    return Step(update, name="proximal_gradient")
