r"""Proximal operators with closed-form derivatives: prox_g(y) = argmin_x g(x) + ½‖x − y‖².

Each is written so that autograd's derivative of the formula *is* the closed form, on any device,
batched, twice differentiable where the operator is, and under ``torch.func``. At a kink, the
derivative is that of one of the two sides: an element of the generalized Jacobian. The projections
in :mod:`foldopt.projections` are proximal operators too, those of a set's indicator.

An argument that is not of its kind, dtype or shape raises a ``TypeError`` or ``ValueError``. NaN
in, NaN out. A weight below zero is an error as a number; as a tensor, whose values are not looked
at (that would make the host wait for the device), it gives NaN. Only :func:`total_variation` and
the groups of :func:`group_l2` are looked at.
"""

from __future__ import annotations

from foldopt.prox._conjugate import conjugate
from foldopt.prox._norms import group_l2, l1, l2, linf, squared_l2
from foldopt.prox._nuclear import nuclear
from foldopt.prox._variation import total_variation

__all__ = [
    "conjugate",
    "group_l2",
    "l1",
    "l2",
    "linf",
    "nuclear",
    "squared_l2",
    "total_variation",
]
