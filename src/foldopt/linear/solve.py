"""One door to every linear solver: ours, or a user's plain function."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from foldopt.linear._common import (
    LinearOperator,
    LinearSolution,
    LinearSolver,
    finish,
    target,
)
from foldopt.status import Status

CustomSolver = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def solve(
    adjoint: LinearSolver | CustomSolver, operator: LinearOperator, b: Tensor
) -> LinearSolution:
    """Solve A v = b with one of our solvers or with any callable ``(matvec, b) -> v``.

    Parameters
    ----------
    adjoint
        An object with ``solve(operator, b)``, or a function of ``matvec`` (v ↦ A v) and b.
    operator
        A = I − Φᵀ or I − Φ.
    b
        The right-hand sides, shape ``(*lead, B, n)``.

    Returns
    -------
    LinearSolution
        v and, for each right-hand side, how it went.

    Examples
    --------
    >>> import torch
    >>> from foldopt.jacobian import StepJacobian
    >>> from foldopt.linear import GMRES, LinearOperator, solve
    >>> at = StepJacobian(lambda x, _: (0.25 * x[0],), (torch.zeros(1, 2),), (), 1, ())
    >>> solve(GMRES(), LinearOperator(at), torch.tensor([[3.0, 6.0]])).value
    tensor([[4., 8.]])
    """
    if b.numel() == 0:
        count = torch.zeros(b.shape[:-1], dtype=torch.int64, device=b.device)
        return LinearSolution(b.clone(), count, count, b.new_zeros(b.shape[:-1]), "nothing", True)
    method = getattr(adjoint, "solve", None)
    if method is not None:
        return method(operator, b)
    assert callable(adjoint)  # fold() has looked
    return _custom(adjoint, operator, b)


def _custom(function: CustomSolver, operator: LinearOperator, b: Tensor) -> LinearSolution:
    """Solve with a user's ``function(matvec, b) -> v`` and judge what it returns."""
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, functools.partial):
        name = getattr(function.func, "__name__", name)
    v = function(operator, b)
    if not isinstance(v, Tensor) or v.shape != b.shape or v.dtype != b.dtype:
        seen = f"{tuple(v.shape)} {v.dtype}" if isinstance(v, Tensor) else type(v).__name__
        raise TypeError(
            f"adjoint: {name}(matvec, b) must return a tensor like b, {tuple(b.shape)} {b.dtype}, "
            f"and returned {seen}"
        )
    # An unknown method has an unknown aim: half the digits of the dtype count as solved.
    tolerance = target(b, torch.finfo(b.dtype).eps ** 0.5, 0.0)
    return finish(b, v, b - operator(v), tolerance, 0, Status.MAX_ITERATIONS, name)
