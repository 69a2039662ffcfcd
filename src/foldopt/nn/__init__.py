"""Ready layers: each pairs a solver with a step."""

from __future__ import annotations

from foldopt.nn._optimizer import FoldedOptimizer, Options
from foldopt.nn.acopf import ACOPF, ACOPFSolution, Dispatch, Grid, read_grid
from foldopt.nn.f_fdpg import f_fdpg
from foldopt.nn.f_pgd import f_pgd_a, f_pgd_b
from foldopt.nn.f_sqp import f_sqp
from foldopt.nn.nlp import NLP, NLPSolution
from foldopt.nn.portfolio import Portfolio, PortfolioSolution
from foldopt.nn.qp import QP, QPSolution
from foldopt.nn.smooth_top_k import SmoothTopK, TopKSolution
from foldopt.nn.total_variation import TotalVariation, TotalVariationSolution

__all__ = [
    "ACOPF",
    "NLP",
    "QP",
    "ACOPFSolution",
    "Dispatch",
    "FoldedOptimizer",
    "Grid",
    "NLPSolution",
    "Options",
    "Portfolio",
    "PortfolioSolution",
    "QPSolution",
    "SmoothTopK",
    "TopKSolution",
    "TotalVariation",
    "TotalVariationSolution",
    "f_fdpg",
    "f_pgd_a",
    "f_pgd_b",
    "f_sqp",
    "read_grid",
]
