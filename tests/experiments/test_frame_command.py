"""The frame of the studies: the command, and reports of what the jobs gave."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from foldopt.experiments import frame
from foldopt.experiments.frame import Journal, Table
from foldopt.experiments.frame.collect import PAPER, collect, write_report
from foldopt.experiments.frame.runner import Run, run
from foldopt.experiments.frame.study import quickly
from tests.command_line import Outcome, invoke
from tests.study import PIXEL, STUDY, Config, epochs_of

# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Callable[..., Outcome]:
    monkeypatch.setattr(frame, "studies", lambda: {"squares": STUDY})
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: invoke(*arguments)


def test_the_command_runs_resumes_and_refuses(command: Callable[..., Outcome]) -> None:
    done = command("run", "squares", "--sizes", "1, 2", "--workers", "1", "--limit", "none")
    assert done.exit_code == 0, done.output
    for text in ("Claim. squares grow", "Verdict: reproduced. they do", "a | b", "by hand"):
        assert text in done.output
    folder = pathlib.Path("runs/squares")
    assert json.loads((folder / "run.json").read_text())["config"]["sizes"] == [1, 2]
    assert "4 of 4" not in done.output
    assert "3 of 3 jobs done" in done.output
    again = command("run", "squares", "--sizes", "1,2", "--workers", "1")
    assert again.exit_code == 0, again.output
    other = command("run", "squares", "--workers", "1")
    assert other.exit_code == 2
    assert "holds a run with other settings: sizes [1, 2] (asked for: [1, 2, 3])" in other.output
    fresh = command("run", "squares", "--workers", "1", "--restart")
    assert fresh.exit_code == 0
    assert "the old run is now runs/squares.1" in fresh.output
    assert pathlib.Path("runs/squares.1/run.json").exists()


def test_quick_has_a_folder_of_its_own(command: Callable[..., Outcome]) -> None:
    assert command("run", "squares", "--quick", "--workers", "1").exit_code == 0
    settings = json.loads(pathlib.Path("runs/squares-quick/run.json").read_text())["config"]
    assert (settings["epochs"], settings["sizes"]) == (2, [1])
    assert command("run", "squares", "--quick", "--epochs", "3", "--out", "x").exit_code == 0
    assert json.loads(pathlib.Path("x/run.json").read_text())["config"]["epochs"] == 3


def test_a_failed_job_exits_with_1(command: Callable[..., Outcome]) -> None:
    result = command("run", "squares", "--check", "2", "--workers", "1")
    assert result.exit_code == 1
    assert "1 of 4 jobs failed" in result.output
    pathlib.Path("runs/squares/jobs/mend").touch()
    result = command("run", "squares", "--check", "2", "--workers", "1")
    assert result.exit_code == 0
    assert "going on with runs/squares: 11 of 13 done" in result.output


def test_ctrl_c_keeps_what_was_done(
    command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Journal.epoch

    def interrupted(journal: Journal, **metrics: Any) -> None:
        real(journal, **metrics)
        if journal.key == "size-2" and journal.epochs == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "epoch", interrupted)
    stopped = command("run", "squares", "--workers", "1")
    assert stopped.exit_code == 130
    assert "the same command goes on from here" in stopped.output
    monkeypatch.setattr(Journal, "epoch", real)
    done = command("run", "squares", "--workers", "1")
    assert "going on with runs/squares: 7 of 13 done" in done.output
    assert done.exit_code == 0
    assert epochs_of(Journal(pathlib.Path("runs/squares/jobs"), "size-2")) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epochs", "few"], "--epochs: 'few' is not a whole number"),
        (["--rate", "much"], "--rate: 'much' is not a number"),
        (["--sizes", "1,x"], "--sizes: 'x' is not a whole number"),
        (["--careful", "maybe"], "--careful: 'maybe' is neither yes nor no"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--seeds", "3"], "No such option: --seeds"),
        (["--workers", "0"], "--workers"),
        (["extra"], "extra"),
    ],
)
def test_mistakes_exit_with_2(
    command: Callable[..., Outcome], arguments: list[str], says: str
) -> None:
    result = command("run", "squares", *arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert not pathlib.Path("runs").exists()


def test_help_names_every_setting(command: Callable[..., Outcome]) -> None:
    result = command("run", "squares", "--help")
    for text in ("--epochs", "Passes. (4)", "--sizes", "What to try. (1,2,3)", "epochs 2, sizes 1"):
        assert text in result.output


# -- the report ------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """The text of a page, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_needs_nothing_beside_it(command: Callable[..., Outcome]) -> None:
    assert command("run", "squares", "--workers", "1").exit_code == 0
    run_error = command("run", "squares", "--out", "runs/half", "--check", "2", "--workers", "1")
    assert run_error.exit_code == 1
    result = command("report")
    assert result.exit_code == 0, result.output
    assert "squares: reproduced" in result.output
    assert "squares: not finished" in result.output
    html = pathlib.Path("runs/report.html").read_text()
    reader = Reader()
    reader.feed(html)
    assert reader.open == ["!doctype"] or reader.open == []
    assert "squares grow <fast>" in reader.text
    assert "Not finished: 3 of 4 jobs done" in reader.text
    for name in PAPER:
        assert name in reader.text
    assert all(source.startswith("data:image/png;base64,") for source in reader.images)
    assert len(reader.images) == 1
    assert not re.search(r'(src|href)="(?!data:|#)', html)

    text = pathlib.Path("runs/report.md").read_text()
    assert "| size | square \\| area |" in text
    assert '![a "grey" pixel](report/squares-figure.png)' in text
    assert pathlib.Path("runs/report/squares-figure.png").read_bytes() == PIXEL
    assert "**Verdict: reproduced.** they do" in text
    assert pathlib.Path("runs/squares/report.md").read_text().startswith("## squares: How squares")


def test_a_report_of_nothing(command: Callable[..., Outcome]) -> None:
    result = command("report")
    assert result.exit_code == 2
    assert "there are no runs in runs" in result.output


def test_runs_of_older_settings_are_left_out(tmp_path: pathlib.Path) -> None:
    run(Run(STUDY, Config(sizes=(1,)), tmp_path / "a"), 1)
    path = tmp_path / "a" / "run.json"
    known = {"squares": STUDY}
    assert len(collect(tmp_path, known)) == 1
    assert collect(tmp_path, {}) == []
    there = json.loads(path.read_text())
    del there["config"]["limit"]
    path.write_text(json.dumps(there))
    assert collect(tmp_path, known) == []
    write_report([], known, tmp_path / "there" / "page.html")
    assert (tmp_path / "there" / "page.md").exists()


def test_a_table_has_as_many_cells_as_columns() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells for 2 columns"):
        Table("t", ("a", "b"), (("1",),))


def test_every_study_is_found_and_described() -> None:
    found = frame.studies()
    assert {"bilinear", "convergence", "markowitz"} <= set(found)
    listed = invoke("list").output
    for name, study in found.items():
        assert name in listed
        assert study.question in listed
        jobs = study.jobs(study.config())
        assert len({job.key for job in jobs}) == len(jobs) > 0
        quick = study.config(**quickly(study.config))
        assert study.jobs(quick)
        assert invoke("run", name, "--help").exit_code == 0
