"""Semidefinite matrices that are themselves variables: where their entries stand.

CVXPY gives such a matrix one row of A for each entry of its lower triangle, with one number in it.
A square ‖X − C‖² in the objective becomes ‖t‖² with rows t = X − C, which can be put back.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from foldopt.cvxpy._canonical import Canonical
from foldopt.cvxpy._quadratic import defined, places

__all__ = ["ORDER", "Entries", "Layout", "layout"]

# From this order of a semidefinite matrix on, products are cheaper than factors.
ORDER = 16


class Entries(NamedTuple):
    """Which entries of a matrix belong to a block, and where in that they stand."""

    index: np.ndarray
    row: np.ndarray
    column: np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which columns and rows play which part, and which of the entries of P and A are which.

    Attributes
    ----------
    matrix_rows, matrix_columns, matrix_entries
        The rows of the semidefinite cones, and for each its column and its entry of A.
    defined, defined_rows, defined_entries
        The columns t, for each its row of A, in which it stands with x, and its entry there.
    columns, rows
        All other columns and rows.
    square_entries, square_rows, square_to
        The entries of A in the rows of t that are in a column of a matrix: of the entry, the place
        of its row among those of t, and of its column among those of the matrices.
    P_matrix, P_matrix_to, P_defined, P_defined_to
        The entries on the diagonal of P, and their places among those columns.
    joined, outside, P_outside
        Those of the other rows in the columns of the matrices and in the other columns, and those
        of P in the other columns.
    """

    matrix_rows: np.ndarray
    matrix_columns: np.ndarray
    matrix_entries: np.ndarray
    defined: np.ndarray
    defined_rows: np.ndarray
    defined_entries: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    square_entries: np.ndarray
    square_rows: np.ndarray
    square_to: np.ndarray
    P_matrix: np.ndarray
    P_matrix_to: np.ndarray
    P_defined: np.ndarray
    P_defined_to: np.ndarray
    joined: Entries
    outside: Entries
    P_outside: Entries


def layout(form: Canonical) -> Layout | None:
    """The layout of a family of programs; None: not all of its matrices are such variables.

    Nor is it of use where all are small: their rows are as few as those of any other cone.
    """
    n, m = len(form.q.constant), len(form.b.constant)
    groups = [group.rows for group in form.cones.groups if group.kind == "semidefinite"]
    if max(form.cones.semidefinite, default=0) < ORDER:
        return None
    A_row, A_column = places(form.A_at)
    P_row, P_column = places(form.P_at)
    rows = np.sort(np.concatenate([part.ravel() for part in groups]))
    place = _places_of(rows, m)
    entries = np.flatnonzero(place[A_row] >= 0)
    entries = entries[np.argsort(place[A_row[entries]], kind="stable")]
    columns = A_column[entries]
    if not np.array_equal(A_row[entries], rows) or len(np.unique(columns)) < len(columns):
        return None
    t, t_rows, _ = defined(form, A_row, A_column, P_row, P_column)
    of_matrix, of_t, of_t_row = _places_of(columns, n), _places_of(t, n), _places_of(t_rows, m)
    # Squares of sums of entries, or of entries and other variables, stay as they are.
    inside = np.flatnonzero((of_t_row[A_row] >= 0) & (of_t[A_column] < 0))
    alone = np.bincount(of_t_row[A_row[inside]], minlength=len(t)) == 1
    squares = inside[of_matrix[A_column[inside]] >= 0]
    alone[np.setdiff1d(of_t_row[A_row[inside]], of_t_row[A_row[squares]])] = False
    t, t_rows = t[alone], t_rows[alone]
    of_t, of_t_row = _places_of(t, n), _places_of(t_rows, m)
    squares = squares[of_t_row[A_row[squares]] >= 0]
    t_entries = np.flatnonzero(of_t[A_column] >= 0)
    t_entries = t_entries[np.argsort(of_t[A_column[t_entries]], kind="stable")]
    off = P_row != P_column
    if (of_matrix[P_row[off]] >= 0).any() or (of_matrix[P_column[off]] >= 0).any():
        return None
    of_P = [np.flatnonzero(~off & (of[P_row] >= 0)) for of in (of_matrix, of_t)]
    others = np.flatnonzero((of_matrix < 0) & (of_t < 0))
    other_rows = np.flatnonzero((place < 0) & (of_t_row < 0))
    of_other, of_other_row = _places_of(others, n), _places_of(other_rows, m)
    blocks = [
        _entries(of_other_row[A_row], of_matrix[A_column]),
        _entries(of_other_row[A_row], of_other[A_column]),
        _entries(of_other[P_row], of_other[P_column]),
    ]
    return Layout(
        rows, columns, entries, t, t_rows, t_entries, others, other_rows,
        squares, of_t_row[A_row[squares]], of_matrix[A_column[squares]],
        of_P[0], of_matrix[P_row[of_P[0]]], of_P[1], of_t[P_row[of_P[1]]], *blocks,
    )  # fmt: skip


def _entries(row: np.ndarray, column: np.ndarray) -> Entries:
    """Those entries that have a place; −1: it has none."""
    index = np.flatnonzero((row >= 0) & (column >= 0))
    return Entries(index, row[index], column[index])


def _places_of(chosen: np.ndarray, count: int) -> np.ndarray:
    """For each index its place among the chosen ones; −1: it is not chosen."""
    found = np.full(count, -1)
    found[chosen] = np.arange(len(chosen))
    return found
