"""Blackbox solvers behind one signature: batches in, solutions with a status for each sample out.

A solver is a callable on batched params that returns a :class:`~foldopt.Solution`. Anything of
that kind can be folded; these are for when you have none yet.
"""

from __future__ import annotations

from foldopt.solvers._multipliers import Multipliers
from foldopt.solvers.batch import solve_batch
from foldopt.solvers.warm_start import WarmStart

__all__ = ["Multipliers", "WarmStart", "solve_batch"]
