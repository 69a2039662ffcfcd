"""Samples to workers and answers back, in order, whatever happens to a worker."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import dataclasses
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from foldopt.solvers._run.executors import ExecutorLike, Workers, cores, pack, unpack, workers
from foldopt.solvers._run.stored import Stored, stored

__all__ = ["Failure", "Task", "solve_all"]

_log = logging.getLogger(__name__)

# "auto" begins in this thread, and calls for help when what is left is worth it: threads cost
# tens of microseconds, processes seconds where they have to be started.
_THREADS_PAY = 2e-3
_PROCESSES_PAY = 1.0
# DAQP on dense programs of 100 variables takes in 150 MB/s, and two processes gain 1.5 on one where
# two threads gain 1.7; Clarabel, HiGHS and SCS on smaller ones stay below 20 MB/s, and gain more.
_TOO_MUCH = 6e7
# A chunk is as much work as makes the way to a worker and back cheap, yet several for each worker
# as long as there are enough samples: the last to finish then finishes early.
_CHUNKS_A_WORKER = 4


@dataclasses.dataclass(frozen=True)
class Failure:
    """A sample without an answer.

    Attributes
    ----------
    message
        One line: what was raised, or that its process died.
    missing
        A package was missing: no sample can do without it.
    """

    message: str
    missing: bool = False


@dataclasses.dataclass(frozen=True)
class Task:
    """A function of one sample, and the samples.

    Attributes
    ----------
    one
        ``one(*arguments)`` or, where there is a start, ``one(*arguments, start=start)``.
    columns
        One for each argument.
    batched
        Which columns have a row for each sample; the others are the same for all.
    starts
        A start for each sample, or None.
    """

    one: Callable[..., Any]
    columns: tuple[Any, ...]
    batched: tuple[bool, ...]
    starts: Sequence[Any]

    def __len__(self) -> int:
        return len(self.starts)

    def part(self, where: list[int]) -> Part:
        """What some samples are made of."""
        # A run of samples is one slice of each column: a few large arrays to send, not many small.
        run = len(where) > 1 and where == list(range(where[0], where[-1] + 1))
        taken: Any = slice(where[0], where[-1] + 1) if run else where
        columns = tuple(
            column.rows(where[0], where[-1] + 1)
            if isinstance(column, Stored)
            else column[taken]
            if own
            else column
            for column, own in zip(self.columns, self.batched, strict=True)
        )
        return columns, self.batched, [self.starts[i] for i in where]


# Columns with a row for each sample or shared by all; which is which; a start for each sample.
Part = tuple[tuple[Any, ...], tuple[bool, ...], list[Any]]


def solve_all(task: Task, executor: ExecutorLike, releases_gil: bool) -> list[Any]:
    """An answer or a :class:`Failure` for each sample, in order."""
    answers: list[Any] = [None] * len(task)
    todo = list(range(len(task)))
    if executor is None or executor == "serial" or executor == "auto":
        # "auto" hands the rest over once it knows what a sample costs.
        pays = None if executor != "auto" else _THREADS_PAY if releases_gil else _PROCESSES_PAY
        begin = time.perf_counter()
        todo = _here(task, answers, pays)
        executor = "threads" if releases_gil else "processes"
        if releases_gil and len(todo) < len(task):
            # Our own part of the work holds the lock: for long batches processes gain more, unless
            # they have more to read than to do.
            each = (time.perf_counter() - begin) / (len(task) - len(todo))
            long = each * len(todo) > _PROCESSES_PAY and _bytes_a_second(task, each) < _TOO_MUCH
            long = long and find_spec("loky") is not None
            executor = "processes" if long else "threads"
    if todo:
        with workers(executor) as crew:
            near = stored(task.columns, task.batched) if crew.same_machine else None
            with near or contextlib.nullcontext(task.columns) as columns:
                task = dataclasses.replace(task, columns=columns)
                _Batch(task, crew, answers).run(todo)
    return answers


def _bytes_a_second(task: Task, each: float) -> float:
    """How fast a worker takes in data, where a sample takes it so many seconds."""
    own = [column for column, own in zip(task.columns, task.batched, strict=True) if own]
    return sum(getattr(column, "nbytes", 0) for column in own) / len(task) / each


def _here(task: Task, answers: list[Any], pays: float | None) -> list[int]:
    """Solve in this thread; with ``pays``, only as long as help would not: the rest comes back."""
    begin = time.perf_counter()
    count = len(task)
    for sample in range(count):
        answers[sample] = _solve(task.one, task.part([sample]))[0]
        if pays is not None and cores() > 1 and sample + 1 < count:
            each = (time.perf_counter() - begin) / (sample + 1)
            if each * (count - sample - 1) > pays:
                return list(range(sample + 1, count))
    return []


@dataclasses.dataclass
class _Batch:
    """One batch on its way through an executor."""

    task: Task
    crew: Workers
    answers: list[Any]

    def run(self, todo: list[int]) -> None:
        size = max(1, math.ceil(len(todo) / (_CHUNKS_A_WORKER * self.crew.count)))
        chunks = [todo[i : i + size] for i in range(0, len(todo), size)]
        lost = self._submit(chunks)
        # One dead process takes all work down that its executor had in hand. Each lost chunk goes
        # again, alone; then each sample of a chunk that is lost again. Who is lost alone, did it.
        for chunk, _ in lost:
            again = self._submit([chunk])
            if again and len(chunk) > 1:
                again = [end for sample in chunk for end in self._submit([[sample]])]
            for (sample,), why in again:
                self.answers[sample] = Failure(
                    f"its worker died ({why}): the solver crashed, or memory ran out"
                )

    def _submit(self, chunks: list[list[int]]) -> list[tuple[list[int], str]]:
        """Have chunks solved; those whose worker was lost come back, with the reason."""
        lost, broken = [], False
        running: list[tuple[list[int], futures.Future[Any]]] = []
        function = self.task.one if self.crew.shares_memory else self._packed
        halt = threading.Event() if self.crew.shares_memory else None
        try:
            for chunk in chunks:
                # Dask names work by a hash of it, and answers what it has seen by what it found,
                # the death of a worker included: without a name of its own a retry runs nothing.
                name = uuid.uuid4().hex
                work = (_solve, function, self.task.part(chunk), halt, name)
                try:
                    running.append((chunk, self.crew.executor.submit(*work)))
                except futures.BrokenExecutor as error:
                    broken = True
                    lost.append((chunk, type(error).__name__))
            for chunk, future in running:
                try:
                    found = future.result()
                except Exception as error:
                    # What the solver raises is caught where it runs: this is the executor's.
                    broken |= isinstance(error, futures.BrokenExecutor)
                    lost.append((chunk, type(error).__name__))
                    continue
                for sample, answer in zip(chunk, found, strict=True):
                    self.answers[sample] = answer
        except BaseException:
            # Ctrl-C, most likely: nothing that has not begun begins now.
            if halt is not None:
                halt.set()
            self.crew.stop(self.crew.executor, [future for _, future in running])
            raise
        if lost:
            _log.warning(
                "%d of %d chunks lost their worker: %s", len(lost), len(chunks), lost[0][1]
            )
        if broken:
            self.crew.executor = self.crew.renew()
        return lost

    @property
    def _packed(self) -> bytes:
        if "packed" not in self.__dict__:
            self.__dict__["packed"] = pack(self.task.one)
        return self.__dict__["packed"]


def _named(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _solve(
    one: Callable[..., Any] | bytes,
    part: Part,
    halt: threading.Event | None = None,
    name: str = "",
) -> list[Any]:
    """Some samples, one after another, until told to halt; runs where the work is done.

    ``name`` sets this piece of work apart from others like it, and is not read.
    """
    if isinstance(one, bytes):
        one = unpack(one)
    columns, batched, starts = part
    columns = [column.load() if isinstance(column, Stored) else column for column in columns]
    answers = []
    for row, start in enumerate(starts):
        if halt is not None and halt.is_set():
            break
        arguments = [
            column[row] if own else column for column, own in zip(columns, batched, strict=True)
        ]
        try:
            answers.append(one(*arguments) if start is None else one(*arguments, start=start))
        except Exception as error:
            _log.debug("the solver raised", exc_info=True)
            missing = isinstance(error, ImportError)
            answers.append(Failure(_named(error), missing))
    return answers
