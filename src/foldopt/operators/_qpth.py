"""The inner program by qpth, where it is installed."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from foldopt.operators._inverse import matvec
from foldopt.operators._kkt import PrimalDual, least_squares_multipliers

__all__ = ["by_qpth"]


def by_qpth(_solve: Any, *blocks: Tensor) -> PrimalDual:
    try:
        qpth = importlib.import_module("qpth.qp")
    except ImportError as error:
        raise ImportError(
            f"quadratic_program: method='qpth' needs the package qpth ({error}). Install it "
            "(pip install qpth; with numpy 2: pip install --no-deps qpth==0.0.17), or use "
            "'active_set', which needs nothing"
        ) from error
    Q, p, G, h, A, b = blocks
    if G.shape[-2] + A.shape[-2] == 0:
        x = -torch.linalg.solve(Q, p)
        return PrimalDual(x, h, b)
    # qpth tells absent blocks by their having no element, and averages over the batch the gradient
    # of what has no batch dimension: here everything has one.
    none = p.new_empty(0)
    eps = 1e-14 if p.dtype == torch.float64 else 1e-7
    run = qpth.QPFunction(verbose=-1, eps=eps, maxIter=60, check_Q_spd=False)
    absent = [block if block.shape[1] else none for block in (G, h, A, b)]
    x = run(Q, p, *absent)
    slack = matvec(G, x) - h
    both = least_squares_multipliers(matvec(Q, x) + p, slack, G, A)
    return PrimalDual(x, both[..., : h.shape[-1]], both[..., h.shape[-1] :])
