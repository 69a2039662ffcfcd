"""The command line: what it runs, what it refuses, and what it says is missing."""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import pytest
import torch
import typer

import foldopt
from foldopt import cli
from foldopt.experiments import market
from foldopt.experiments.frame.command import prepare_folder
from foldopt.experiments.markowitz import plan as markowitz
from tests.command_line import invoke

INSTALL = 'pip install "fold-opt[experiments]"'


@pytest.fixture
def few_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    prices = 100 * np.cumprod(1 + 0.02 * random.standard_normal((330, 4)), axis=0)
    days = np.arange(330) + np.datetime64("2000-01-03")
    monkeypatch.setattr(market, "load_sp500", lambda: (days, prices, tuple("ABCD")))


def test_version() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output == f"fold-opt {foldopt.__version__}"


def test_run_markowitz(few_prices: None, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "new" / "folder"
    state = torch.get_rng_state()
    arguments = ("--quick", "--epochs", "1", "--workers", "1", "--out", str(out))
    result = invoke("run", "markowitz", *arguments)
    assert result.exit_code == 0, result.output
    assert torch.equal(torch.get_rng_state(), state)
    for strategy in (markowitz.TWO_STAGE, markowitz.FOLDED, markowitz.EQUAL_WEIGHTS):
        assert strategy in result.output
    assert "over 2 seeds" in result.output
    assert "Verdict" in result.output
    figures = list(out.glob("*.png"))
    assert figures
    assert all(path.stat().st_size > 10_000 for path in figures)
    config = json.loads((out / "run.json").read_text(encoding="utf-8"))["config"]
    assert (config["seeds"], config["epochs"]) == (2, 1)
    assert (out / "report.md").exists()


def test_one_seed_has_no_interval(few_prices: None, tmp_path: pathlib.Path) -> None:
    arguments = ("--seeds", "1", "--epochs", "1", "--workers", "1", "--out", str(tmp_path))
    result = invoke("run", "markowitz", *arguments)
    assert result.exit_code == 0, result.output
    assert "nan" not in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["run", "nothing"], "No such command 'nothing'"),
        (["run", "markowitz", "--nothing"], "No such option: --nothing"),
        (["run", "markowitz", "--seeds", "0"], "seeds"),
        (["run", "markowitz", "--epochs", "few"], "--epochs"),
        (["run", "markowitz", "extra"], "extra"),
    ],
)
def test_mistakes_exit_with_2(arguments: list[str], says: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_folder_that_cannot_be_written_fails_before_training(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = invoke("run", "markowitz", "--out", str(tmp_path / "file" / "runs"))
    assert result.exit_code == 2
    assert "--out" in result.output
    assert "cannot write to" in result.output


def test_a_writable_folder_is_left_empty(tmp_path: pathlib.Path) -> None:
    prepare_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_main_without_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert INSTALL in str(stopped.value.code)
    assert module in str(stopped.value.code)


@pytest.mark.parametrize("module", ["skfolio", "piqp"])
def test_a_study_without_the_extra(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    result = invoke("run", "markowitz", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert INSTALL in result.output
    assert f"cannot import {module}" in result.output


def test_main_runs_the_application(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fold-opt", "--version"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert foldopt.__version__ in capsys.readouterr().out
    assert isinstance(cli.application(), typer.Typer)


def test_solvers_lists_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("solvers")
    assert result.exit_code == 0
    for engine in foldopt.solvers.available():
        assert f"{engine.solver}: {engine.problems}" in result.output
        assert f"{engine.name} {engine.version or 'not installed'}" in result.output
    assert "200 variables" in result.output
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "piqp not installed: pip install piqp" in invoke("solvers").output
