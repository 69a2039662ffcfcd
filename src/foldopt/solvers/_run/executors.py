"""Who does the work: this thread, other threads, processes, or any executor of the user's."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import dataclasses
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any, Literal

__all__ = ["ExecutorLike", "Workers", "check_executor", "cores", "pack", "unpack", "workers"]

NAMED = ("auto", "serial", "threads", "processes")
ExecutorLike = (
    Literal["auto", "serial", "threads", "processes"]
    | futures.Executor
    | Callable[[], futures.Executor]
    | None
)

# Processes that nobody has asked for anything end after so many seconds.
_IDLE_SECONDS = 300
# One worker a core: an engine's own threads, or those of a BLAS, would fight over them.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclasses.dataclass
class Workers:
    """An executor, and what one may do with it.

    Attributes
    ----------
    executor
        Where work is handed in.
    count
        How many workers it has, as far as it tells.
    shares_memory
        Its workers are threads of this process: nothing needs to be pickled.
    same_machine
        Its workers are known to read the files of this machine.
    renew
        Gives a fresh executor in the place of a broken one.
    stop
        ``stop(executor, futures)`` ends what is still running, as far as that can be done at once.
    """

    executor: futures.Executor
    count: int
    shares_memory: bool
    same_machine: bool
    renew: Callable[[], futures.Executor]
    stop: Callable[[futures.Executor, list[futures.Future[Any]]], None]


def check_executor(executor: Any) -> None:
    """Raise for what is no executor and names none."""
    named = isinstance(executor, str) and executor in NAMED
    if not (named or executor is None or hasattr(executor, "submit") or callable(executor)):
        raise TypeError(
            f"executor must be one of {NAMED}, a concurrent.futures.Executor, a function that "
            f"makes one, or None, got {executor!r}"
        )


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def workers(executor: ExecutorLike) -> Iterator[Workers]:
    """An executor by name or as given; one that is made here is also closed here."""
    if executor == "threads":
        pool = futures.ThreadPoolExecutor(cores(), thread_name_prefix="foldopt")
        try:
            yield Workers(pool, cores(), True, False, lambda: pool, _cancel)
        finally:
            # A thread inside an engine cannot be interrupted, and is not waited for.
            pool.shutdown(wait=False, cancel_futures=True)
    elif executor == "processes":
        # They stay for the next batch: starting them takes seconds.
        yield Workers(_processes(), cores(), False, True, _processes, _kill)
    elif hasattr(executor, "submit"):
        # A broken pool of the user's cannot be mended. It had processes, and so we take some.
        yield _described(executor, _processes)
    else:
        assert callable(executor)
        yield _described(executor(), executor)


def _described(given: Any, renew: Callable[[], futures.Executor]) -> Workers:
    if not hasattr(given, "submit"):
        raise TypeError(
            "executor: the function must return a concurrent.futures.Executor, and returned "
            f"{type(given).__name__}"
        )
    count = getattr(given, "_max_workers", None)
    threads = isinstance(given, futures.ThreadPoolExecutor)
    count = count if isinstance(count, int) and count > 0 else cores()
    return Workers(given, count, threads, False, renew, _cancel)


def _processes() -> futures.Executor:
    try:
        import loky
    except ImportError as error:
        raise ImportError(
            "executor='processes' needs the package loky: pip install loky (or pass an executor "
            "of your own, such as concurrent.futures.ProcessPoolExecutor())"
        ) from error
    return loky.get_reusable_executor(cores(), timeout=_IDLE_SECONDS, env=_ONE_THREAD)


def _cancel(executor: futures.Executor, running: list[futures.Future[Any]]) -> None:
    for future in running:
        future.cancel()


def _kill(executor: Any, running: list[futures.Future[Any]]) -> None:
    # Their futures end by themselves. One that is cancelled before trips loky's manager, which
    # then leaves a worker behind, and Python waiting for it at its end.
    executor.shutdown(wait=True, kill_workers=True)


# -- from here to another process ---------------------------------------------------------------


def pack(function: Callable[..., Any]) -> bytes:
    """A function as bytes, closures and lambdas too: not every executor pickles those itself."""
    try:
        import cloudpickle as pickler
    except ImportError:
        pickler = pickle
    try:
        return pickler.dumps(function)
    except Exception as error:
        raise TypeError(
            f"executor: the solver cannot be sent to another process ({error}). Make what it "
            "closes over picklable (open files, models of an engine and locks are not: build them "
            "inside the function), or use executor='threads' or 'serial'"
        ) from error


@functools.lru_cache(maxsize=8)
def unpack(packed: bytes) -> Callable[..., Any]:
    """The function again; kept, since many chunks bring the same one."""
    return pickle.loads(packed)
