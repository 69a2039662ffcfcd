"""The portfolio study, as ``fold-opt run portfolio`` sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldopt.experiments.frame import Journal, Report, Study
from foldopt.experiments.portfolio.plan import Config, jobs, plan

__all__ = ["STUDY"]


def _work(config: Config, key: str, journal: Journal) -> dict[str, Any]:
    from foldopt.experiments.portfolio.accuracy import measure
    from foldopt.experiments.portfolio.comparison import benchmarks, compare_engine
    from foldopt.experiments.portfolio.training import train_one

    spec = next(spec for spec in plan(config) if spec.key == key)
    if spec.kind == "accuracy":
        return measure(config, spec, journal)
    if spec.kind == "benchmarks":
        return benchmarks(config, spec)
    return (train_one if spec.kind == "train" else compare_engine)(config, spec, journal)


def _report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    from foldopt.experiments.portfolio.report import report

    return report(config, results, folder)


STUDY = Study(
    name="portfolio",
    question="Does a portfolio layer train better when folded than through cvxpylayers?",
    needs=("scipy", "matplotlib", "clarabel", "cvxpy", "cvxpylayers", "diffcp", "skfolio"),
    config=Config,
    jobs=jobs,
    work=_work,
    report=_report,
)
