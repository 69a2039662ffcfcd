"""What other processes run for tests/test_distributed.py."""

from __future__ import annotations

import os
import pathlib
import sys
import uuid
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import foldopt as fo
from foldopt import solvers


def cube(c: np.ndarray) -> tuple[np.ndarray, int]:
    return c**3, os.getpid()


def dies_once(folder: str, c: np.ndarray) -> np.ndarray:
    """Kills its worker at the first try of sample 3."""
    mark = pathlib.Path(folder) / "died"
    if c[0] == 3 and not mark.exists():
        mark.write_text("")
        os._exit(1)
    return c**3


def dies_always(c: np.ndarray) -> np.ndarray:
    if c[0] == 3:
        os._exit(1)
    return c**3


def dies_three_times(folder: str, c: np.ndarray) -> np.ndarray:
    """Kills its worker at the first three tries of sample 3."""
    if c[0] == 3 and len(list(pathlib.Path(folder).iterdir())) < 3:
        (pathlib.Path(folder) / uuid.uuid4().hex).write_text("")
        os._exit(1)
    return c**3


# -- data parallel training -----------------------------------------------------------------------


def on_simplex(c: np.ndarray) -> np.ndarray:
    """The point of the simplex nearest to c, by bisection on the shift."""
    low, high = c.min() - 1, c.max()
    for _ in range(200):
        middle = (low + high) / 2
        total = np.maximum(c - middle, 0).sum()
        low, high = (middle, high) if total > 1 else (low, middle)
    return np.maximum(c - high, 0)


class Step(nn.Module):
    """Projected gradient for min ½‖x − c‖² on the simplex of size 1, c scaled by what is learned.

    The scale is a weight of the step itself, and gets its gradient through the fold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return fo.projections.simplex(x - 0.5 * (x - self.scale * c))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.predict = nn.Linear(4, 5, dtype=torch.float64)
        self.decide = fo.FoldedLayer(lambda c: solvers.solve_batch(on_simplex, c), Step())

    def forward(self, features: Tensor) -> Tensor:
        return self.decide(self.predict(features))


def gradients(model: nn.Module, features: Tensor) -> dict[str, Tensor]:
    weights = torch.arange(5.0, dtype=torch.float64)
    loss = (model(features) * weights).sum(-1).pow(2).mean()
    loss.backward()
    return {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def data() -> Tensor:
    return torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def train(rank: int, size: int, folder: str) -> None:
    """One rank: the gradients of its part of the data, averaged over all ranks by gloo."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    model = nn.parallel.DistributedDataParallel(Model())
    found = gradients(model, data().chunk(size)[rank])
    torch.save(found, pathlib.Path(folder) / f"{rank}.pt")
    del model  # one that outlives its process group may wait for gloo's thread for ever
    torch.distributed.destroy_process_group()


# -- MPI ------------------------------------------------------------------------------------------


def main() -> None:
    from mpi4py.futures import MPIPoolExecutor

    power = 3
    with MPIPoolExecutor(max_workers=2) as pool:

        def one(c: np.ndarray) -> Any:
            return c**power, os.getpid()

        x, process = solvers.solve_batch(one, torch.arange(8.0)[:, None], executor=pool).x
    sys.stdout.write(f"{x.flatten().tolist()} {os.getpid() in process.tolist()}\n")


if __name__ == "__main__":
    main()
