"""The sparse KKT matrix of some active rows, factored once for every right-hand side.

    K = [Q  Wᵀ]      is solved by way of      K + δ J,   J = [I     ]
        [W  0 ]                                              [    −I],

which is quasi-definite where Q is positive semidefinite, so that it has a diagonal factorization in
whatever order fills in least (R. J. Vanderbei, SIAM J. Optimization 5 (1995)). The error of δ is
taken out by refinement against K, see :mod:`~foldopt.nn._qp.sparse.refine`.

Where rows depend on one another, of all multipliers those of least norm are meant. With the squared
lengths of the rows inverted in D, since W holds rows of length one, they are

    min ½ yᵀDy  s.t.  Wᵀy = t,    that is    [D   W] [y]   [0]
                                             [Wᵀ  0] [z] = [t],

a system of the same kind, factored only where it is needed.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from foldopt.nn._qp.sparse.refine import Refined, Shifted, pivoted
from foldopt.solvers import _scipy

__all__ = ["System"]

# A right-hand side of size 1 that gives multipliers of this size: rows depend on one another.
_DEPENDENT = 1e4


@dataclasses.dataclass(frozen=True)
class System:
    """The KKT matrix of one sample, in units where it has size 1.

    Attributes
    ----------
    Q, W
        The Hessian, ``(n, n)``, and the active rows, ``(r, n)``.
    active
        Which of all rows they are, ``(r,)``.
    length
        By what they were divided, ``(r,)``.
    """

    Q: Any
    W: Any
    active: np.ndarray
    length: np.ndarray

    def solve(self, right: np.ndarray, start: np.ndarray | None = None) -> Refined:
        """v with K v = b; of what no v can give, nothing is in v and all of it in the residual.

        Parameters
        ----------
        right
            b, ``(N,)`` or ``(N, right-hand sides)``.
        start
            Where to begin: x is the solution nearest to it where there are many.
        """
        found = self._shifted.solve(right, start)
        if not found.solved.all() and self._pivoted is not None:
            found = self._pivoted.solve(right, start)
        if not found.solved.all():
            # K is symmetric, so that what is left stands at right angles to all that K can give.
            # Its share of v grows as 1/δ in each pass: solve once more, without it.
            left = found.residual * ~found.solved
            again = self._shifted.solve(right - left, start)
            found = Refined(again.value, left + again.residual, found.solved)
        return self._with_least_multipliers(found) if self._dependent else found

    @functools.cached_property
    def _shifted(self) -> Shifted:
        return Shifted.of(_saddle(self.Q, self.W), self.Q.shape[0])

    @functools.cached_property
    def _pivoted(self) -> Shifted | None:
        return pivoted(self._shifted)

    @functools.cached_property
    def _dependent(self) -> bool:
        """Whether rows depend on one another, or nearly so.

        The part of a right-hand side that no multipliers give comes back divided by δ; that of a
        generic one has the size of its entries.
        """
        n, r = self.Q.shape[0], self.W.shape[0]
        generic = np.random.default_rng(0).standard_normal(r)
        mu = self._shifted.once(np.concatenate([np.zeros(n), generic]))[n:]
        return bool(np.abs(mu).max(initial=0.0) > _DEPENDENT)

    @functools.cached_property
    def _least(self) -> Shifted:
        weight = (self.length.max() / self.length) ** 2
        return Shifted.of(_saddle(_scipy.sparse.diags(weight), self.W.T), len(weight))

    def _with_least_multipliers(self, found: Refined) -> Refined:
        n = self.Q.shape[0]
        pull = self.W.T @ found.value[n:]
        y = self._least.solve(np.concatenate([0 * found.value[n:], pull])).value
        value = np.concatenate([found.value[:n], y[: len(self.active)]])
        return dataclasses.replace(found, value=value)


def _saddle(corner: Any, side: Any) -> Any:
    """[[corner, sideᵀ], [side, 0]], CSC; SciPy only stacks parts that have the right format."""
    sparse, (r, n) = _scipy.sparse, side.shape
    left = sparse.vstack([corner.tocsr(), side.tocsr()], format="csr").tocsc()
    turned = side.T.tocsc()
    right = sparse.csc_array((turned.data, turned.indices, turned.indptr), shape=(n + r, r))
    return sparse.hstack([sparse.csc_array(left), right], format="csc")
