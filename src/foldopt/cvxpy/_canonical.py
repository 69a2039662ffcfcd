"""From a CVXPY problem to the affine family of cone programs that it stands for.

    min ½xᵀPx + qᵀx  s.t.  Ax + s = b,  s ∈ K,     P, q, A, b affine in the parameters (A. Agrawal
et al., Differentiable convex optimization layers, NeurIPS 2019: the affine–solver–affine form).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from cvxpy.constraints import PowConeND
from cvxpy.utilities import scopes
from torch import Tensor

from foldopt.cvxpy._affine import Affine
from foldopt.cvxpy._cones import Cones, scs_order
from foldopt.cvxpy._recover import Read, read_dual, read_primal
from foldopt.cvxpy._stuffing import cone_program
from foldopt.nn._qp.sparse.matrix import Pattern
from foldopt.solvers import _scipy

__all__ = ["Canonical", "Input", "canonical"]

# Whose form of the program is taken: Clarabel's has quadratic objectives and every cone.
_FORM = "CLARABEL"


@dataclasses.dataclass(frozen=True)
class Input:
    """How the tensor of one parameter becomes a part of the parameter vector.

    Attributes
    ----------
    shape
        Of the parameter.
    take
        Which entries of the flattened tensor, in order.
    symmetric
        Whether its symmetric part counts.
    logarithm
        Whether the program is in its logarithm (geometric programs).
    """

    shape: tuple[int, ...]
    take: Tensor
    symmetric: bool
    logarithm: bool

    def __call__(self, value: Tensor) -> Tensor:
        """``(*batch, *shape)`` to ``(*batch, size)``."""
        if self.logarithm:
            value = torch.log(value)
        if self.symmetric:
            value = (value + value.mT) / 2
        flat = value.reshape(*value.shape[: value.dim() - len(self.shape)], math.prod(self.shape))
        return flat.index_select(-1, self.take.to(value.device))


@dataclasses.dataclass(frozen=True)
class Canonical:
    """The family of cone programs.

    Attributes
    ----------
    inputs
        One for each parameter.
    P, q, A, b
        The blocks of data; of P and A the values of their entries.
    P_at, A_at
        Where those stand, CSC: indices and starts of columns.
    cones
        K.
    reads
        How each of the layer's variables is read from x or y.
    gp
        Whether the variables are logarithms.
    """

    inputs: tuple[Input, ...]
    P: Affine
    q: Affine
    A: Affine
    b: Affine
    P_at: tuple[np.ndarray, np.ndarray]
    A_at: tuple[np.ndarray, np.ndarray]
    cones: Cones
    reads: tuple[Read, ...]
    gp: bool

    def patterns(self, device: torch.device) -> tuple[Pattern, Pattern]:
        """Those of P and A for the step."""
        n, m = len(self.q.constant), len(self.b.constant)
        return _pattern(self.P_at, (n, n), device), _pattern(self.A_at, (m, n), device)


def canonical(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter],
    variables: Sequence[cp.Variable],
    gp: bool,
    canon_backend: str | None,
) -> Canonical:
    """Let CVXPY bring a problem that was checked to the form of cones, once for all values."""
    logs: dict[Any, Any] = {}
    variable_ids: dict[int, int] = {}
    inner = problem
    with contextlib.ExitStack() as stack:
        stack.enter_context(scopes.quad_form_dpp_scope())
        if gp:
            reduction = cp.reductions.Dgp2Dcp(problem)  # pyright: ignore[reportAttributeAccessIssue]
            inner, _ = reduction.apply(problem)
            logs = dict(reduction.canon_methods._parameters)
            variable_ids = {old: new[0] for old, new in reduction.var_id_map.items()}
        program, chain = _read(inner, _FORM, canon_backend)
        lower = False
        if program.constr_map.get(PowConeND):
            # SCS has no such cone, and so CVXPY makes power cones of three rows of it.
            program, chain = _read(inner, "SCS", canon_backend)
            lower = True
    cones = _cones(program.cone_dims)
    of_variable = {old: new[0] for old, new in chain.compose_var_id_map().items()}
    of_parameter = {old: new[0] for old, new in chain.compose_param_id_map().items()}
    inputs, columns = [], []
    for parameter in parameters:
        used = logs.get(parameter, parameter)
        start = program.param_id_to_col[of_parameter.get(used.id, used.id)]
        made = _input(parameter, parameter in logs)
        inputs.append(made)
        columns.append(slice(start, start + len(made.take)))
    reads = []
    primal = {variable.id for variable in problem.variables()}
    for variable in variables:
        if variable.id in primal:
            first = variable_ids.get(variable.id, variable.id)
            start = program.var_id_to_col[of_variable.get(first, first)]
            reads.append(read_primal(variable, start))
        else:
            reads.append(read_dual(variable, problem, program, chain))
    blocks, places = _blocks(program, tuple(columns), cones, lower)
    return Canonical(tuple(inputs), *blocks, *places, cones, tuple(reads), gp)


def _read(problem: Any, solver: str, backend: str | None) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        # CVXPY (1.9) warns of what it reads itself from sparse parameters.
        warnings.filterwarnings("ignore", "Reading from a sparse CVXPY", RuntimeWarning)
        return cone_program(problem, solver, backend)


def _cones(dims: Any) -> Cones:
    return Cones(
        zero=int(dims.zero),
        nonnegative=int(dims.nonneg),
        second_order=tuple(int(size) for size in dims.soc),
        semidefinite=tuple(int(order) for order in dims.psd),
        exponential=int(dims.exp),
        power=tuple(float(alpha) for alpha in dims.p3d),
    )


def _input(parameter: cp.Parameter, logarithm: bool) -> Input:
    """CVXPY's order is by columns; of a symmetric parameter it takes the upper triangle by rows."""
    shape = tuple(parameter.shape)
    place = np.arange(parameter.size).reshape(shape)
    symmetric = False
    if getattr(parameter, "_has_dim_reducing_attr", False) and not logarithm:
        kinds = {name for name, value in parameter.attributes.items() if value}
        if kinds & {"symmetric", "PSD", "NSD"}:
            place, symmetric = place[np.triu_indices(shape[-1])], True
        elif "diag" in kinds:
            place = np.diag(place)
        elif parameter.sparse_idx is not None:
            place = place[parameter.sparse_idx]
        else:
            raise NotImplementedError(
                f"foldopt.cvxpy: parameter {parameter.name()!r} has the attributes "
                f"{sorted(kinds)}, which are not supported. Give it none of them, and "
                "pass the matrix as it is"
            )
    take = torch.from_numpy(np.ascontiguousarray(place.ravel(order="F")).astype(np.int64))
    return Input(shape, take, symmetric, logarithm)


