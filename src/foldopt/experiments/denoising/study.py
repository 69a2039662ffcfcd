"""The denoising study, as ``fold-opt run denoising`` sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldopt.experiments.denoising.plan import Config, jobs, tasks
from foldopt.experiments.frame import Journal, Report, Study

__all__ = ["STUDY"]


def work(config: Config, key: str, journal: Journal) -> dict[str, Any]:
    """Do the job of a key."""
    from foldopt.experiments.denoising import photograph, speed, training

    task = tasks(config)[key]
    if task.kind == "image":
        return photograph.learn(config, task.seed, journal)
    if task.kind == "fixed":
        return training.find_best_weight(config, task.case.sigma, task.seed, journal)
    if task.kind == "speed":
        return speed.measure(config, task, journal)
    return training.learn(config, task, journal)


def report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """What came out."""
    from foldopt.experiments.denoising.report import report

    return report(config, results, folder)


STUDY = Study(
    name="denoising",
    question="Can total variation learn what to penalise, and how much faster than qpth?",
    needs=("scipy", "matplotlib", "sklearn"),
    config=Config,
    jobs=jobs,
    work=work,
    report=report,
)
