"""A study: its settings, its jobs, and where the work and the report are written."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foldopt.experiments.frame.journal import Journal
from foldopt.experiments.frame.report import Report

__all__ = ["Job", "Study", "option", "quickly", "studies"]

PACKAGE = "foldopt.experiments"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def option(default: Any, help: str, *, quick: Any = None) -> Any:
    """A field of a study's config, which becomes a flag of its command.

    Parameters
    ----------
    default
        Its value.
    help
        One line for ``--help``.
    quick
        Its value under ``--quick``; None: the same.

    Returns
    -------
    Any
        A dataclass field.

    Examples
    --------
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     epochs: int = option(30, "Passes over the training data.", quick=2)
    >>> Config(), quickly(Config)
    (Config(epochs=30), {'epochs': 2})
    """
    return dataclasses.field(default=default, metadata={"help": help, "quick": quick})


def quickly(config: type) -> dict[str, Any]:
    """The settings that ``--quick`` changes, and to what."""
    found = {field.name: field.metadata.get("quick") for field in dataclasses.fields(config)}
    return {name: value for name, value in found.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Job:
    """One training or one measurement: what is resumed, and what a worker is given.

    Parameters
    ----------
    key
        Its name, unique in the study and fit for a file name.
    work
        How often it will call :meth:`Journal.epoch`, for the progress bar.
    alone
        It measures time: it runs after all others, with nothing beside it.
    """

    key: str
    work: int = 1
    alone: bool = False

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise ValueError(
                f"Job: key {self.key!r} names a file; use letters, digits, '-', '_' and '.', and "
                "begin with a letter or digit"
            )
        if self.work < 1:
            raise ValueError(f"Job: work must be at least 1, got {self.work}")


@dataclasses.dataclass(frozen=True)
class Study:
    """A study, as the command and the report see it.

    Parameters
    ----------
    name
        What ``fold-opt run`` calls it.
    question
        What it asks, in a line.
    needs
        Modules that it cannot do without.
    config
        A frozen dataclass: every field has a default, by :func:`option`.
    jobs
        ``jobs(config)``: what there is to do.
    work
        ``work(config, key, journal)`` does one job and returns its result, which must be what
        JSON can hold. It runs in a process of its own.
    report
        ``report(config, results, folder)``: what came out, from the result of each job by its key.
        It draws its figures into the folder.
    """

    name: str
    question: str
    needs: tuple[str, ...]
    config: type
    jobs: Callable[[Any], list[Job]]
    work: Callable[[Any, str, Journal], dict[str, Any]]
    report: Callable[[Any, dict[str, Any], Path], Report]


def studies() -> dict[str, Study]:
    """All studies by name: each folder of ``foldopt.experiments`` that holds a ``study.py``.

    Returns
    -------
    dict of str to Study
        In alphabetical order.

    Examples
    --------
    >>> "bilinear" in studies()
    True
    """
    package = importlib.import_module(PACKAGE)
    files = [path for root in package.__path__ for path in Path(root).glob("*/study.py")]
    # The frame's own file of that name describes studies, and is none.
    names = {path.parent.name for path in files} - {"frame"}
    found = [importlib.import_module(f"{PACKAGE}.{name}.study").STUDY for name in names]
    return {study.name: study for study in sorted(found, key=lambda study: study.name)}
