r"""Euclidean projections with closed-form derivatives: argmin_x ‖x − y‖ over a convex set.

Where the projection is piecewise linear, the piece is found first (its active set, under
``detach``), and the projection is then written *on that piece*. Autograd's derivative of that
expression is the closed form: no sort is differentiated, and every ``torch.func`` transform works.
On the curved sets the same holds with a formula for the derivative: no eigenvector and no iteration
is differentiated either. At a point between two pieces, the derivative is that of one of them: an
element of the generalized Jacobian.

An argument that is not of its kind, dtype or shape raises a ``TypeError`` or ``ValueError``. NaN
in, NaN out. An empty set has no projection: an error if that follows from numbers, and NaN if from
tensors, whose values are not looked at (that would make the host wait for the device; only the
loop in :func:`exponential_cone` ends by the values); a fold reports such a sample as ``NONFINITE``.
"""

from __future__ import annotations

from foldopt.projections._balls import ball, l1_ball, linf_ball
from foldopt.projections._cones import exponential_cone, second_order_cone
from foldopt.projections._polyhedral import affine, box, half_space, nonnegative
from foldopt.projections._power import power_cone
from foldopt.projections._semidefinite import positive_semidefinite
from foldopt.projections._simplex import capped_simplex, simplex
from foldopt.projections._sorting import isotonic, permutahedron

__all__ = [
    "affine",
    "ball",
    "box",
    "capped_simplex",
    "exponential_cone",
    "half_space",
    "isotonic",
    "l1_ball",
    "linf_ball",
    "nonnegative",
    "permutahedron",
    "positive_semidefinite",
    "power_cone",
    "second_order_cone",
    "simplex",
]
