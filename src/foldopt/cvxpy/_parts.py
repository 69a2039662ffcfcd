"""A program whose semidefinite matrices are variables, taken apart once for all of its systems."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from foldopt.cvxpy._layout import Layout
from foldopt.solvers import _scipy

__all__ = ["LARGEST", "Parts", "parts"]

# What is left of the system should be smaller than this.
LARGEST = 1500
# How much the curvature of one matrix may vary, which refinement takes out again.
_ALIKE = 1e-10


@dataclasses.dataclass(frozen=True)
class Parts:
    """The numbers of :class:`~foldopt.cvxpy._layout.Layout`.

    Attributes
    ----------
    d
        The entries of A in the rows of the matrices.
    pi
        For the same rows: the curvature of the objective over d².
    a, bend
        For each defined variable its coefficient, and its own curvature.
    squares
        The entries of A that join these and the matrices.
    P, A
        Of the other variables, dense; and of the other rows, sparse, for the other variables.
    C
        The other rows for the matrices, over d, in coordinates.
    """

    layout: Layout
    d: np.ndarray
    pi: np.ndarray
    a: np.ndarray
    bend: np.ndarray
    squares: np.ndarray
    P: np.ndarray
    A: Any
    C: Any


def parts(P: Any, A: Any, layout: Layout | None, orders: tuple[int, ...]) -> Parts | None:
    """The parts of a program, CSC; None: its objective bends a matrix in more than one way."""
    if layout is None or len(layout.columns) > LARGEST:
        return None
    d, a = A.data[layout.matrix_entries], A.data[layout.defined_entries]
    if not (d.all() and a.all()):
        return None
    squares, count = A.data[layout.square_entries], len(d)
    bend = np.bincount(layout.P_defined_to, P.data[layout.P_defined], len(a))
    pi = np.bincount(layout.P_matrix_to, P.data[layout.P_matrix], count)
    own = squares**2 * (bend / a**2)[layout.square_rows]
    pi = (pi + np.bincount(layout.square_to, own, count)) / d**2
    start = 0
    for k in orders:
        of_one = pi[start : start + k * (k + 1) // 2]
        if np.ptp(of_one) > _ALIKE * of_one.max():
            return None
        of_one[:] = of_one.mean()
        start += len(of_one)
    width, height = len(layout.columns), len(layout.rows)
    P_outside = np.zeros((width, width))
    P_outside[layout.P_outside.row, layout.P_outside.column] = P.data[layout.P_outside.index]
    outside, joined = (
        _scipy.sparse.coo_matrix((A.data[at.index], (at.row, at.column)), shape=(height, size))
        for at, size in ((layout.outside, width), (layout.joined, count))
    )
    joined.data = joined.data / d[joined.col]
    return Parts(layout, d, pi, a, bend, squares, P_outside, outside.tocsr(), joined)
