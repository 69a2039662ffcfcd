"""The bilinear study as a whole: a small run, the command, and a verdict that is honest."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import re

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import foldopt as fo
from foldopt import cli
from foldopt.experiments.bilinear import checks as bilinear_checks
from foldopt.experiments.bilinear import report as bilinear_report
from foldopt.experiments.bilinear import training as bilinear
from foldopt.experiments.bilinear.checks import Agreement, Checks
from foldopt.experiments.bilinear.figure import write_figure
from foldopt.experiments.bilinear.training import (
    TWO_STAGE,
    UNTRAINED,
    Config,
    Fold,
    Result,
    Track,
    Trial,
    run,
)
from foldopt.learning import History

F64 = torch.float64
SMALL = Config(
    problems=2, samples=60, n=4, epochs=1, hidden=8, checked=4, global_epoch=12, time_limit=10.0,
    folds=(Fold(2.0), Fold(2.0, smooth_loss=False)),
)  # fmt: skip


def test_a_small_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bilinear_checks, "EPSILONS", (0.0, 1.0))
    said: list[str] = []
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    result = run(SMALL, said.append)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert any("Q 2 of 2" in text for text in said)
    assert [trial.seed for trial in result.trials] == [0, 1]
    for trial in result.trials:
        assert list(trial.tracks) == [TWO_STAGE, *(f.name for f in SMALL.folds), UNTRAINED]
        for track in trial.tracks.values():
            assert track.regret.shape == (6,)
            assert track.regret.min() > -1e-12
        assert trial.tracks[SMALL.folds[0].name].differentiated == 48

    checks = result.checks
    assert {found.epsilon for found in checks.agreements} == {0.0, 2.0}
    for found in checks.agreements:
        assert (found.programs, found.worse) == (4, 0)
        assert found.proved == 4
        assert found.value < 1e-4
    assert checks.shares[0.0] == 0 < checks.shares[1.0]
    assert checks.unsmoothed_share == 0
    assert checks.unsmoothed_change < 1e-6 < checks.epoch_change
    assert checks.epoch_gap < 1e-3

    console = Console(record=True, width=120, file=io.StringIO())
    console.print(bilinear_report.table(result))
    assert "all" in console.export_text()
    bilinear_report.write_numbers(result, tmp_path / "numbers.json")
    numbers = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    assert numbers["config"]["n"] == 4
    assert numbers["versions"]["fold-opt"] == fo.__version__
    models = numbers["trials"][0]["models"]
    expected = float(result.trials[0].tracks[TWO_STAGE].regret.mean())
    assert models[TWO_STAGE]["regret"] == pytest.approx(expected)
    assert models[SMALL.folds[0].name]["differentiated"] == 48


def test_a_problem_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bilinear, "check", lambda *_, **__: CHECKS)
    both = run(SMALL)
    alone = run(dataclasses.replace(SMALL, problems=1, seed=1))
    for name, track in alone.trials[0].tracks.items():
        assert torch.equal(track.regret, both.trials[1].tracks[name].regret)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"problems": 0}, "problems must be at least 1, got 0"),
        ({"samples": 10}, "samples must be at least 20, got 10"),
        ({"n": 1}, "n must be at least 2, got 1"),
        ({"checked": 0}, "checked must be at least 1, got 0"),
        ({"folds": ()}, "folds must name one"),
    ],
)
def test_mistakes_in_the_config(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(SMALL, **change)


def test_a_fold_needs_epsilon() -> None:
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        Fold(0.0)


# -- what is said of made-up results --------------------------------------------------------

CHECKS = Checks(
    [Agreement("scip", 1.0, 20, 20, 0, 1e-12, 1e-9, 0.5)],
    {0.0: 0.0, 1.0: 0.9}, 0.0, 1e-9, 32, 1e-11, 0.01,
)  # fmt: skip
FOLD = Fold(1.0)


def outcome(two_stage: list[float], folded: list[float], spread: float = 0.01) -> Result:
    """A result in which each Q has the given mean regrets."""
    wave = torch.linspace(-spread, spread, 20, dtype=F64)
    history = History((1.0,), (1.0,), 0, 0.1)
    trials = [
        Trial(
            seed,
            {
                TWO_STAGE: Track(a + wave, history),
                FOLD.name: Track(b - wave, history, 3, 100),
                UNTRAINED: Track(wave + 2.0),
            },
        )
        for seed, (a, b) in enumerate(zip(two_stage, folded, strict=True))
    ]
    return Result(Config(problems=len(trials), folds=(FOLD,)), trials, CHECKS, 1.0)


@pytest.mark.parametrize(
    ("two_stage", "folded", "spread", "says"),
    [
        ([0.5, 0.52], [0.4, 0.41], 0.01, ["beats two-stage on 2 of 2", "folded wins", "holds"]),
        ([0.4, 0.41], [0.5, 0.52], 0.01, ["loses on 2", "two-stage wins", "does not hold"]),
        ([0.5, 0.4], [0.4, 0.5], 0.01, ["beats two-stage on 1 of 2", "loses on 1", "undecided."]),
        ([0.5, 0.5], [0.4, 0.3], 9.0, ["on 0 of 2", "undecided on 2", "lower one on 2 of 2"]),
        ([0.5], [0.4], 0.01, ["beats two-stage on 1 of 1", "One Q shows nothing in general"]),
    ],
)
def test_the_verdict(
    two_stage: list[float], folded: list[float], spread: float, says: list[str]
) -> None:
    result = outcome(two_stage, folded, spread)
    lines = bilinear_report.verdict(result)
    for part in says:
        assert part in lines[0]
    assert f"{3 * len(folded)} of {100 * len(folded)} training samples" in lines[1]
    write = io.StringIO()
    Console(file=write, width=120).print(bilinear_report.table(result))
    assert "nan" not in write.getvalue()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "proved the optimum of 20 of 20 programs, 0.50 s each; same optima as the local"),
        ({"epsilon": 0.0}, "as the exact solution"),
        ({"distance": 0.5}, "same objectives as the local search"),
        ({"value": 0.5}, "DIFFERENT optima"),
        ({"worse": 3}, "the local search is WORSE than SCIP on 3 of them"),
        ({"proved": 0, "value": float("nan")}, "found none better than the local search did"),
    ],
)
def test_the_global_solvers_verdict(change: dict, says: str) -> None:
    found = dataclasses.replace(CHECKS.agreements[0], **change)
    checks = dataclasses.replace(CHECKS, agreements=[found])
    result = dataclasses.replace(outcome([0.5], [0.4]), checks=checks)
    assert says in "\n".join(bilinear_report.verdict(result))


def test_a_signal_without_epsilon_would_be_said() -> None:
    result = outcome([0.5], [0.4])
    assert any("there is no learning signal" in line for line in bilinear_report.verdict(result))
    checks = dataclasses.replace(CHECKS, unsmoothed_share=0.1)
    result = dataclasses.replace(result, checks=checks)
    assert any("there is SOME signal" in line for line in bilinear_report.verdict(result))


def test_the_figure(tmp_path: pathlib.Path) -> None:
    write_figure(outcome([0.5, 0.6], [0.4, 0.5]), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


# -- the command ----------------------------------------------------------------------------


def test_the_command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: getattr(SMALL, name) for name in ("samples", "n", "hidden", "checked")}
    monkeypatch.setattr(bilinear_checks, "EPSILONS", (0.0, 1.0))
    monkeypatch.setattr(
        bilinear_report,
        "QUICK",
        {**small, "problems": 1, "epochs": 1, "global_epoch": 2, "folds": (FOLD,)},
    )
    out = tmp_path / "new" / "folder"
    arguments = ["run", "bilinear", "--quick", "--seed", "4", "--problems", "2", "--out", str(out)]
    result = CliRunner().invoke(cli.application(), arguments, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", result.output).split())
    assert "4 + 4; 2 Q from seed 4" in text
    assert "of 2 Q" in text
    assert "same optima as the exact solution" in text
    assert (out / "bilinear.png").stat().st_size > 10_000
    numbers = json.loads((out / "bilinear.json").read_text(encoding="utf-8"))
    assert [trial["seed"] for trial in numbers["trials"]] == [4, 5]
    assert numbers["config"]["solver"] == "ascent"


def test_an_unknown_solver_is_refused() -> None:
    arguments = ["run", "bilinear", "--solver", "guess"]
    result = CliRunner().invoke(cli.application(), arguments)
    assert result.exit_code == 2
    assert "guess" in result.output
