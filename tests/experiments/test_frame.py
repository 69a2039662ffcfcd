"""The frame of the studies: jobs that are resumed, and reports of what they gave."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

import foldopt as fo
from foldopt.experiments import frame
from foldopt.experiments.frame import (
    Job,
    Journal,
    Table,
    adjoint_table,
    certificate_table,
    certificates,
    compare_adjoints,
)
from foldopt.experiments.frame.collect import PAPER, collect, write_report
from foldopt.experiments.frame.journal import plain
from foldopt.experiments.frame.runner import JobsError, Run, SettingsError, run
from foldopt.experiments.frame.study import quickly
from tests.study import PIXEL, STUDY, Config
from tests.test_cli import Outcome, invoke

F64 = torch.float64
ROOT = pathlib.Path(__file__).parents[2]


def epochs_of(journal: Journal) -> list[int]:
    return [line["epoch"] for line in journal.lines() if "epoch" in line]


# -- running ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_does_every_job_once(workers: int, tmp_path: pathlib.Path) -> None:
    given = Run(STUDY, Config(), tmp_path / "squares")
    seen: list[int] = []
    run(given, workers, seen.append)
    assert given.results() == {
        "size-1": {"square": 1, "loss": None},
        "size-2": {"square": 4, "loss": None},
        "size-3": {"square": 9, "loss": None},
        "timed": {"seconds": 0.5, "epochs": 4},
    }
    assert seen == sorted(seen)
    assert seen[-1] == given.done() == 13
    assert [job.key for job in given.jobs][-1] == "timed"  # when nothing else runs
    assert given.seconds() > 0
    for job in given.jobs[:3]:
        assert epochs_of(given.journal(job)) == [1, 2, 3, 4]
        assert not given.journal(job).checkpoint.exists()

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    run(given, workers)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_failed_is_said_and_goes_on_from_its_last_epoch(
    workers: int, tmp_path: pathlib.Path
) -> None:
    given = Run(STUDY, Config(check=2), tmp_path / "squares")
    with pytest.raises(JobsError, match=r"1 of 4 jobs failed.*size-2: RuntimeError: size 2 is too"):
        run(given, workers)
    assert set(given.results()) == {"size-1", "size-3", "timed"}
    journal = given.journal(Job("size-2"))
    assert epochs_of(journal) == [1, 2]
    assert given.done() == 4 + 2 + 4 + 1
    with journal.path.open("a") as file:
        file.write('{"epoch": 3, "lo')  # killed in the middle of a line
    assert epochs_of(journal) == [1, 2]
    (journal.folder / "mend").touch()
    run(given, workers)
    assert epochs_of(journal) == [1, 2, 3, 4]
    assert given.results()["size-2"]["square"] == 4


def test_epochs_that_no_checkpoint_has_kept_are_done_again(tmp_path: pathlib.Path) -> None:
    journal = Journal(tmp_path, "job")
    journal.begin()
    journal.epoch(loss=1.0)
    assert journal.epochs == 1
    journal.begin()
    assert journal.epochs == 0


def test_a_folder_with_other_settings_is_left_alone(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "squares"
    run(Run(STUDY, Config(sizes=(1,)), folder), 1)
    with pytest.raises(SettingsError, match=r"epochs 4 \(asked for: 5\), sizes \[1\] \(asked"):
        run(Run(STUDY, Config(epochs=5), folder), 1)
    (folder / "run.json").write_text('{"study": "other", "format": 1, "config": {}}')
    with pytest.raises(SettingsError, match="study other, format 1"):
        run(Run(STUDY, Config(), folder), 1)


def test_two_runs_do_not_share_a_folder(tmp_path: pathlib.Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    given = Run(STUDY, Config(), tmp_path / "squares")
    given.claim()
    with (given.folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SettingsError, match="is in use by another run"):
            run(given, 1)
    run(given, 1)


def test_workers_end_with_the_run_that_began_them(tmp_path: pathlib.Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from foldopt.experiments.frame.runner import Run, run\n"
        "from tests.study import PIXEL, STUDY, Config\n"
        "if __name__ == '__main__':\n"
        f"    run(Run(STUDY, Config(epochs=10**6, wait=0.01), pathlib.Path({str(tmp_path)!r})), 2)"
    )
    main = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    journal = tmp_path / "jobs" / "size-1.jsonl"
    wait_for(lambda: journal.exists() and journal.stat().st_size > 0)
    main.kill()
    main.wait()

    def still() -> bool:
        before = journal.stat().st_size
        time.sleep(1.0)
        return journal.stat().st_size == before

    wait_for(still)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_workers_and_jobs_are_looked_at(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        run(Run(STUDY, Config(), tmp_path), 0)
    with pytest.raises(ValueError, match="no jobs, or two of one key"):
        run(Run(STUDY, Config(sizes=(1, 1)), tmp_path), 1)
    with pytest.raises(ValueError, match="key 'a/b' names a file"):
        Job("a/b")
    with pytest.raises(ValueError, match="work must be at least 1, got 0"):
        Job("a", work=0)


def test_results_must_be_what_json_can_hold() -> None:
    assert plain({"x": torch.tensor([1.0, torch.nan]), 3: [True, None]}) == {
        "x": [1.0, None],
        "3": [True, None],
    }
    with pytest.raises(TypeError, match="holds a object"):
        plain({"x": object()})


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


# -- what every report carries ---------------------------------------------------------------------


def linear_step(matrix: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda x, c: x @ matrix.mT + c


def test_adjoint_systems_are_compared_with_the_exact_gradient() -> None:
    torch.manual_seed(0)
    M = torch.randn(6, 6, dtype=F64)
    M = 0.5 * M / torch.linalg.eigvals(M).abs().max()
    c = torch.randn(3, 6, dtype=F64)
    x = torch.linalg.solve(torch.eye(6, dtype=F64) - M, c.mT).mT
    found = compare_adjoints(linear_step(M), x, c, cotangent=torch.randn(3, 6, dtype=F64))
    assert found["median"] == pytest.approx(0.5, rel=1e-6)
    assert found["worst"] == pytest.approx(0.5, rel=1e-6)
    assert not found["singular"]
    assert set(found["solvers"]) == {"LFPI", "GMRES", "BiCGSTAB", "Dense", "Auto"}
    for row in found["solvers"].values():
        assert row["error"] < 1e-9
        assert row["failed"] == 0
    assert found["solvers"]["GMRES"]["products"] <= 7
    assert found["solvers"]["Dense"]["products"] == 6
    assert found["solvers"]["LFPI"]["products"] > 20
    table = adjoint_table({"mine": plain(found)})
    assert table.rows[0][:3] == ("mine", "0.5 / 0.5", "LFPI")
    assert len(table.rows) == 5


def test_a_singular_adjoint_system_is_named() -> None:
    M = torch.diag(torch.tensor([1.0, 0.5], dtype=F64))
    step = lambda x, c: x @ M + c * torch.tensor([0.0, 1.0], dtype=F64)
    c = torch.ones(1, 2, dtype=F64)
    found = compare_adjoints(
        step, torch.tensor([[3.0, 2.0]]).to(F64), c,
        cotangent=torch.tensor([[0.0, 1.0]]).to(F64), solvers=[fo.LFPI(), fo.GMRES()],
    )  # fmt: skip
    assert found["singular"]
    assert found["solvers"]["GMRES"]["error"] < 1e-10
    assert "singular in some sample of mine" in adjoint_table({"mine": found}).note


def test_certificates_count_what_was_masked_and_warned() -> None:
    step = lambda x, c: x + c * (1 - x)  # Φ = 1 − c: singular at c = 0
    c = torch.tensor([[0.5], [0.0], [0.5]], dtype=F64, requires_grad=True)
    x = torch.tensor([[1.0], [1.0], [1.0 + 1e-4]], dtype=F64)
    with certificates() as seen:
        fo.fold(step, x, c, on_failure="mask").sum().backward()
    found = seen.summary()
    assert (found["solved"], found["unsolved"]) == (3, 0)
    assert (found["differentiated"], found["masked"]) == (3, 1)
    assert found["forward"] == pytest.approx(0.5e-4 / 2, rel=1e-2)
    assert found["warned"] == 1
    (row,) = certificate_table({"training": found}).rows
    assert row[0] == "training"
    assert row[4:6] == ("3", "1")


def test_certificates_go_on_after_an_interruption(tmp_path: pathlib.Path) -> None:
    c = torch.tensor([[4.0]], dtype=F64, requires_grad=True)
    journal = Journal(tmp_path, "job")
    journal.begin()

    def train(epochs: int) -> dict[str, Any]:
        with certificates(journal.certificates) as seen:
            for _ in range(epochs):
                fo.fold(lambda x, c: (x + c / x) / 2, c.sqrt().detach() + 1e-4, c).sum().backward()
                journal.checkpoint.touch()
                journal.epoch(loss=0.0)
        return seen.summary()

    first = train(2)
    assert (first["solved"], first["differentiated"], first["warned"]) == (2, 2, 2)
    journal.begin()
    assert train(3) == first | {"solved": 5, "differentiated": 5, "warned": 5}
    assert journal.epochs == 5


def test_other_warnings_go_on_their_way() -> None:
    import warnings

    with pytest.warns(UserWarning, match="mine"), certificates() as seen:
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert seen.summary()["warned"] == 0
