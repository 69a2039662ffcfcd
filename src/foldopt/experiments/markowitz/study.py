"""The study of portfolios on real prices, as ``fold-opt run markowitz`` sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldopt.experiments.frame import Job, Journal, Report, Study
from foldopt.experiments.markowitz.plan import (
    ADJOINTS,
    FOLDED,
    TWO_STAGE,
    UNTRAINED,
    Config,
    training_key,
)

__all__ = ["STUDY"]


def jobs(config: Config) -> list[Job]:
    """A job for each network, one for the strategies without training, and the timings.

    Parameters
    ----------
    config
        The settings.

    Returns
    -------
    list of Job
        The folded trainings, which take longest, first.

    Examples
    --------
    >>> [job.key for job in jobs(Config(seeds=1))]
    ['folded-seed-0', 'two-stage-seed-0', 'untrained', 'adjoints']
    """
    trainings = [
        Job(training_key(loss, seed), config.epochs)
        for loss in (FOLDED, TWO_STAGE)
        for seed in range(config.seeds)
    ]
    return [*trainings, Job(UNTRAINED), Job(ADJOINTS, alone=True)]


def work(config: Config, key: str, journal: Journal) -> dict[str, Any]:
    """Do one job; see :func:`jobs`."""
    from foldopt.experiments.markowitz import training

    if key == UNTRAINED:
        return training.follow_untrained(config)
    if key == ADJOINTS:
        return training.measure_adjoints(config, journal)
    keys = {
        training_key(loss, seed): (loss, seed)
        for loss in (FOLDED, TWO_STAGE)
        for seed in range(config.seeds)
    }
    return training.train_one(config, *keys[key], journal)


def report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """What came out; see :func:`~foldopt.experiments.markowitz.report.write_report`."""
    from foldopt.experiments.markowitz.report import write_report

    return write_report(config, results, folder)


STUDY = Study(
    name="markowitz",
    question="S&P 500 portfolios: a network trained on regret against one trained on error",
    needs=("qpsolvers", "piqp", "scipy", "matplotlib", "skfolio"),
    config=Config,
    jobs=jobs,
    work=work,
    report=report,
)
