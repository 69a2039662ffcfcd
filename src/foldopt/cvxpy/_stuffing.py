"""CVXPY's last reduction but one, without a dense matrix of variables times parameters.

CVXPY (1.9) reads the coefficients of a quadratic objective from an array with a row for each
variable and a column for each parameter entry of the whole problem: 75 GB for a signal of 10⁵
entries. But the linear terms of a sum need no such array, and the quadratic ones only the columns
of their own parameters, of which there are few.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from cvxpy.atoms.affine.add_expr import AddExpression
from cvxpy.atoms.affine.unary_operators import NegExpression
from cvxpy.reductions.dcp2cone.cone_matrix_stuffing import ConeMatrixStuffing

from foldopt.solvers import _scipy

__all__ = ["Stuffing", "cone_program"]


class Stuffing(ConeMatrixStuffing):
    """CVXPY's reduction with another way to read the objective."""

    def stuffed_objective(self, problem: Any, extractor: Any) -> tuple[Any, Any, Any]:
        """P and q as matrices on the parameter vector, and the variable."""
        if not self.quad_obj:
            return super().stuffed_objective(problem, extractor)
        terms = _terms(problem.objective.expr)
        linear = [term for term in terms if term.is_affine()]
        curved = [term for term in terms if not term.is_affine()]
        if not linear or not curved:
            return self._narrow(problem, extractor, problem.objective.expr)
        P, q, x = self._narrow(problem, extractor, _total(curved))
        return P, q + extractor.affine(_total(linear)), x

    def _narrow(self, problem: Any, extractor: Any, expression: Any) -> tuple[Any, Any, Any]:
        """The same for one expression, with the columns of its own parameters alone."""
        ids = {parameter.id for parameter in expression.parameters()}
        wide = extractor.param_id_map
        narrow = copy.copy(extractor)
        kept = sorted((one for one in wide if one in ids), key=wide.__getitem__)
        sizes = [extractor.param_to_size[one] for one in kept]
        starts = [sum(sizes[:i]) for i in range(len(kept) + 1)]
        constant = next(one for one in wide if one not in extractor.param_shapes)
        narrow.param_id_map = dict(zip(kept, starts, strict=False)) | {constant: starts[-1]}
        narrow.param_to_size = dict(zip(kept, sizes, strict=True)) | {
            constant: extractor.param_to_size[constant]
        }
        other = copy.copy(problem)
        other._objective = type(problem.objective)(expression)
        P, q, x = super().stuffed_objective(other, narrow)
        columns = [
            wide[one] + i for one, size in zip(kept, sizes, strict=True) for i in range(size)
        ]
        columns.append(wide[constant])
        places = np.array(columns), wide[constant] + 1
        return _spread(P, *places), _spread(q, *places), x


def cone_program(problem: Any, solver: str, backend: str | None) -> tuple[Any, Any]:
    """CVXPY's parametrized cone program, with rows as a solver takes them, and the chain."""
    chain = problem._construct_chain(solver=solver, gp=False, canon_backend=backend)
    for i, reduction in enumerate(chain.reductions[:-1]):
        if type(reduction) is ConeMatrixStuffing:
            reduction = Stuffing(reduction.quad_obj, reduction.canon_backend)
            chain.reductions[i] = reduction
        problem, _ = reduction.apply(problem)
    program = chain.solver.format_constraints(problem, chain.solver.EXP_CONE_ORDER)
    return program, chain


def _terms(expression: Any) -> list[Any]:
    """The terms of a sum, which may be a sum of sums."""
    if isinstance(expression, AddExpression):
        return [term for part in expression.args for term in _terms(part)]
    if isinstance(expression, NegExpression):
        return [-term for term in _terms(expression.args[0])]
    return [expression]


def _total(terms: list[Any]) -> Any:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _spread(matrix: Any, columns: np.ndarray, width: int) -> Any:
    """The matrix with its columns at other places, which ascend.

    No product: P has a row for each pair of variables, and a product counts rows.
    """
    narrow = _scipy.sparse.csc_array(matrix)
    counts = np.zeros(width, dtype=np.int64)
    counts[columns] = np.diff(narrow.indptr)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return _scipy.sparse.csc_array(
        (narrow.data, narrow.indices, starts), shape=(matrix.shape[0], width)
    )
