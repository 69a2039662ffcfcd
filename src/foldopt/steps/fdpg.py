"""The dual proximal gradient method: for ½‖x − d‖² + g(Dx) with an operator D to be learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt import prox as operators
from foldopt._functions import check_functions
from foldopt.operators._inverse import matvec
from foldopt.step import Step

__all__ = ["fdpg"]


def _weighted_l1(y: Tensor, factor: Tensor, weight: Tensor | float) -> Tensor:
    return operators.l1(y, factor * weight)


def fdpg(prox: Callable[..., Tensor] | None = None) -> Step:
    r"""The (fast) dual proximal gradient step for :math:`\min_x \tfrac12\|x - d\|^2 + g(D x)`.

    With the dual variable w and :math:`u = d + D^\top w`, which is x at the fixed point,

    .. math:: U(w, c) = w - \tfrac1L D u + \tfrac1L \operatorname{prox}_{L g}(D u - L w),
              \qquad L = \|D\|_2^2.

    For g = λ‖·‖₁ (total variation, the default) this is projected gradient descent on the dual,
    :math:`U = \operatorname{clip}(w - D u / L, -\lambda, \lambda)`, with
    :math:`\Phi = \operatorname{diag}(F)(I - D D^\top / L)`, F the free components |w| < λ: not
    symmetric, but with the real eigenvalues 0 ≤ μ ≤ 1 of its free block. ρ(Φ) < 1 where the free
    rows of D are linearly independent; near 1 for long free runs, so that an iterative adjoint is
    slow there and a direct one is not.

    The momentum of FDPG speeds up a forward loop, has the same fixed point, and is left out of U.
    L is computed from D at each fold: 4, right for first differences, is too small for a D that
    has been learned.

    Parameters
    ----------
    prox
        ``prox(y, factor, *rest)``: the proximal operator of ``factor`` times g, with ``factor`` of
        shape ``()`` or ``(*batch, 1)``; ``rest`` are the params of the step after d and D. None:
        g = λ‖·‖₁, with rest = (weight,), the λ ≥ 0: a number or a tensor that broadcasts to w.

    Returns
    -------
    Step
        ``step(w, d, D, *rest)``: w of shape ``(*batch, m)``, d ``(*batch, n)``, D ``(m, n)`` or
        ``(*batch, m, n)``. ``step.solution(w, d, D, *rest)`` is x = d + Dᵀw.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, or D and d do not fit.

    References
    ----------
    arXiv 2301.12047, eq. 28; A. Beck, First-Order Methods in Optimization (2017), Section 12.4.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> step = fo.steps.fdpg()
    >>> D = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    >>> d = torch.tensor([[0.0, 4.0]])
    >>> w = fo.fixed_point(step, torch.zeros(1, 1), d, D, 1.0)
    >>> x = step.solution(w, d, D, 1.0)
    >>> x[0, 0].backward()
    >>> torch.round(D.grad, decimals=4) + 0  # x = d + Dᵀw with w = -1
    tensor([[-1.,  0.]])
    """
    if prox is not None:
        check_functions(prox=prox)
    operator = _weighted_l1 if prox is None else prox

    def precompute(*params: Any) -> tuple[Any, ...]:
        if len(params) < 2 or not all(isinstance(param, Tensor) for param in params[:2]):
            raise TypeError("steps.fdpg: the step takes d, D and what prox takes, step(w, d, D, …)")
        d, D, *rest = params
        if D.dtype != d.dtype or not d.is_floating_point():
            raise TypeError(
                f"steps.fdpg: d and D must be of one floating dtype, got {d.dtype} and {D.dtype}: "
                "nothing is cast unasked"
            )
        if d.layout != torch.strided or D.layout != torch.strided:
            raise TypeError("steps.fdpg: d and D must be dense: pass .to_dense()")
        fits = d.dim() > 0 and D.dim() > 1 and D.shape[-1] == d.shape[-1]
        if not fits or D.shape[:-2] not in ((), d.shape[:-1]):
            raise ValueError(
                f"steps.fdpg: D must have shape (m, n) or (*batch, m, n) beside d of shape "
                f"(*batch, n), got D {tuple(D.shape)} and d {tuple(d.shape)}"
            )
        # Every L > 0 has the same fixed points, so that L counts as a constant.
        # LAPACK refuses what is not finite; where D is not, neither is the update.
        safe = torch.where(torch.isfinite(D).all(), D, 0).detach()
        L = torch.linalg.matrix_norm(safe, 2).square()
        L = torch.where(L > 0, L, 1)
        return (d, D, L[..., None] if L.dim() else L, *rest)

    def update(w: Tensor, d: Tensor, D: Tensor, L: Tensor, *rest: Any) -> Tensor:
        Du = matvec(D, d + matvec(D.mT, w))
        return w - Du / L + operator(Du - L * w, L, *rest) / L

    def readout(w: Tensor, d: Tensor, D: Tensor, *_: Any) -> Tensor:
        return d + matvec(D.mT, w)

    return Step(update, precompute=precompute, readout=readout, name="fdpg")
