"""Solvers of the adjoint system (I − Φᵀ) v = g, and of its transpose for forward mode."""

from __future__ import annotations

from foldopt.linear._common import LinearOperator, LinearSolution, LinearSolver
from foldopt.linear.auto import Auto
from foldopt.linear.bicgstab import BiCGSTAB
from foldopt.linear.cg import CG
from foldopt.linear.dense import Dense
from foldopt.linear.gmres import GMRES
from foldopt.linear.lfpi import LFPI
from foldopt.linear.solve import solve

__all__ = [
    "CG",
    "GMRES",
    "LFPI",
    "Auto",
    "BiCGSTAB",
    "Dense",
    "LinearOperator",
    "LinearSolution",
    "LinearSolver",
    "solve",
]
