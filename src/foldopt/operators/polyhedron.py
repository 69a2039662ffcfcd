"""The projection on a polyhedron: an operator that is an optimization itself."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt._arguments import CERTIFY, OnFailure
from foldopt.certify import Certify
from foldopt.operators._kkt import PrimalDual
from foldopt.operators.quadratic_program import Method, Solver, quadratic_program

__all__ = ["polyhedron"]


def polyhedron(
    y: Tensor,
    G: Tensor | None = None,
    h: Tensor | None = None,
    A: Tensor | None = None,
    b: Tensor | None = None,
    *,
    method: Method = "active_set",
    start: Tensor | PrimalDual | None = None,
    solver: Solver | None = None,
    max_iterations: int = 10_000,
    certify: Certify = CERTIFY,
    on_failure: OnFailure = "raise",
) -> Tensor:
    r"""Project on a polyhedron :math:`\{x : G x \le h,\; A x = b\}`.

    :math:`x = \operatorname{argmin} \tfrac12\|x - y\|^2` over the set. With the active rows
    :math:`J` of G and A, its Jacobian is the projection :math:`I - J^+ J` on their null space.

    Parameters
    ----------
    y
        ``(*batch, n)``.
    G, h, A, b
        As for :func:`quadratic_program`; differentiable too.
    method, start, solver, max_iterations, certify, on_failure
        As for :func:`quadratic_program`.

    Returns
    -------
    Tensor
        x, of the shape and dtype of ``y``.

    Raises
    ------
    FoldError, TypeError, ValueError
        As for :func:`quadratic_program`; an empty set ends as not solved.

    References
    ----------
    arXiv 2301.12047, Section 5 and eq. 34.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> y = torch.tensor([[2.0, 1.5]], requires_grad=True)
    >>> x = fo.operators.polyhedron(y, G=torch.tensor([[1.0, 1.0]]), h=torch.tensor([1.0]))
    >>> x
    tensor([[0.7500, 0.2500]], grad_fn=...)
    >>> torch.autograd.grad(x[0, 0], y)
    (tensor([[ 0.5000, -0.5000]]),)
    """
    if not isinstance(y, Tensor) or not y.is_floating_point() or y.dim() == 0:
        raise TypeError("polyhedron: y must be a floating-point tensor of shape (*batch, n)")
    identity = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    return quadratic_program(
        identity, -y, G, h, A, b,
        method=method, start=start, solver=solver, max_iterations=max_iterations,
        certify=certify, on_failure=on_failure,
    ).x  # fmt: skip
