"""CVXPY problems as layers: :class:`CvxpyLayer`, with the arguments of cvxpylayers."""

from __future__ import annotations

try:
    import cvxpy as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "foldopt.cvxpy needs the package cvxpy, which is not installed: "
        'pip install "fold-opt[cvxpy]"'
    ) from error

from foldopt.cvxpy.layer import CvxpyLayer, CvxpySolution, SolverError

__all__ = ["CvxpyLayer", "CvxpySolution", "SolverError"]
