"""The multilabel study: trainings that coincide and resume, and measurements of them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldopt.experiments.frame import Journal
from foldopt.experiments.multilabel import cvxpy_layer, measure, training
from foldopt.experiments.multilabel.layer import layer_of
from foldopt.experiments.multilabel.plan import LOGITS, Config, adjoint_key, training_key
from tests.multilabel import OLD, SMALL, write_cifar, write_fashion


def trained(
    folder: Path, method: str = "sqp", logits: str = "sharp", config: Config = SMALL, seed: int = 0
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder, training_key(logits, method, seed))
    return training.train(config, logits, method, seed, journal)


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
