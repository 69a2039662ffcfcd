"""Problems of Hock and Schittkowski, each with params added.

W. Hock, K. Schittkowski, Test Examples for Nonlinear Programming Codes (Springer, 1981): numbers,
starts (but for a few that lead to another local optimum) and optima are theirs, with g(x) ≥ 0
turned round. The params p stand in the objective, the constraints or the bounds; at ``params`` the
problem is the published one.
"""

from __future__ import annotations

from tests.hock_schittkowski_from_38 import FROM_38
from tests.hock_schittkowski_problem import Problem, square
from tests.hock_schittkowski_to_37 import TO_37

__all__ = ["DEGENERATE", "PROBLEMS", "Problem"]

PROBLEMS: dict[str, Problem] = TO_37 | FROM_38

# Optima without a derivative, and the words that say why.
DEGENERATE: dict[str, tuple[Problem, str]] = {
    "26": (  # a fourth power: no curvature along the constraint
        Problem(
            (-2.6, 2, 2), (3, 1), (1, 1, 1), 0.0,
            lambda x, p: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
            None, lambda x, p: [(p[1] + x[1] ** 2) * x[0] + x[2] ** 4 - p[0]],
        ),
        "curvature",
    ),
    "30": (  # x₁ ≥ 1 and x₁² + x₂² ≥ 1 have one gradient
        Problem(
            (1, 1, 1), (1, 1), (1, 0, 0), 1.0,
            lambda x, p: square(x), lambda x, p: [p[1] - x[0] ** 2 - x[1] ** 2],
            lower=lambda p: (p[0], -10.0, -10.0), upper=10.0,
        ),
        "LICQ",
    ),
}  # fmt: skip
