"""The convergence study, as ``fold-opt run convergence`` sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldopt.experiments.convergence.plan import ADJOINTS, MEASUREMENTS, PARTS, Config
from foldopt.experiments.frame import Job, Journal, Report, Study

__all__ = ["STUDY"]


def jobs(config: Config) -> list[Job]:
    """All measurements in one job, and the timings, which run alone."""
    return [Job(MEASUREMENTS, len(PARTS)), Job(ADJOINTS, alone=True)]


def work(config: Config, key: str, journal: Journal) -> dict[str, Any]:
    """Do one job; see :func:`jobs`."""
    from foldopt.experiments.convergence import measure, numbers

    if key == ADJOINTS:
        return measure.adjoints(config)
    result = measure.run(config, lambda part: journal.epoch(part=part))
    return numbers.as_numbers(result)


def report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """What came out; see :func:`~foldopt.experiments.convergence.report.write_report`."""
    from foldopt.experiments.convergence.report import write_report

    return write_report(config, results, folder)


STUDY = Study(
    name="convergence",
    question="How the backward pass converges: Figure 3, step sizes, nested loops, ρ(Φ)",
    needs=("qpsolvers", "piqp", "scipy", "matplotlib", "pypower"),
    config=Config,
    jobs=jobs,
    work=work,
    report=report,
)