def _blocks(
    program: Any, columns: tuple[slice, ...], cones: Cones, lower: bool
) -> tuple[tuple[Affine, Affine, Affine, Affine], tuple[Any, Any]]:
    """The data P, q, A, b, and the places of the entries of P and A.

    CVXPY has the rows A'x + b' ∈ K, so that A = −A' and b = b'; b' stands as the last column.
    """
    n, m = program.x.size, cones.rows
    program.reduced_A.cache()
    program.reduced_P.cache()
    q = _scipy.sparse.csr_matrix(program.q)[:n]

    rows, starts = np.zeros(0, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    A = b = _scipy.sparse.csr_matrix((0, q.shape[1]))
    if m:
        values = _scipy.sparse.csr_matrix(program.reduced_A.reduced_mat)
        at, starts, _ = program.reduced_A.problem_data_index
        rows = scs_order(cones)[at] if lower else np.asarray(at)
        last = int(starts[n])
        place = _scipy.sparse.csr_matrix(
            (np.ones(len(rows) - last), (rows[last:], np.arange(len(rows) - last))),
            shape=(m, len(rows) - last),
        )
        A, b = -values[:last], place @ values[last:]
        rows, starts = rows[:last], starts[: n + 1]
    P, P_at = _scipy.sparse.csr_matrix((0, q.shape[1])), (rows[:0], np.zeros(n + 1, dtype=np.int64))
    if program.reduced_P.problem_data_index is not None:
        P = _scipy.sparse.csr_matrix(program.reduced_P.reduced_mat)
        at, ends, _ = program.reduced_P.problem_data_index
        P_at = (np.asarray(at), np.asarray(ends))
    made = [_affine(block, columns) for block in (P, q, A, b)]
    return (made[0], made[1], made[2], made[3]), (P_at, (rows, np.asarray(starts)))


def _affine(block: Any, columns: tuple[slice, ...]) -> Affine:
    """The last column is the constant."""
    width = block.shape[1] - 1
    constant = block[:, width:].toarray().reshape(-1)
    return Affine(
        _scipy.sparse.csr_matrix(block[:, :width]),
        torch.from_numpy(constant.astype(float)),
        columns,
    )


def _pattern(
    at: tuple[np.ndarray, np.ndarray], shape: tuple[int, int], device: torch.device
) -> Pattern:
    rows, starts = at
    columns = np.repeat(np.arange(shape[1]), np.diff(starts))
    row, column = (torch.from_numpy(part.astype(np.int64)).to(device) for part in (rows, columns))
    return Pattern(row, column, shape)
