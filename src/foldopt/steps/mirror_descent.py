"""Mirror descent with the entropy: a gradient step that stays on the simplex by itself."""

from __future__ import annotations

import numbers
from collections.abc import Callable

import torch
from torch import Tensor

from foldopt._functions import check_functions
from foldopt._gradient import objective_gradient
from foldopt.step import Step
from foldopt.steps._step import positive_step_size

__all__ = ["mirror_descent"]


def mirror_descent(
    objective: Callable[..., Tensor], step_size: float | Tensor, *, total: float = 1.0
) -> Step:
    r"""Entropic mirror descent on the simplex :math:`\{x \ge 0,\ \sum_i x_i = s\}`.

    .. math:: U(x, c) = s\, \frac{x \circ e^{-\alpha \nabla f}}{\sum_i x_i e^{-\alpha \nabla_i f}}.

    At a solution with the support S, :math:`\Phi_{SS} = I - \tfrac1s x \mathbf 1^\top -
    \alpha\,(\operatorname{diag}(x) - \tfrac1s x x^\top)\, \nabla^2 f`: not symmetric, but in the
    metric of 1/x, where its eigenvalues are real. On the tangent space (Σ t = 0) it has
    ρ(Φ) < 1 for :math:`0 < \alpha < 2/\lambda_{\max}` with the largest eigenvalue of
    :math:`(\operatorname{diag}(x) - xx^\top/s)\nabla^2 f`, where the Hessian is positive definite
    there. A component at zero stays there; with :math:`\nabla_i f` above the multiplier of the sum
    its row has the diagonal entry :math:`e^{-\alpha(\nabla_i f - \nu)} < 1`.

    Parameters
    ----------
    objective
        ``objective(x, *params)``, in PyTorch: one value for each sample, shape ``(*batch,)``.
    step_size
        α > 0, a number or a constant tensor that broadcasts to ``(*batch, 1)``.
    total
        s > 0, the sum of x.

    Returns
    -------
    Step
        ``step(x, *params)``, x of shape ``(*batch, n)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, or a number is not above zero.

    Notes
    -----
    Every vertex, and the optimum of every face, is a fixed point too. A forward loop must start in
    the interior, and a solution that is to be folded must be one.

    References
    ----------
    A. Beck, M. Teboulle, Oper. Res. Lett. 31 (2003), 167–175.

    Examples
    --------
    Entropy-regularized choice, whose solution is the softmax of c:

    >>> import torch, foldopt as fo
    >>> step = fo.steps.mirror_descent(
    ...     lambda x, c: (x * x.log() - c * x).sum(-1), step_size=0.5)
    >>> c = torch.tensor([[0.0, 1.0]], requires_grad=True)
    >>> x = fo.fold(step, c.detach().softmax(-1), c)
    >>> x[0, 0].backward()
    >>> torch.round(c.grad, decimals=4)
    tensor([[ 0.1966, -0.1966]])
    """
    check_functions(objective=objective)
    positive_step_size(step_size)
    if not isinstance(total, numbers.Real) or not total > 0:
        raise ValueError(f"total must be a number above 0, got {total!r}")

    def update(x: Tensor, *params: object) -> Tensor:
        if not x.dim() or not x.shape[-1]:
            raise ValueError(
                f"steps.mirror_descent: x must have shape (*batch, n), n at least 1, got "
                f"{tuple(x.shape)}"
            )
        slope = step_size * objective_gradient(objective, x, params)
        # Only differences of the exponents count: the largest is brought to 0, held constant.
        shift = torch.where(x > 0, slope, torch.inf).detach().amin(-1, keepdim=True)
        grown = x * torch.exp(torch.where(x > 0, shift - slope, (shift - slope).clamp_max(0)))
        return total * grown / grown.sum(-1, keepdim=True)

    return Step(update, name="mirror_descent")
