"""The multilabel study, as ``fold-opt run multilabel`` sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldopt.experiments.frame import Journal, Report, Study
from foldopt.experiments.multilabel.plan import (
    GRADIENTS,
    LOGITS,
    METHODS,
    Config,
    adjoint_key,
    jobs,
    training_key,
)

__all__ = ["STUDY"]


def work(config: Config, key: str, journal: Journal) -> dict[str, Any]:
    """Do one job."""
    from foldopt.experiments.multilabel import measure, training

    if key == GRADIENTS:
        return measure.gradients(config, journal)
    for logits in LOGITS:
        if key == adjoint_key(logits):
            return measure.adjoints(config, logits, journal)
        for method in METHODS:
            for seed in config.trained_seeds(method):
                if key == training_key(logits, method, seed):
                    return training.train(config, logits, method, seed, journal)
    raise ValueError(f"multilabel: there is no job {key!r} with these settings")


def report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """Say what came out."""
    from foldopt.experiments.multilabel.report import write

    return write(config, results, folder)


STUDY = Study(
    name="multilabel",
    question="Multilabel classification: do three derivatives of a top-k layer train alike?",
    needs=("matplotlib", "scipy", "sklearn"),
    config=Config,
    jobs=jobs,
    work=work,
    report=report,
)
