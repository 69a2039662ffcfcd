"""fold-opt: make any solver a differentiable PyTorch function."""

from __future__ import annotations

from foldopt import diagnose, nn, operators, projections, prox, solvers, steps
from foldopt.certify import Certify
from foldopt.diagnose import backward_trace, spectral_radius, tune_step_size
from foldopt.fold import fold
from foldopt.layer import FoldedLayer, folded
from foldopt.linear import CG, GMRES, LFPI, Auto, BiCGSTAB, Dense
from foldopt.sensitivity import jacobian
from foldopt.status import Event, FoldError, FoldWarning, Record, Solution, Status, record
from foldopt.unroll import fixed_point, unfold, unroll

__version__ = "0.1.0"

__all__ = [
    "CG",
    "GMRES",
    "LFPI",
    "Auto",
    "BiCGSTAB",
    "Certify",
    "Dense",
    "Event",
    "FoldError",
    "FoldWarning",
    "FoldedLayer",
    "Record",
    "Solution",
    "Status",
    "backward_trace",
    "diagnose",
    "fixed_point",
    "fold",
    "folded",
    "jacobian",
    "nn",
    "operators",
    "projections",
    "prox",
    "record",
    "solvers",
    "spectral_radius",
    "steps",
    "tune_step_size",
    "unfold",
    "unroll",
]
