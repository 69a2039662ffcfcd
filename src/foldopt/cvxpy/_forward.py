"""The forward pass: an engine's answer to each sample, polished to rounding."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from typing import Any

import numpy as np

from foldopt.cvxpy._engines.choose import Engine
from foldopt.cvxpy._polish import Polished, polished
from foldopt.cvxpy._program import Answer, Program
from foldopt.cvxpy._system import System, systems
from foldopt.nn._messages import WEAK
from foldopt.status import Status

__all__ = ["Sample", "solve"]

# The optimality conditions hold, relative to the size of their terms: well enough for a derivative;
# roughly.
_GOOD, _POOR = 1e-9, 1e-6
_WEAK = 1e-9


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample's outcome; no program: it is not solved."""

    status: Status
    said: str = ""
    program: Program | None = None
    x: np.ndarray | None = None
    v: np.ndarray | None = None
    gauge: np.ndarray | None = None
    known: System | None = None

    @functools.cached_property
    def system(self) -> System:
        """F' at the solution: that of the last Newton step if it was taken there."""
        if self.known is not None:
            return self.known
        assert self.program is not None
        assert self.v is not None
        return systems([self.program], [self.v])[0]


def solve(programs: list[Program | None], engine: Engine, starts: list[Any]) -> list[Sample]:
    """Solve the programs; None: its data are not finite.

    With a start, Newton's method from there may be all that is needed, whatever the engine.
    """
    samples: dict[int, Sample] = {}
    todo: dict[int, Program] = {}
    for i, program in enumerate(programs):
        if program is None:
            samples[i] = Sample(Status.NONFINITE)
        else:
            todo[i] = program
    begun = {i: program for i, program in todo.items() if starts[i] is not None}
    for i, found in _all_polished(begun, {i: starts[i] for i in begun}).items():
        if found.error <= _GOOD:
            samples[i] = _sample(found, "")
            del todo[i]
    answers = dict(zip(todo, _answers(engine, todo, starts), strict=True))
    ends = {}
    for i, answer in answers.items():
        if answer.x is None or answer.v is None:
            samples[i] = Sample(Status(answer.status), answer.said)
        elif not (np.isfinite(answer.x).all() and np.isfinite(answer.v).all()):
            samples[i] = Sample(Status.FAILED, answer.said)
        else:
            ends[i] = (answer.x, answer.v)
    for i, found in _all_polished({i: todo[i] for i in ends}, ends).items():
        samples[i] = _judged(answers[i], found)
    left = [i for i in todo if samples[i].program is None or samples[i].said]
    if engine.second is not None and left:
        others = solve([programs[i] for i in left], engine.second, [None] * len(left))
        samples |= dict(zip(left, others, strict=True))
    return [samples[i] for i in range(len(programs))]


def _all_polished(
    programs: dict[int, Program], ends: dict[int, tuple[np.ndarray, np.ndarray]]
) -> dict[int, Polished]:
    found = polished(
        list(programs.values()),
        [ends[i][0] for i in programs],
        [ends[i][1] for i in programs],
    )
    return dict(zip(programs, found, strict=True))


def _answers(engine: Engine, programs: dict[int, Program], starts: list[Any]) -> list[Answer]:
    begin = [starts[i] for i in programs]
    workers = min(len(programs), os.cpu_count() or 1)
    if workers < 2 or not engine.threads:
        return list(map(engine, programs.values(), begin))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(engine, programs.values(), begin))


def _judged(answer: Answer, found: Polished) -> Sample:
    if found.error <= _GOOD:
        return _sample(found, "")
    if answer.status == Status.CONVERGED and found.error <= _POOR:
        return _sample(found, answer.said)
    status = Status(answer.status)
    status = Status.INACCURATE if status == Status.CONVERGED else status
    said = f"{answer.said}; the optimality conditions hold to {found.error:.1e} only"
    return Sample(status, said)


def _sample(found: Polished, said: str) -> Sample:
    program, v = found.program, found.v
    linear = v[program.cones.zero : program.cones.linear]
    weak = bool((np.abs(linear) <= _WEAK * (1 + np.abs(v).max(initial=0.0))).any())
    said = said or (WEAK if weak else "")
    return Sample(Status.CONVERGED, said, program, found.x, v, found.gauge, found.system)
