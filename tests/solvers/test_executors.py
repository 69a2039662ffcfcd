"""Who solves a batch: threads, processes, executors of others; and what happens when they die."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from foldopt import solvers
from foldopt.solvers._run import dispatch, executors
from foldopt.status import Solution, Status


def where(c: np.ndarray) -> tuple[np.ndarray, int, int]:
    return 3 * c, os.getpid(), threading.get_ident()


def deadly(c: np.ndarray) -> np.ndarray:
    if c[0] == 3:
        os._exit(1)
    if c[0] == 5:
        raise ValueError("no five")
    return 3 * c


def batch(count: int = 8) -> torch.Tensor:
    return torch.arange(float(count))[:, None]


def test_serial_and_threads_stay_in_this_process() -> None:
    for executor in (None, "serial", "auto", "threads"):
        x, process, thread = solvers.solve_batch(where, batch(), executor=executor).x
        assert torch.equal(x, 3 * batch())
        assert set(process.tolist()) == {os.getpid()}
        ours = set(thread.tolist()) == {threading.get_ident()}
        assert ours == (executor != "threads")


def test_threads_work_side_by_side() -> None:
    # Each waits for the other: one after the other they would never meet.
    meeting = threading.Barrier(2, timeout=60)

    def one(c: np.ndarray) -> np.ndarray:
        meeting.wait()
        return c

    assert solvers.solve_batch(one, batch(2), executor="threads").x.flatten().tolist() == [0, 1]


def test_processes_are_other_processes_and_stay() -> None:
    factor = 3
    x, process, _ = solvers.solve_batch(
        lambda c: (factor * c, os.getpid(), 0), batch(), executor="processes"
    ).x
    assert torch.equal(x, 3 * batch())
    assert os.getpid() not in process.tolist()
    pool: Any = executors._processes()
    solvers.solve_batch(where, batch(), executor="processes")
    assert executors._processes() is pool


def test_a_worker_that_dies_fails_its_sample_not_the_run() -> None:
    solution = solvers.solve_batch(deadly, batch(), executor="processes")
    assert solution.status.tolist() == [0, 0, 0, Status.FAILED, 0, Status.FAILED, 0, 0]
    assert "its worker died (TerminatedWorkerError)" in solution.messages[3]
    assert solution.messages[5] == "ValueError: no five"
    fine = [0, 1, 2, 4, 6, 7]
    assert torch.equal(solution.x[fine], 3 * batch()[fine])
    assert solution.x[[3, 5]].isnan().all()


def test_a_pool_of_the_users_may_break() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        solution = solvers.solve_batch(deadly, batch(4), executor=pool)
    assert solution.status.tolist() == [0, 0, 0, Status.FAILED]
    assert "TerminatedWorkerError" in solution.messages[3]  # of the pool in its place


class Fragile(Executor):
    """An executor whose worker dies of some samples, and which then breaks for good."""

    made = 0

    def __init__(self, dies_of: float | None) -> None:
        Fragile.made += 1
        self.dies_of = dies_of
        self.broken = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.broken:
            raise BrokenExecutor("broken before")
        future: Future[Any] = Future()
        (column, *_), _, _ = args[1]
        if (column == self.dies_of).any():
            self.broken = True
            future.set_exception(BrokenExecutor("a worker died"))
        else:
            future.set_result(fn(*args))
        return future


@pytest.mark.parametrize("dies_of", [None, 0.0, 3.0, 9.0])
def test_a_function_that_makes_executors_is_called_again(dies_of: float | None) -> None:
    Fragile.made = 0
    make: Callable[[], Executor] = functools.partial(Fragile, dies_of)
    solution = solvers.solve_batch(where, batch(10), executor=make)
    failed = solution.status == Status.FAILED
    assert failed.nonzero().flatten().tolist() == ([] if dies_of is None else [int(dies_of)])
    assert torch.equal(solution.x[0][~failed], 3 * batch(10)[~failed])
    assert (Fragile.made > 1) == (dies_of is not None)


def test_what_cannot_be_sent_is_refused_with_a_remedy() -> None:
    lock = threading.Lock()

    def one(c: np.ndarray) -> np.ndarray:
        with lock:
            return c

    with pytest.raises(TypeError, match=r"cannot be sent to another process .*executor='threads'"):
        solvers.solve_batch(one, batch(), executor="processes")


def test_auto_asks_for_help_when_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "cores", lambda: 2)
    monkeypatch.setattr(dispatch, "_PROCESSES_PAY", 0.2)
    slow = solvers.solve_batch(
        lambda c: (time.sleep(0.1), os.getpid())[1], batch(), executor="auto"
    )
    assert slow.x[0] == os.getpid()
    assert os.getpid() not in slow.x[1:].tolist()
    monkeypatch.setattr(dispatch, "cores", lambda: 1)
    alone = solvers.solve_batch(
        lambda c: (time.sleep(0.1), os.getpid())[1], batch(), executor="auto"
    )
    assert set(alone.x.tolist()) == {os.getpid()}


@pytest.mark.parametrize("much", [False, True])
def test_long_batches_go_to_processes_unless_they_have_much_to_read(
    much: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "cores", lambda: 2)
    monkeypatch.setattr(dispatch, "_PROCESSES_PAY", 0.2)
    samples, size = 6, 8000
    monkeypatch.setattr(dispatch, "_TOO_MUCH", size / 0.05 / (10 if much else 0.1))
    task = dispatch.Task(
        lambda c: (time.sleep(0.05), os.getpid())[1],
        (np.zeros((samples, size // 8)),),
        (True,),
        [None] * samples,
    )
    found = dispatch.solve_all(task, "auto", releases_gil=True)
    assert (set(found) == {os.getpid()}) == much


@pytest.mark.parametrize("executor", ["serial", "threads", "processes"])
@pytest.mark.usefixtures("listening")
def test_ctrl_c_stops_promptly(executor: Any) -> None:
    if executor == "processes":
        solvers.solve_batch(where, batch(2), executor=executor)  # they are up
    presser = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    presser.start()
    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        solvers.solve_batch(functools.partial(_nap, 2.0), batch(40), executor=executor)
    assert time.perf_counter() - begin < 20  # of 80, or 40 in two workers
    presser.join()
    # And the next batch is solved as if nothing had been.
    assert torch.equal(solvers.solve_batch(where, batch(), executor=executor).x[0], 3 * batch())


def _nap(seconds: float, c: np.ndarray) -> np.ndarray:
    time.sleep(seconds)
    return c


def test_missing_loky(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "loky", None)
    with pytest.raises(ImportError, match="needs the package loky: pip install loky"):
        solvers.solve_batch(where, batch(), executor="processes")


def test_solutions_cross_processes_whole() -> None:
    def one(c: np.ndarray) -> Solution:
        return Solution({"x": c}, Status.TIME_LIMIT, (c, c + 1), 0.5, "late")

    found = solvers.solve_batch(one, batch(3), executor="processes")
    here = solvers.solve_batch(one, batch(3))
    for a, b in zip(found, here, strict=True):
        if b is not here.messages:
            torch.testing.assert_close(a, b)
    assert found.messages == here.messages == ("late",) * 3
