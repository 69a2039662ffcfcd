"""Batches on other people's executors, and folds in data parallel training."""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from foldopt import solvers
from foldopt.status import Status
from tests import distributed_runs

ROOT = pathlib.Path(__file__).parents[1]


def batch(count: int = 8) -> torch.Tensor:
    return torch.arange(float(count))[:, None]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    settings = {
        # A cluster gives a worker up for good that is away for 15 s, and on a busy machine one that
        # is killed again and again is: in the end there are none, and batches wait for ever.
        "distributed.deploy.lost-worker-timeout": "1h",
        "distributed.scheduler.no-workers-timeout": "100s",
    }
    with (
        pytest.importorskip("dask").config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0",
            host="127.0.0.1", silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        client.run(_find_tests, str(ROOT))
        yield client


def _find_tests(root: str) -> None:
    sys.path.insert(0, root)


def test_dask(client: Any) -> None:
    with client.get_executor() as executor:
        x, process = solvers.solve_batch(distributed_runs.cube, batch(), executor=executor).x
        power = 2
        squares = solvers.solve_batch(lambda c: c**power, batch(), executor=executor)
    assert torch.equal(x, batch() ** 3)
    assert os.getpid() not in process.tolist()
    assert torch.equal(squares.x, batch() ** 2)


def test_a_worker_killed_on_dask_loses_no_sample(client: Any, tmp_path: pathlib.Path) -> None:
    one = functools.partial(distributed_runs.dies_once, str(tmp_path))
    with client.get_executor() as executor:
        solution = solvers.solve_batch(one, batch(), executor=executor)
    assert (tmp_path / "died").exists()
    assert solution.status.tolist() == [0] * 8
    assert torch.equal(solution.x, batch() ** 3)


def test_a_sample_that_kills_every_worker_of_dask_fails_not_the_run(client: Any) -> None:
    client.cluster.scheduler.allowed_failures = 2  # each try kills so many workers and one more
    with client.get_executor(retries=0) as executor:
        solution = solvers.solve_batch(distributed_runs.dies_always, batch(), executor=executor)
    assert solution.status.tolist() == [0, 0, 0, Status.FAILED, 0, 0, 0, 0]
    assert "its worker died (KilledWorker)" in solution.messages[3]
    others = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(solution.x[others], batch()[others] ** 3)


def test_a_retry_on_dask_runs(client: Any, tmp_path: pathlib.Path) -> None:
    # Dask itself gives a task up whose third worker dies; ours is the fourth try.
    client.cluster.scheduler.allowed_failures = 2
    one = functools.partial(distributed_runs.dies_three_times, str(tmp_path))
    with client.get_executor(retries=0) as executor:
        solution = solvers.solve_batch(one, batch(), executor=executor)
    assert len(list(tmp_path.iterdir())) == 3
    assert torch.equal(solution.x, batch() ** 3)


def test_mpi() -> None:
    pytest.importorskip("mpi4py")
    launcher = shutil.which("mpiexec", path=pathlib.Path(sys.executable).parent) or shutil.which(
        "mpiexec"
    )
    if launcher is None:
        pytest.skip("no MPI here: pip install mpich")
    module = ["-m", "mpi4py.futures", "-m", "tests.distributed_runs"]
    done = subprocess.run(
        [launcher, "-n", "3", sys.executable, *module],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{[float(i) ** 3 for i in range(8)]} False"


def test_two_processes_find_the_gradients_of_one(tmp_path: pathlib.Path) -> None:
    alone = distributed_runs.gradients(distributed_runs.Model(), distributed_runs.data())
    assert set(alone) == {"predict.weight", "predict.bias", "decide.step.scale"}
    assert all(bool(grad.abs().sum() > 1e-3) for grad in alone.values())
    torch.multiprocessing.spawn(distributed_runs.train, args=(2, str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, grad in alone.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-12, atol=1e-12)
