"""What several layers say of a sample."""

from __future__ import annotations

__all__ = ["NOT_CONVEX", "WEAK"]

WEAK = "a constraint is only just active: the derivative is one element of the generalized Jacobian"
NOT_CONVEX = "Q is not positive semidefinite: the program is not convex"
