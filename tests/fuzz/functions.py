"""Small functions that the drawn calls name: objectives, constraints, steps and solvers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import foldopt as fo


def bowl(x: Tensor, c: Tensor) -> Tensor:
    """An objective of one sample, or of many; its minimum is at c."""
    return 0.5 * ((x - c) ** 2).sum(-1)


def waves(x: Tensor, c: Tensor) -> Tensor:
    """An objective that is not convex."""
    return (torch.cos(x) + 0.5 * (x - c) ** 2).sum(-1)


def disc(x: Tensor, c: Tensor) -> Tensor:
    return x @ x - 1


def below(x: Tensor, c: Tensor) -> Tensor:
    return x - 1


def total(x: Tensor, c: Tensor) -> Tensor:
    return x.sum().unsqueeze(0) - 1


def half(x: Tensor, c: Tensor) -> Tensor:
    """A contraction whose fixed point is c."""
    return 0.5 * (x + c)


def root(x: Tensor, c: Tensor) -> Tensor:
    """A contraction that is not linear."""
    return 0.5 * torch.tanh(x) + c


def grow(x: Tensor, c: Tensor) -> Tensor:
    """A step that runs away, whose fixed point is c all the same."""
    return 3 * x - 2 * c


def idle(x: Tensor, c: Tensor) -> Tensor:
    """Every x is a fixed point: the adjoint system is singular."""
    return x + 0 * c


def mixing(x: Tensor, c: Tensor) -> Tensor:
    """A step that mixes samples."""
    return 0.5 * (x - x.mean(0) + c)


def same(c: Any) -> Any:
    """The solver of ``half`` and ``grow``."""
    return c


def as_numpy(c: Tensor) -> Any:
    """The same, in NumPy."""
    return c.cpu().numpy()


def solved(c: Tensor) -> fo.Solution:
    """The same, with a status."""
    return fo.Solution(c.clone(), torch.zeros(c.shape[:1], dtype=torch.int64))


def prox(y: Tensor, weight: Any, *rest: Any) -> Tensor:
    return fo.prox.l1(y, weight)


def onto(y: Tensor, *rest: Any) -> Tensor:
    return fo.projections.simplex(y)


def cvxpy_layer(name: str, **options: Any) -> Any:
    """A CvxpyLayer of one of a few problems; made once."""
    if (name, repr(options)) not in _MADE:
        _MADE[name, repr(options)] = _cvxpy_layer(name, options)
    return _MADE[name, repr(options)]


_MADE: dict[tuple[str, str], Any] = {}


def _cvxpy_layer(name: str, options: dict[str, Any]) -> Any:
    import cvxpy

    from foldopt.cvxpy import CvxpyLayer

    cp: Any = cvxpy  # whose operators the type checker knows too little of
    x, c, F = cp.Variable(3), cp.Parameter(3), cp.Parameter((2, 3))
    if name == "quadratic":
        objective, rows = cp.sum_squares(x - c), [F @ x <= 1, x >= -5]
    elif name == "cone":
        objective, rows = cp.norm(F @ x, 2) - c @ x, [cp.norm(x, 2) <= 1]
    elif name == "entropy":
        objective, rows = -c @ x - cp.sum(cp.entr(x)), [cp.sum(F @ x) <= 4, x <= 2]
    else:
        S = cp.Variable((3, 3), PSD=True)
        objective = cp.sum_squares(S - np.eye(3)) + c @ cp.diag(S)
        problem = cp.Problem(cp.Minimize(objective), [cp.sum(F @ S) <= 2])
        return CvxpyLayer(problem, [c, F], [S], **options)
    return CvxpyLayer(cp.Problem(cp.Minimize(objective), rows), [c, F], [x], **options)
