"""The denoising study from its settings to its report, very small."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldopt.experiments.denoising import photograph, tables
from foldopt.experiments.denoising.data import draw, first_differences, split
from foldopt.experiments.denoising.layers import denoised
from foldopt.experiments.denoising.plan import Case, Config, array_file, tasks, training_key
from foldopt.experiments.denoising.study import STUDY
from foldopt.experiments.denoising.training import error
from foldopt.experiments.frame import Journal

SMALL = Config(
    seeds=1,
    samples=80,
    epochs=2,
    strong=(13.0,),
    weak=(),
    qpth_epochs=1,
    repeats=1,
    image_seeds=1,
    image_patches=4,
    image_epochs=1,
)
CASE = Case(10.0, 13.0)


def journal(folder: Path, key: str) -> Journal:
    found = Journal(folder / "jobs", key)
    found.begin()
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Every job, and what it gave."""
    folder = tmp_path_factory.mktemp("denoising")
    ordered = sorted(STUDY.jobs(SMALL), key=lambda job: job.alone)
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photograph, "_GRID", (6.0, 10.0))
        for job in ordered:
            own = journal(folder, job.key)
            results[job.key] = STUDY.work(SMALL, job.key, own)
            assert own.epochs == job.work
    return folder, results


def test_the_jobs_are_all_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [job.key for job in STUDY.jobs(Config())]
    assert len(keys) == len(set(keys))
    count = sum("folded" in key for key in keys)
    assert count == 7 * 3 * 2
    without = dataclasses.replace(Config(), qpth=False)
    assert not any("qpth" in job.key for job in STUDY.jobs(without))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert STUDY.jobs(Config()) == STUDY.jobs(without)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seeds", 0, "seeds must be at least 1, got 0"),
        ("samples", 10, "samples must be at least 40, got 10"),
        ("learning_rate", 0.0, "learning_rate must be above 0"),
        ("image_sigma", -1.0, "image_sigma must be above 0"),
        ("strong", (0.0,), "must hold λ above 0"),
        ("forms", ("round",), "forms must hold some of"),
        ("forms", (), "forms must hold some of"),
        ("image_kernels", 3, "image_kernels must be 2 or 4, got 3"),
    ],
)
def test_settings_that_make_no_sense(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Config(), **{name: value})


def test_results_are_those_of_the_learned_operator(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, results = ran
    *_, test = split(draw(0, SMALL.samples, CASE.sigma))
    for form in SMALL.forms:
        key = training_key(CASE, form, "folded", 0)
        with np.load(array_file(folder / "jobs", key)) as arrays:
            D = torch.as_tensor(arrays["D"])
        after = error(denoised(test.features, D, CASE.weight), test.truth)
        assert results[key]["after"] == pytest.approx(after, rel=1e-12)
        before = error(denoised(test.features, first_differences(), CASE.weight), test.truth)
        assert results[key]["before"] == pytest.approx(before, rel=1e-12)
        assert results[key]["certificates"]["differentiated"] == 64 * SMALL.epochs
        assert results[key]["certificates"]["masked"] == 0
        assert (first_differences() != D).any()
        if form == "centred":
            assert D.sum(-1).abs().max() < 1e-12


def test_qpth_trains_as_the_fold_does(ran: tuple[Path, dict[str, Any]]) -> None:
    pytest.importorskip("qpth")
    _, results = ran
    ours = results[training_key(CASE, "free", "folded", 0)]["curve"]
    theirs = results[training_key(CASE, "free", "qpth", 0)]["curve"]
    assert len(theirs) == 2
    assert theirs[0] == ours[0]
    # Adam normalises: entries whose gradient is all but zero may go the other way.
    assert theirs[1] == pytest.approx(ours[1], rel=1e-2)


def test_a_training_goes_on_where_it_stopped(
    ran: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, results = ran
    key = training_key(CASE, "centred", "folded", 0)
    task = tasks(SMALL)[key]
    first = journal(tmp_path, key)
    STUDY.work(dataclasses.replace(SMALL, epochs=1), key, first)
    again = STUDY.work(SMALL, key, Journal(tmp_path / "jobs", key))
    assert task.case == CASE
    assert again["curve"] == results[key]["curve"]
    assert again["after"] == results[key]["after"]


def test_times_need_the_learned_operator(tmp_path: Path) -> None:
    key = next(job.key for job in STUDY.jobs(SMALL) if job.alone)
    with pytest.raises(FileNotFoundError, match="the learned D is not in"):
        STUDY.work(SMALL, key, journal(tmp_path, key))


def test_the_report_says_what_came_out(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, results = ran
    report = STUDY.report(SMALL, results, folder)
    for figure in report.figures:
        assert (folder / figure.file).stat().st_size > 10_000
    titles = [table.title for table in report.tables]
    assert any("adjoint" in title for title in titles)
    assert any("Certificates" in title for title in titles)
    first = report.tables[0]
    assert [row[0] for row in first.rows] == ["σ = 10, λ = 13"]
    free = results[training_key(CASE, "free", "folded", 0)]
    lower = int(free["after"] < free["before"])
    assert f"With a free D, training lowers the test MSE in {lower} of 1 cases" in report.why


def test_a_centred_operator_learns_in_proportion_to_the_noise() -> None:
    rates = {
        (task.form, task.case.sigma): task.learning_rate(Config())
        for task in tasks(Config()).values()
        if task.kind == "folded"
    }
    assert rates == {
        ("free", 10.0): 1e-3,
        ("free", 1.0): 1e-3,
        ("centred", 10.0): 1e-3,
        ("centred", 1.0): pytest.approx(1e-4),
    }


def made_up(times: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Methods with their seconds, forward and backward alike, and their error."""
    return {
        name: {"forward": seconds, "backward": seconds, "x": err, "gradient": err, "factor": 1.0}
        for name, (seconds, err) in times.items()
    }


def test_speed_is_compared_at_equal_accuracy() -> None:
    methods = made_up(
        {
            "f-FDPG, rough": (1.0, 1e-3),
            "f-FDPG, exact": (2.0, 1e-9),
            "qpth to 1e-6": (20.0, 1e-5),
            "qpth, shared D as it is": (1.0, 1.0),
        }
    )
    (found,) = tables.speed_ratios({"key": {"learned": methods}}, [(CASE, "key")])
    assert found == {"forward": 10.0, "backward": 10.0, "both": 10.0}
    rough = {name: of for name, of in methods.items() if name != "f-FDPG, exact"}
    assert tables.speed_ratios({"key": {"learned": rough}}, [(CASE, "key")]) == []


def test_the_photograph_and_its_measure() -> None:
    image = photograph.photograph()
    assert image.shape == (427, 640)
    assert 0 <= image.min() < 20
    assert 235 < image.max() <= 255
    # What is learned from and what is tested on lie apart.
    assert photograph._TEST[1].start >= photograph._LEFT
    model = photograph.Kernels(4, 6.0)
    assert model.kernels.sum((-1, -2)).abs().max() < 1e-12
