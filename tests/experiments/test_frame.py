"""The frame of the studies: jobs that are done once and resumed."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch

from foldopt.experiments.frame import Job, Journal
from foldopt.experiments.frame.journal import plain
from foldopt.experiments.frame.runner import JobsError, Run, SettingsError, run
from tests.study import STUDY, Config, epochs_of

ROOT = pathlib.Path(__file__).parents[2]


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
