"""The jobs of scale.py that take several processes."""

from __future__ import annotations

import contextlib
import gc
import json
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from _scale_layers import FEATURES, ROWS, generator, pin, program
from torch import Tensor, nn

import foldopt as fo

__all__ = ["all_reduce", "on_dask", "steps_of_training"]

STEPS = 15


class Model(nn.Module):
    """A linear predictor of p, and the solution of min ½xᵀQx + pᵀx over Gx ≤ 1."""

    def __init__(self, n: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.predict = nn.Linear(FEATURES, n, dtype=torch.float64)
        self.Q, self.G = program(n, torch.float64)
        self.layer = fo.nn.QP()

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(self.Q, self.predict(features), self.G, torch.ones(ROWS).double())


# -- data parallel ---------------------------------------------------------------------------------


def steps_of_training(n: int, batch: int, workers: int) -> float:
    """Seconds of one step with so many samples in all: the slowest process, the best step."""
    return _together("train", n, batch, workers)


def all_reduce(n: int, workers: int) -> float:
    """Seconds to sum n numbers of float64 over processes."""
    return _together("sum", n, 1, workers)


def _together(what: str, n: int, batch: int, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        arguments = (workers, folder, what, n, batch)
        torch.multiprocessing.spawn(rank, args=arguments, nprocs=workers)  # type: ignore[attr-defined]
        return json.loads((pathlib.Path(folder) / "seconds").read_text())


def rank(rank: int, size: int, folder: str, what: str, n: int, batch: int) -> None:
    """One process of several, on a core of its own."""
    pin(rank)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    work = _training(n, batch // size) if what == "train" else _summing(n)
    seconds = _best(work)
    if rank == 0:
        (pathlib.Path(folder) / "seconds").write_text(json.dumps(seconds))
    # First the model: DistributedDataParallel, where it is the last to hold the group, joins gloo's
    # thread without letting go of Python's lock, for which that thread may wait (PyTorch 2.13).
    del work
    gc.collect()
    torch.distributed.destroy_process_group()


def _training(n: int, batch: int) -> Callable[[], None]:
    model = nn.parallel.DistributedDataParallel(Model(n))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    features = torch.randn(batch, FEATURES, generator=generator(), dtype=torch.float64)
    targets = torch.randn(batch, n, generator=generator(), dtype=torch.float64)

    def step() -> None:
        optimizer.zero_grad()
        (model(features) - targets).square().mean().backward()
        optimizer.step()

    return step


def _summing(n: int) -> Callable[[], None]:
    numbers = torch.zeros(n, dtype=torch.float64)
    return lambda: torch.distributed.all_reduce(numbers)  # type: ignore[return-value]


def _best(work: Callable[[], None]) -> float:
    """The least time of several steps, each as long as the slowest process took."""
    best = float("inf")
    for _ in range(3 + STEPS):
        torch.distributed.barrier()
        begin = time.perf_counter()
        work()
        taken = torch.tensor(time.perf_counter() - begin, dtype=torch.float64)
        torch.distributed.all_reduce(taken, torch.distributed.ReduceOp.MAX)
        best = min(best, float(taken))
    return best


# -- dask ------------------------------------------------------------------------------------------


def on_dask(n: int, batch: int, workers: int) -> float:
    """Seconds to solve a batch of programs by Clarabel; with no worker, in this thread."""
    g = generator()
    R = torch.randn(batch, n, n, generator=g, dtype=torch.float64)
    Q = R @ R.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)
    p = torch.randn(batch, n, generator=g, dtype=torch.float64)
    G = torch.randn(batch, n, n, generator=g, dtype=torch.float64)
    h = torch.ones(batch, n, dtype=torch.float64)
    with _executor(workers) as executor:
        solve = fo.solvers.QP("clarabel", executor=executor)
        solve(Q[:16], p[:16], G[:16], h[:16])  # starts them, and what they import
        best, start = float("inf"), time.perf_counter()
        for _ in range(8):
            begin = time.perf_counter()
            found = solve(Q, p, G, h)
            best = min(best, time.perf_counter() - begin)
            assert not bool(torch.as_tensor(found.status).any())
            if time.perf_counter() - start > 4:
                break
    return best


@contextlib.contextmanager
def _executor(workers: int) -> Any:
    if not workers:
        yield "serial"
        return
    from distributed import Client, LocalCluster

    local: dict[str, Any] = {"dashboard_address": ":0", "host": "127.0.0.1", "silence_logs": 50}
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, **local) as cluster,
        Client(cluster) as client,
        client.get_executor() as executor,
    ):
        yield executor
