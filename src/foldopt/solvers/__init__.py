"""Blackbox solvers behind one signature: batches in, solutions with a status for each sample out.

A solver is a callable on batched params that returns a :class:`~foldopt.Solution`. Anything of
that kind can be folded; these are for when you have none yet.
"""

from __future__ import annotations

from foldopt.solvers._conic.cones import Cones, smat, svec
from foldopt.solvers._multipliers import Multipliers, with_multipliers
from foldopt.solvers.admm import ADMM
from foldopt.solvers.available import Engine, available
from foldopt.solvers.batch import solve_batch
from foldopt.solvers.conic import Conic, ConicMultipliers
from foldopt.solvers.fdpg import FDPG
from foldopt.solvers.fista import FISTA
from foldopt.solvers.global_qp import GlobalQP
from foldopt.solvers.ipopt import Ipopt
from foldopt.solvers.projected_gradient import ProjectedGradient
from foldopt.solvers.qp import QP
from foldopt.solvers.quadratically_constrained import QCQP
from foldopt.solvers.sqp import SQP
from foldopt.solvers.warm_start import WarmStart

__all__ = [
    "ADMM",
    "FDPG",
    "FISTA",
    "QCQP",
    "QP",
    "SQP",
    "Cones",
    "Conic",
    "ConicMultipliers",
    "Engine",
    "GlobalQP",
    "Ipopt",
    "Multipliers",
    "ProjectedGradient",
    "WarmStart",
    "available",
    "smat",
    "solve_batch",
    "svec",
    "with_multipliers",
]
