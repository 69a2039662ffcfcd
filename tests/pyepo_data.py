"""PyEPO's random shortest paths."""

from __future__ import annotations

import numpy as np
import torch
from pyepo.data import shortestpath
from torch import Tensor

F64 = torch.float64
GRID = (5, 5)


def path_data(count: int, seed: int = 1) -> tuple[np.ndarray, Tensor]:
    features, costs = shortestpath.genData(count, 5, GRID, deg=4, noise_width=0.5, seed=seed)
    return features, torch.from_numpy(costs).double()
