"""Lagrange multipliers, in the signs of this library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from foldopt.operators import PrimalDual
from foldopt.status import Solution

__all__ = ["Multipliers", "with_multipliers"]


class Multipliers(NamedTuple):
    r"""The multipliers of a program, in the signs that this library has everywhere.

    With them :math:`\nabla f(x) + G^\top \lambda + A^\top \nu + \mu = 0` for constraints
    :math:`g(x) \le 0`, :math:`h(x) = 0` and :math:`l \le x \le u`, G and A their Jacobians.

    Attributes
    ----------
    inequality
        λ ≥ 0, one for each inequality, ``(*batch, m)``.
    equality
        ν, one for each equality, ``(*batch, k)``.
    bounds
        μ, one for each variable, ``(*batch, n)``: above 0 where the upper bound holds x back,
        below 0 where the lower one does.
    """

    inequality: Any
    equality: Any
    bounds: Any


def with_multipliers(
    solver: Callable[..., Solution], *, bounds: bool = False
) -> Callable[..., Solution]:
    """Make a solver's x the triple (x, λ, ν), as steps on all three want it.

    Parameters
    ----------
    solver
        A solver whose solutions have :class:`Multipliers`.
    bounds
        Whether the step has the bounds among its inequalities, as x − u ≤ 0 and l − x ≤ 0 behind
        all others: their multipliers then stand there too.

    Returns
    -------
    solver
        The same, with a :class:`~foldopt.operators.PrimalDual` as x.

    Raises
    ------
    TypeError
        When called, if the solution has no such multipliers.
    ValueError
        When called, if a bound holds x back and ``bounds`` is False.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> solve = fo.solvers.with_multipliers(fo.solvers.QP(), bounds=True)
    >>> Q, p = torch.eye(1).double(), torch.tensor([[1.0], [-2.0]]).double()
    >>> point = solve(Q, p, lower=0.0).x
    >>> point.x.tolist(), point.inequality.abs().tolist()
    ([[0.0], [2.0]], [[0.0, 1.0], [0.0, 0.0]])
    """

    def solve(*params: Any, **options: Any) -> Solution:
        found = solver(*params, **options)
        if not isinstance(found, Solution) or not isinstance(found.multipliers, Multipliers):
            raise TypeError(
                "with_multipliers: the solver must return a Solution with Multipliers, as "
                f"solvers.QP and solvers.Ipopt do, and returned {type(found).__name__}"
            )
        inequality, equality, of_bounds = found.multipliers
        if bounds:
            both = of_bounds.clamp_min(0), (-of_bounds).clamp_min(0)
            inequality = torch.cat([inequality, *both], -1)
        elif bool((of_bounds.nan_to_num() != 0).any()):
            raise ValueError(
                "with_multipliers: bounds hold x back, and a step on (inequality, equality) knows "
                "nothing of them. Pass bounds=True, and have the step's inequality end with "
                "[x - upper, lower - x]"
            )
        return found._replace(x=PrimalDual(found.x, inequality, equality))

    return solve
