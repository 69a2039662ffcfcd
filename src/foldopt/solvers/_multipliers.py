"""Lagrange multipliers, in the signs of this library."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Multipliers"]


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
