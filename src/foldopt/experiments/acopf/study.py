"""The study of optimal power flow, as ``fold-opt run acopf`` sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldopt.experiments.acopf.plan import TASK, TIMES, Config, jobs, plan
from foldopt.experiments.frame import Journal, Report, Study

__all__ = ["STUDY"]


def _work(config: Config, key: str, journal: Journal) -> dict[str, Any]:
    from foldopt.experiments.acopf import measure, training

    if key == TASK:
        return measure.look_at_task(config)
    if key == TIMES:
        return measure.time_layer(config)
    spec = next(spec for spec in plan(config) if spec.key == key)
    return training.train_one(config, spec, journal)


def _report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    from foldopt.experiments.acopf.report import report

    return report(config, results, folder)


STUDY = Study(
    name="acopf",
    question="AC optimal power flow: a grid's costs learned through the dispatch, or before it",
    needs=("scipy", "matplotlib", "pypower", "casadi"),
    config=Config,
    jobs=jobs,
    work=_work,
    report=_report,
)
