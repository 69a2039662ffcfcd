"""f-SQP: sequential quadratic programming, folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from foldopt._program import Constraint, Function
from foldopt.nn._optimizer import (
    DEFAULT,
    FoldedOptimizer,
    Options,
    Solver,
    check_options,
    like,
    point_of,
    start_of,
)
from foldopt.operators import Method, PrimalDual
from foldopt.operators.quadratic_program import Solver as InnerSolver
from foldopt.steps import multipliers, sqp

__all__ = ["f_sqp"]


def f_sqp(
    objective: Function,
    inequality: Constraint | None = None,
    equality: Constraint | None = None,
    *,
    solver: Solver | None = None,
    step_size: float = 1.0,
    method: Method = "active_set",
    inner_solver: InnerSolver | None = None,
    shared: Sequence[int] = (),
    options: Options = DEFAULT,
) -> FoldedOptimizer:
    r"""Fold sequential quadratic programming, for any smooth program, convex or not.

    :math:`\min f(x)` s.t. :math:`g(x) \le 0,\ h(x) = 0`, with the step of
    :func:`~foldopt.steps.sqp`: Φ = 0 for α = 1, and the adjoint is one product.

    Parameters
    ----------
    objective
        ``objective(x, *params)`` of *one* sample, x of shape ``(n,)``, in PyTorch: one number.
    inequality, equality
        g and h, of one sample: a vector, or a list of tensors to join. None: there are none.
    solver
        ``solver(*params)`` gives x, or x with multipliers (a
        :class:`~foldopt.operators.PrimalDual` or a tuple of three); they are found by least squares
        where it does not. None: the step is iterated from ``x0``, which converges from nearby.
    step_size
        α, 0 < α ≤ 1.
    method
        How the inner program is differentiated, see :func:`~foldopt.operators.quadratic_program`.
    inner_solver, shared, options
        As for :func:`f_pgd_a`.

    Returns
    -------
    FoldedOptimizer
        ``layer(*params) -> x``, as for :func:`f_pgd_a`.

    Raises
    ------
    TypeError, ValueError, FoldError
        As for :func:`f_pgd_a`; no constraint need be affine.

    References
    ----------
    arXiv 2301.12047, Section 5 (f-SQP), eq. 31 and 32.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> def farthest_right(radius):  # any solver
    ...     return torch.cat([radius, torch.zeros_like(radius)], -1)
    >>> layer = fo.nn.f_sqp(lambda x, r: -x[0], lambda x, r: x @ x - r**2, solver=farthest_right)
    >>> r = torch.tensor([[2.0]], requires_grad=True)
    >>> layer(r)[0, 0].backward()
    >>> r.grad
    tensor([[1.]])
    """
    check_options("f_sqp", options)
    step = sqp(
        objective, inequality, equality, step_size,
        method=method, solver=inner_solver, shared=shared,
        certify=options.certify, on_failure=options.on_failure,
    )  # fmt: skip
    find = multipliers(objective, inequality, equality, shared=shared)

    def to_state(found: Any, *params: Any) -> PrimalDual:
        if isinstance(found, (tuple, list)) and len(found) == 3:
            return PrimalDual(*(start_of("f_sqp", part, params) for part in found))
        x = point_of("f_sqp", found, params) if solver is None else like(found, params)
        if x.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(
                f"f_sqp: x is {x.dtype} of shape {tuple(x.shape)}. Its multipliers need float32 or "
                "float64, and nothing is cast unasked: pass x and the params as .float()"
            )
        return find(x, *params)

    return FoldedOptimizer(step, to_state, solver, options, "f_sqp")
