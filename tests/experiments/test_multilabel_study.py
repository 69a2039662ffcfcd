"""The multilabel study: trainings that coincide and resume, measurements, and the report."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldopt.experiments.frame import Journal
from foldopt.experiments.frame.runner import Run, run
from foldopt.experiments.multilabel import cvxpy_layer, measure, training
from foldopt.experiments.multilabel.curves import Gap, curves, gap, steps, summary
from foldopt.experiments.multilabel.figures import draw_curves, draw_steps
from foldopt.experiments.multilabel.layer import layer_of
from foldopt.experiments.multilabel.plan import (
    LOGITS,
    METHODS,
    Config,
    adjoint_key,
    jobs,
    training_key,
)
from foldopt.experiments.multilabel.report import verdict
from foldopt.experiments.multilabel.study import STUDY, work
from tests.experiments.test_multilabel_data import write_cifar, write_fashion

SMALL = Config(
    seeds=1, epochs=3, train=128, test=50, batch_size=32, cvxpylayers_seeds=0, compared=2
)
OLD = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def trained(
    folder: Path, method: str = "sqp", logits: str = "sharp", config: Config = SMALL, seed: int = 0
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder, training_key(logits, method, seed))
    return training.train(config, logits, method, seed, journal)


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


# -- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("logits", LOGITS)
def test_the_folds_train_as_the_closed_form_does(logits: str, tmp_path: Path) -> None:
    exact, pgd, sqp = (trained(tmp_path, name, logits) for name in ("exact", "pgd", "sqp"))
    assert np.allclose(pgd["steps"], exact["steps"], atol=1e-5)
    assert np.allclose(sqp["steps"], exact["steps"], atol=1e-5)
    assert len(exact["steps"]) == 3 * 4
    assert exact["curve"][-1]["loss"] < exact["curve"][1]["loss"]
    for found in (pgd, sqp):
        assert found["certificate"]["differentiated"] == 3 * 128
        assert found["certificate"]["masked"] == 0
        assert found["certificate"]["backward"] < 1e-8


def test_a_disturbed_gradient_is_a_little_off(tmp_path: Path) -> None:
    exact, off = (trained(tmp_path, name) for name in ("exact", "disturbed"))
    assert np.allclose(off["steps"], exact["steps"], atol=1e-3)
    assert off["steps"] != exact["steps"]


def test_at_the_papers_logits_it_is_cross_entropy(tmp_path: Path) -> None:
    """The loss of an untrained network that predicts nothing is log n − log k = log 20."""
    found = trained(tmp_path, "exact", "normalised")
    assert abs(found["steps"][0] - math.log(20)) < 0.1
    assert all(entry["active"] == 0 for entry in found["curve"])


def test_an_interrupted_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole")
    kept = Journal.epoch

    def interrupted(self: Journal, **metrics: Any) -> None:
        kept(self, **metrics)
        if self.epochs == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts")
    monkeypatch.undo()
    assert trained(tmp_path / "parts") == whole
    lines = list(Journal(tmp_path / "parts", training_key("sharp", "sqp", 0)).lines())
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_another_seed_is_another_training(tmp_path: Path) -> None:
    assert trained(tmp_path, seed=0)["steps"] != trained(tmp_path, seed=1)["steps"]


@OLD
def test_cvxpylayers_trains_nearly_so(tmp_path: Path) -> None:
    if (lacking := cvxpy_layer.missing()) is not None:
        pytest.skip(lacking)
    config = dataclasses.replace(
        SMALL, epochs=1, train=64, batch_size=16, cvxpylayers_seeds=1, cvxpylayers_epochs=1
    )
    own, exact = (trained(tmp_path, name, "sharp", config) for name in ("cvxpylayers", "exact"))
    assert np.allclose(own["steps"], exact["steps"], atol=1e-3)
    assert own["steps"] != exact["steps"]  # it did have a derivative of its own
    assert 0 < own["distance"] < 1e-2
    assert own["failed"] == 0


def test_without_cvxpylayers_the_training_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "missing", lambda: "cvxpy is not there")
    assert trained(tmp_path, "cvxpylayers") == {"missing": "cvxpy is not there"}


def test_that_cvxpylayers_diverges_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        """A stand-in whose derivative is NaN."""

        failed, distance = 0, 0.0

        def __init__(self, n: int, k: int) -> None:
            self.layer = layer_of("closed form", k)

        def __call__(self, c: Any) -> Any:
            return self.layer(c * math.nan) if c.requires_grad else self.layer(c)

    monkeypatch.setattr(training, "missing", lambda: None)
    monkeypatch.setattr(training, "CvxpyTopK", Broken)
    config = dataclasses.replace(SMALL, cvxpylayers_seeds=1)
    found = trained(tmp_path, "cvxpylayers", "raw", config)
    assert found["diverged"] == 1
    assert len(found["curve"]) == 1


def test_a_training_that_diverges_is_stopped(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, learning_rate=1e9, epochs=2)
    with pytest.raises(ValueError, match="loss of raw-exact-seed-0 is not finite in epoch"):
        trained(tmp_path, "exact", "raw", config)


@pytest.mark.parametrize("source", ["fashion-mnist", "cifar100"])
def test_other_images_and_a_convolutional_network(source: str, tmp_path: Path) -> None:
    write_fashion(tmp_path)
    write_cifar(tmp_path)
    config = dataclasses.replace(
        SMALL, data=source, data_dir=str(tmp_path), network="cnn", train=64, test=20, epochs=1
    )
    found = trained(tmp_path, "sqp", "sharp", config)
    assert len(found["curve"]) == 2
    assert found["certificate"]["differentiated"] == 64
    with np.load(tmp_path / "sharp-sqp-seed-0.npz") as kept:
        assert kept["logits"].shape == (20, 100)


# -- measurements -----------------------------------------------------------------------------


@OLD
def test_the_gradients_of_all_methods(tmp_path: Path) -> None:
    found = measure.gradients(SMALL, Journal(tmp_path, "gradients"))
    assert found["raw"]["active"] > 0
    assert found["normalised"]["active"] == 0
    for logits in LOGITS:
        rows = found[logits]["methods"]
        assert rows["closed form"]["loss"] == [0, 0]
        for name in ("f-PGDa", "f-SQP"):
            assert max(rows[name]["loss"] + rows[name]["random"]) < 1e-9
        if found["missing"] is None:
            assert 0 < rows["cvxpylayers"]["random"][0] < 1e-2


def test_adjoints_need_what_the_trainings_leave(tmp_path: Path) -> None:
    journal = Journal(tmp_path, adjoint_key("sharp"))
    with pytest.raises(FileNotFoundError, match="the training sharp-pgd-seed-0 leaves behind"):
        measure.adjoints(SMALL, "sharp", journal)
    for method in ("pgd", "sqp"):
        trained(tmp_path, method)
    found = measure.adjoints(SMALL, "sharp", journal)
    assert found["sqp"]["worst"] < 1e-10
    assert found["sqp"]["solvers"]["Auto"]["products"] == 1
    for method in ("pgd", "sqp"):
        assert found[method]["solvers"]["Dense"]["error"] < 1e-9
    # ρ(Φ) is |1 − α/x| at its largest, and so above 1 where x is small.
    assert found["least"] < 0.0125
    assert found["pgd"]["worst"] > 1


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
