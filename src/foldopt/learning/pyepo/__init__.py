"""PyEPO's problems folded here, and our layers in PyEPO's training loops."""

from __future__ import annotations

from foldopt.learning.pyepo.data import dataset, examples
from foldopt.learning.pyepo.model import objective, solver
from foldopt.learning.pyepo.modules import FoldedRegret, layer

__all__ = ["FoldedRegret", "dataset", "examples", "layer", "objective", "solver"]
