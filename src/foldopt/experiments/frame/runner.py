"""Run the jobs of a study, two at a time or more, and go on where an earlier run ended."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from foldopt import __version__
from foldopt.experiments.frame.journal import Journal, plain
from foldopt.experiments.frame.study import Job, Study

__all__ = ["FORMAT", "JobsError", "Run", "SettingsError", "run"]

FORMAT = 1
_LOOK_SECONDS = 0.5


class SettingsError(ValueError):
    """The folder is in use, or holds a run with other settings: going on would mix the two."""


class JobsError(RuntimeError):
    """Jobs of a study raised; the results of the others are kept."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A study with settings, in a folder.

    Parameters
    ----------
    study
        What is run.
    config
        Its settings.
    folder
        Where it writes: ``run.json``, a file of JSON lines for each job in ``jobs``, figures.
    """

    study: Study
    config: Any
    folder: Path

    def journal(self, job: Job) -> Journal:
        """The file of a job."""
        return Journal(self.folder / "jobs", job.key)

    @property
    def jobs(self) -> list[Job]:
        """What there is to do, those that measure time last."""
        jobs = self.study.jobs(self.config)
        keys = [job.key for job in jobs]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice or not jobs:
            raise ValueError(f"study {self.study.name}: no jobs, or two of one key: {twice}")
        return sorted(jobs, key=lambda job: job.alone)

    def results(self) -> dict[str, Any]:
        """The result of each job that is done, by key."""
        found = {job.key: self.journal(job).result for job in self.jobs}
        return {key: result for key, result in found.items() if result is not None}

    def seconds(self) -> float:
        """The working time of the jobs that are done, one after another."""
        return sum(self.journal(job).seconds for job in self.jobs)

    def done(self) -> int:
        """How much is done, in the units of ``Job.work``."""
        total = 0
        for job in self.jobs:
            journal = self.journal(job)
            total += job.work if journal.result is not None else min(job.work, journal.epochs)
        return total

    @property
    def description(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        return plain(
            {
                "format": FORMAT,
                "study": self.study.name,
                "config": dataclasses.asdict(self.config),
                "versions": _versions(self.study),
                "machine": _machine(),
            }
        )

    def claim(self) -> None:
        """Make the folder ours.

        Raises
        ------
        SettingsError
            If it holds a run of another study, or with other settings.
        """
        path = self.folder / "run.json"
        mine = self.description
        if path.exists():
            there = json.loads(path.read_text(encoding="utf-8"))
            differences = _differences(there, mine)
            if differences:
                raise SettingsError(
                    f"{self.folder} holds a run with other settings: {', '.join(differences)}. "
                    "Ask for those to go on with it, name another folder with --out, or begin "
                    "anew with --restart (the old run is kept beside it)"
                )
            return
        (self.folder / "jobs").mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")

    def move_away(self) -> Path | None:
        """Rename the folder of an old run; where there is none, nothing happens."""
        if not (self.folder / "run.json").exists():
            return None
        number = 1
        while (target := self.folder.with_name(f"{self.folder.name}.{number}")).exists():
            number += 1
        return self.folder.rename(target)


def run(given: Run, workers: int, show: Callable[[int], None] | None = None) -> None:
    """Do the jobs that are not done yet.

    Each job writes what it does to its own file, so that one that is interrupted is resumed from
    its last epoch, and one that is done is not done again. Jobs that measure time run at the end,
    in this process, with nothing beside them.

    Parameters
    ----------
    given
        The study, its settings and the folder.
    workers
        How many jobs run at once; 1: all in this process.
    show
        Called now and then with how much is done, in the units of ``Job.work``.

    Raises
    ------
    SettingsError
        If the folder holds a run with other settings.
    JobsError
        If jobs raised; all others are done first.
    ValueError
        If workers is not at least 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    given.claim()
    show = show or (lambda done: None)
    with _locked(given.folder):
        failures = _all(given, workers, show)
    if failures:
        key, error = next(iter(failures.items()))
        raise JobsError(
            f"{len(failures)} of {len(given.jobs)} jobs failed; the others are kept, and the same "
            f"command tries again. First, {key}: {type(error).__name__}: {error}"
        ) from error


def _all(given: Run, workers: int, show: Callable[[int], None]) -> dict[str, BaseException]:
    pending = [job for job in given.jobs if given.journal(job).result is None]
    beside = [job for job in pending if not job.alone] if workers > 1 else []
    failures = _side_by_side(given, beside, workers, show) if len(beside) > 1 else {}
    for job in pending:
        if given.journal(job).result is None and job.key not in failures:
            show(given.done())
            try:
                _do(given.study.work, given.config, given.journal(job))
            except Exception as error:
                failures[job.key] = error
    show(given.done())
    return failures


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the system lets go of the lock when the process ends."""
    try:
        import fcntl
    except ImportError:  # not on this system: then nobody looks
        yield
        return
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(
                f"{folder} is in use by another run. Wait for it to end, or name another folder "
                "with --out"
            ) from error
        yield


def _side_by_side(
    given: Run, jobs: Sequence[Job], workers: int, show: Callable[[int], None]
) -> dict[str, BaseException]:
    import loky  # here: whoever runs one job at a time can do without

    # An executor of our own: the shared one may be in use by a solver.
    crew = loky.ProcessPoolExecutor(
        min(workers, len(jobs)),
        initializer=_follow,
        initargs=(os.getpid(),),
        env={"OMP_NUM_THREADS": "1"},
    )
    running = {
        crew.submit(_do, given.study.work, given.config, given.journal(job)): job for job in jobs
    }
    try:
        waiting = set(running)
        while waiting:
            _, waiting = futures.wait(waiting, timeout=_LOOK_SECONDS)
            show(given.done())
    except BaseException:
        # Ctrl-C, most likely. What has been written stays.
        crew.shutdown(wait=True, kill_workers=True)
        raise
    crew.shutdown(wait=True)
    errors = {job.key: future.exception() for future, job in running.items()}
    return {key: error for key, error in errors.items() if error is not None}


def _do(work: Callable[..., dict[str, Any]], config: Any, journal: Journal) -> None:
    """One job, in whatever process."""
    begin = time.perf_counter()
    journal.begin()
    with _one_thread():
        result = work(config, journal.key, journal)
    journal.finish(result, time.perf_counter() - begin)


def _follow(parent: int) -> None:
    """Have this worker end with the process that began the run: killed, it could not say so."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: jobs run side by side, and sums come out the same on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _differences(there: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    if there.get("study") != mine["study"] or there.get("format") != mine["format"]:
        return [f"study {there.get('study')}, format {there.get('format')}"]
    old, new = there["config"], mine["config"]
    return [
        f"{name} {old.get(name)} (asked for: {new.get(name)})"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _versions(study: Study) -> dict[str, str]:
    modules = importlib.metadata.packages_distributions()
    found = {"python": platform.python_version(), "fold-opt": __version__}
    for module in ("torch", "numpy", *study.needs):
        name = modules.get(module, [module])[0]
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _machine() -> str:
    from foldopt.solvers._run.executors import cores

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.system()} {platform.machine()}, {cores()} cores, {device}"
