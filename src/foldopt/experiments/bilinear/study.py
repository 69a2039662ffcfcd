"""The bilinear study, as ``fold-opt run bilinear`` sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldopt.experiments.bilinear.plan import ADJOINTS, CHECKS, GRADIENTS, Config, jobs
from foldopt.experiments.frame import Journal, Report, Study

__all__ = ["STUDY"]


def work(config: Config, key: str, journal: Journal) -> dict[str, Any]:
    """Do one job; see :func:`jobs`."""
    from foldopt.experiments.bilinear import checks, gradients, training

    if key == CHECKS:
        return checks.check(config, journal)
    if key == GRADIENTS:
        return gradients.compare_losses(config, journal)
    if key == ADJOINTS:
        return gradients.measure_adjoints(config, journal)
    _, seed, _, repetition = key.split("-")
    return training.train_all(config, int(seed), int(repetition), journal)


def report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """What came out; see :func:`~foldopt.experiments.bilinear.report.write_report`."""
    from foldopt.experiments.bilinear.report import write_report

    return write_report(config, results, folder)


STUDY = Study(
    name="bilinear",
    question="Nonconvex bilinear decisions: regret against error, global optima, the need for ε",
    needs=("scipy", "matplotlib", "pyscipopt", "loky"),
    config=Config,
    jobs=jobs,
    work=work,
    report=report,
)
