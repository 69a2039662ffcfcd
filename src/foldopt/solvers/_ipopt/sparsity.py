"""Where the derivatives of a program may be other than zero, and how to get at those cheaply.

Columns of a Jacobian that share no row can be added up and computed as one: the product with the
sum of their unit vectors holds every entry of each (A. R. Curtis, M. J. D. Powell, J. K. Reid, IMA
J. Appl. Math. 13 (1974), 117-119). A colouring says which columns go together.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

__all__ = ["Compressed", "Pattern", "compress", "full_pattern", "pattern_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Compressed:
    """Entries of a matrix, and products that hold all of them.

    Attributes
    ----------
    rows, columns
        Where the entries are.
    seeds
        ``(colours, n)``: the unit vectors of each colour, added up; None: it is not worth it.
    colours
        The colour of each column.
    """

    rows: np.ndarray
    columns: np.ndarray
    seeds: Tensor | None
    colours: np.ndarray

    def pick(self, products: Tensor) -> np.ndarray:
        """The entries, from M Sᵀ as ``(colours, rows)``, or from M itself without a colouring."""
        found = products.numpy()
        if self.seeds is None:
            return found[self.rows, self.columns]
        return found[self.colours[self.columns], self.rows]


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """The entries of the constraints' Jacobian, and those of the Hessian's lower triangle.

    Attributes
    ----------
    jacobian
        By columns: products with the Jacobian. ``by_rows`` takes its transpose instead.
    hessian
        Products with a symmetric matrix, which serve either way.
    by_rows
        Whether ``jacobian`` holds the transpose.
    """

    jacobian: Compressed
    hessian: Compressed
    by_rows: bool = False

    @property
    def jacobian_entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Constraint and variable of each entry of the Jacobian."""
        first, second = self.jacobian.rows, self.jacobian.columns
        return (second, first) if self.by_rows else (first, second)


def full_pattern(m: int, n: int) -> Pattern:
    """Every entry, of m constraints in n variables."""
    none = np.zeros(0, dtype=np.int64)
    rows, columns = np.divmod(np.arange(m * n), max(n, 1))
    return Pattern(
        Compressed(rows, columns, None, none), Compressed(*np.tril_indices(n), None, none)
    )


def pattern_of(jacobian: np.ndarray, hessian: np.ndarray) -> Pattern:
    """From boolean matrices ``(m, n)`` and ``(n, n)``, the latter symmetric."""
    by_columns, by_rows = compress(jacobian), compress(jacobian.T)
    transposed = _price(by_rows, jacobian.shape[0]) < _price(by_columns, jacobian.shape[1])
    return Pattern(
        by_rows if transposed else by_columns, compress(hessian, lower=True), by_rows=transposed
    )


def compress(nonzero: np.ndarray, lower: bool = False) -> Compressed:
    """A colouring of the columns of a boolean matrix; ``lower``: entries of that triangle only.

    Greedy, the fullest columns first: a heuristic, not the least number of colours.
    """
    n = nonzero.shape[1]
    rows, columns = np.nonzero(np.tril(nonzero) if lower else nonzero)
    colours = np.zeros(n, dtype=np.int64)
    taken: list[np.ndarray] = []  # the rows that each colour has
    for column in np.argsort(-nonzero.sum(0), kind="stable"):
        mine = nonzero[:, column]
        colour = next((i for i, used in enumerate(taken) if not (used & mine).any()), len(taken))
        if colour == len(taken):
            taken.append(np.zeros(len(nonzero), dtype=bool))
        taken[colour] |= mine
        colours[column] = colour
    if 2 * len(taken) > n:  # hardly fewer products than columns
        return Compressed(rows, columns, None, colours)
    seeds = torch.zeros(len(taken), n, dtype=torch.float64)
    seeds[torch.from_numpy(colours), torch.arange(n)] = 1
    return Compressed(rows, columns, seeds, colours)


def _price(found: Compressed, columns: int) -> int:
    """How many products."""
    return columns if found.seeds is None else len(found.seeds)
