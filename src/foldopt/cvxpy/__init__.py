"""CVXPY problems as layers: :class:`CvxpyLayer`, with the arguments of cvxpylayers."""

from __future__ import annotations

try:
    from cvxpy.constraints import SvecPSD as _  # noqa: F401  (what 1.9 has and 1.8 has not)
except ImportError as error:
    raise ImportError(
        f"foldopt.cvxpy needs the package cvxpy, 1.9 or newer ({error}): "
        'pip install "fold-opt[cvxpy]", on Python 3.11 or newer'
    ) from error

from foldopt.cvxpy.layer import CvxpyLayer, CvxpySolution, SolverError

__all__ = ["CvxpyLayer", "CvxpySolution", "SolverError"]
