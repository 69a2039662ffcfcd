"""The multilabel study: settings, jobs, figures and the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldopt.experiments.frame import Journal
from foldopt.experiments.frame.runner import Run, run
from foldopt.experiments.multilabel.curves import Gap, curves, gap, steps, summary
from foldopt.experiments.multilabel.figures import draw_curves, draw_steps
from foldopt.experiments.multilabel.plan import LOGITS, METHODS, Config, jobs, training_key
from foldopt.experiments.multilabel.report import verdict
from foldopt.experiments.multilabel.study import STUDY, work
from tests.multilabel import OLD, SMALL

# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": "mnist"}, "data must be one of digits"),
        ({"network": "resnet"}, "network must be one of auto"),
        ({"data": "cifar100"}, "needs data_dir"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"train": 10}, "train must be at least 64"),
        ({"cvxpylayers_epochs": -1}, "cvxpylayers_epochs must be at least 0"),
        ({"k": 100}, "k must be from 1 to 99"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"noise": 1.5}, "noise must be from 0 to 1"),
        ({"momentum": 1.0}, "momentum must be from 0 to below 1"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Config(**change)


def test_the_jobs() -> None:
    config = Config(seeds=3, seed=5, epochs=4, cvxpylayers_seeds=2, cvxpylayers_epochs=9)
    keys = [job.key for job in jobs(config)]
    assert len(keys) == len(set(keys)) == 3 * (4 * 3 + 2) + 1 + 3
    assert "raw-cvxpylayers-seed-6" in keys
    assert "raw-cvxpylayers-seed-7" not in keys
    assert {job.work for job in jobs(config) if "cvxpylayers" in job.key} == {4}
    without = dataclasses.replace(config, cvxpylayers_epochs=0)
    assert not any("cvxpylayers" in job.key for job in jobs(without))


def test_an_unknown_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no job 'sharp-sqp-seed-7'"):
        work(SMALL, "sharp-sqp-seed-7", Journal(tmp_path, "x"))


# -- the report -------------------------------------------------------------------------------


def made_up(config: Config, off: float = 0.0) -> dict[str, Any]:
    """Results in which cvxpylayers is off by so much."""
    found = {}
    for logits in LOGITS:
        for method in METHODS:
            for seed in config.trained_seeds(method):
                away = off if method == "cvxpylayers" else 0.0
                names = ("train top-1", "train top-5", "test top-1", "test top-5")
                found[training_key(logits, method, seed)] = {
                    "curve": [
                        dict.fromkeys(names, 0.1 * epoch + away) | {"loss": None if not epoch
                         else 1 / epoch + seed, "active": 0.0, "largest": 0.1}
                        for epoch in range(config.trained_epochs(method) + 1)
                    ],
                    "steps": [1.0 + away, 0.5],
                }  # fmt: skip
    return found


CONFIG = Config(seeds=2, epochs=3, cvxpylayers_seeds=1, cvxpylayers_epochs=1)


def test_curves_and_gaps() -> None:
    results = made_up(CONFIG, off=0.25)
    loss = curves(CONFIG, results, "raw", "pgd", "loss")
    assert loss.shape == (2, 4)
    assert np.isnan(loss[:, 0]).all()
    assert loss[1, 1:].tolist() == [2.0, 1.5, 1 / 3 + 1]
    assert steps(CONFIG, results, "raw", "cvxpylayers").tolist() == [[1.25, 0.5]]
    assert gap(CONFIG, results, "raw", "cvxpylayers") == Gap(0.25, 2, 0.25, 0.25, 1)
    assert gap(CONFIG, results, "raw", "sqp") == Gap(0.0, 2, 0.0, 0.0, 3)
    assert gap(CONFIG, results, "raw", "sqp", epochs=2) == Gap(0.0, 2, 0.0, 0.0, 2)
    without = dataclasses.replace(CONFIG, cvxpylayers_seeds=0)
    assert gap(without, results, "raw", "cvxpylayers") is None
    assert summary(without, results, "raw", "cvxpylayers", "loss") is None
    results[training_key("raw", "cvxpylayers", 0)] = {"missing": "cvxpy is not there"}
    assert gap(CONFIG, results, "raw", "cvxpylayers") is None
    mean = summary(CONFIG, results, "raw", "pgd", "loss")
    assert mean is not None
    assert mean.mean == pytest.approx(1 / 3 + 0.5)


def gaps_of(config: Config, **off: float) -> dict[tuple[str, str], Gap | None]:
    return {
        (logits, method): Gap(0, 9, off.get(logits, 0) * (method == "cvxpylayers"), 0, 2)
        for logits in LOGITS
        for method in ("pgd", "sqp", "cvxpylayers")
    }


def test_the_verdict() -> None:
    paper = dataclasses.replace(CONFIG, data="cifar100", data_dir=".")
    still: dict[str, Gap | None] = dict.fromkeys(LOGITS, Gap(0, 9, 0, 0, 2))

    def of(config: Config, **off: float) -> tuple[str, str]:
        return verdict(config, gaps_of(config, **off), still)

    assert of(paper)[0] == "reproduced"
    judged, why = of(CONFIG)
    assert judged == "partly reproduced"
    assert "not the paper's" in why
    judged, why = of(paper, raw=0.03)
    assert judged == "partly reproduced"
    assert "3.00 train" in why
    assert "where no bound is active, they cannot be told apart" in why
    assert "more than the sensitivity of training" in why
    shaky = still | {"raw": Gap(0, 9, 0.02, 0.01, 2)}
    assert "and not the method's" in verdict(paper, gaps_of(paper, raw=0.03), shaky)[1]
    assert of(paper, normalised=0.03)[0] == "not reproduced"
    alone = {key: None if key[1] == "cvxpylayers" else of for key, of in gaps_of(paper).items()}
    judged, why = verdict(paper, alone, still)
    assert judged == "partly reproduced"
    assert "one of the three curves is missing" in why
    assert of(dataclasses.replace(paper, network="mlp"))[0] == "partly reproduced"


def test_the_figures(tmp_path: Path) -> None:
    for name, draw in (("curves", draw_curves), ("steps", draw_steps)):  # with cvxpylayers' too
        draw(CONFIG, made_up(CONFIG, 1e-3), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@OLD
def test_a_run_and_its_report(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, epochs=1, train=64, test=20, batch_size=16)
    given = Run(STUDY, config, tmp_path / "multilabel")
    run(given, workers=1)
    results = given.results()
    said = STUDY.report(config, results, given.folder)
    assert said.verdict == "partly reproduced"
    assert "paper): 0.00 train, 0.00 test" in said.why
    titles = [table.title for table in said.tables]
    assert "The adjoint system of the trained layer" in titles
    assert "Certificates: what the folds said of themselves in training" in titles
    assert len(said.tables[titles.index("After the last epoch")].rows) == 12
    assert any("cross-entropy − log k" in line for line in said.findings)
    for figure in said.figures:
        assert (given.folder / figure.file).stat().st_size > 10_000
