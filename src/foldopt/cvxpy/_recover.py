"""Where the values of variables and of dual variables stand in the cone program's x and y."""

from __future__ import annotations

import dataclasses
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from cvxpy.constraints import PSD, SOC, ExpCone, PowCone3D, PowConeND, SvecPSD
from torch import Tensor

__all__ = ["Read", "read_dual", "read_primal"]


@dataclasses.dataclass(frozen=True)
class Read:
    """One variable of the layer.

    Attributes
    ----------
    shape
        Of the variable.
    take
        Which entries of x, or of y, by rows of the variable.
    weight
        By what each is multiplied, if by anything.
    dual
        Whether it is read from y.
    """

    shape: tuple[int, ...]
    take: Tensor
    weight: Tensor | None
    dual: bool

    def __call__(self, source: Tensor) -> Tensor:
        """``(*batch, n)`` to ``(*batch, *shape)``."""
        found = source.index_select(-1, self.take.to(source.device))
        if self.weight is not None:
            found = found * self.weight.to(source)
        return found.reshape((*source.shape[:-1], *self.shape))


def read_primal(variable: cp.Variable, start: int) -> Read:
    """A variable whose entries in x begin at ``start``."""
    shape = tuple(variable.shape)
    kinds = {name for name, value in variable.attributes.items() if value}
    if "complex" in kinds or "imag" in kinds or "hermitian" in kinds:
        raise NotImplementedError(
            f"foldopt.cvxpy: variable {variable.name()!r} is complex, which is not supported. "
            "Write its real and its imaginary part as two variables"
        )
    place, weight = np.zeros(shape, dtype=np.int64), None
    if kinds & {"symmetric", "PSD", "NSD"}:
        place = np.zeros(shape, dtype=np.int64)
        upper = np.triu_indices(shape[-1])
        place[upper] = np.arange(len(upper[0]))
        place = place + np.triu(place, 1).T
    elif "diag" in kinds:
        weight = np.eye(shape[0])
        np.fill_diagonal(place, np.arange(shape[0]))
    elif variable.sparse_idx is not None:
        weight = np.zeros(shape)
        place[variable.sparse_idx] = np.arange(len(variable.sparse_idx[0]))
        weight[variable.sparse_idx] = 1.0
    else:
        place = np.arange(variable.size).reshape(shape, order="F")
    return _read(shape, start + place, weight, dual=False)


def read_dual(variable: cp.Variable, problem: cp.Problem, program: Any, chain: Any) -> Read:
    """A dual variable of one of the problem's constraints."""
    constraint, position = next(
        (constraint, position)
        for constraint in problem.constraints
        for position, dual in enumerate(constraint.dual_variables)
        if dual.id == variable.id
    )
    ids = chain.compose_constr_id_map()
    wanted, start = ids.get(constraint.id, constraint.id), 0
    for final in program.constraints:
        if final.id == wanted and not isinstance(constraint, PowConeND):
            break
        start += final.size
    else:
        raise NotImplementedError(
            f"foldopt.cvxpy: the dual variable of {constraint} is not in the cone program, where "
            f"CVXPY writes this constraint ({type(constraint).__name__}) in another way. Leave it "
            "out of variables"
        )
    shape = tuple(variable.shape)
    if isinstance(final, (PSD, SvecPSD)):
        k = shape[-1]
        place = np.zeros((k, k), dtype=np.int64)
        place[np.tril_indices(k)] = np.arange(k * (k + 1) // 2)
        place = np.maximum(place, place.T)
        weight = np.where(np.eye(k) == 1, 1.0, 0.5**0.5)
        return _read(shape, start + place, weight, dual=True)
    if isinstance(final, SOC) and isinstance(constraint, SOC):
        place = _of_second_order(constraint, position)
    elif isinstance(final, (ExpCone, PowCone3D)):
        place = 3 * np.arange(variable.size).reshape(shape, order="F") + position
    else:
        place = np.arange(variable.size).reshape(shape, order="F")
    return _read(shape, start + place, None, dual=True)


def _of_second_order(constraint: SOC, position: int) -> np.ndarray:
    """Each cone has its row of t, and then those of its column (axis 0) or row (axis 1) of X."""
    shape = constraint.args[1].shape
    matrix = shape if len(shape) == 2 else (constraint.args[1].size, 1)
    height, count = matrix if constraint.axis == 0 else matrix[::-1]
    firsts = (height + 1) * np.arange(count)
    if position == 0:
        return firsts.reshape(constraint.args[0].shape)
    place = firsts[None, :] + 1 + np.arange(height)[:, None]
    return (place if constraint.axis == 0 else place.T).reshape(shape)


def _read(shape: tuple[int, ...], place: Any, weight: np.ndarray | None, *, dual: bool) -> Read:
    take = torch.from_numpy(np.asarray(place, dtype=np.int64).reshape(-1))
    scale = None if weight is None else torch.from_numpy(weight.reshape(-1))
    return Read(shape, take, scale, dual)
