"""The worked examples of docs/contributing are true: in their places, they pass what CI asks.

Each page holds one complete file and one complete test. They are written into a copy of the package
and of the tests, and nothing else is touched there.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.test_architecture import complaints

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs" / "contributing").glob("*.md"))
}
_FILE = re.compile(r'^```py title="([^"]+)"\n(.*?)^```$', re.M | re.S)


def files_of(page: str) -> dict[str, str]:
    """The files that a page shows, by their paths."""
    return dict(_FILE.findall(page))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the package and the tests, with the files of every page in their places."""
    root = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    for page in PAGES.values():
        for name, source in files_of(page).items():
            path = root / name
            assert not path.exists(), f"{name} is there already: the page needs another example"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source, encoding="utf-8")
    return root


def test_each_page_has_one_file_and_one_test() -> None:
    assert PAGES.keys() == {"add-a-step", "add-a-solver", "add-a-study"}
    for page in PAGES.values():
        assert page.count("```py") == 2  # none is hidden from the tests by its heading
        file, test = files_of(page)
        assert file.startswith("src/foldopt/")
        assert test.startswith("tests/")
        assert "Both files are complete" in " ".join(page.split())


def test_the_examples_pass_their_tests(planted: pathlib.Path) -> None:
    names = [name for page in PAGES.values() for name in files_of(page)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *names],
        cwd=planted, env=environment(planted), capture_output=True, text=True, timeout=250,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) == 14  # with the two examples in docstrings
    assert "skipped" not in done.stdout


def environment(root: pathlib.Path) -> dict[str, str]:
    """That of this process, in which the copy stands before the installed package."""
    return {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}


def test_the_examples_keep_the_rules(planted: pathlib.Path) -> None:
    here, there = (complaints(root / "src" / "foldopt") for root in (ROOT, planted))
    assert there == here
    names = [name for page in PAGES.values() for name in files_of(page)]
    for command in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *names],
            cwd=planted, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_pages_say_is_left_is_there() -> None:
    """The places that a page sends its reader to."""
    source = ROOT / "src" / "foldopt"
    for page, place in (
        ("add-a-step", "steps/__init__.py"),
        ("add-a-solver", "solvers/__init__.py"),
        ("add-a-solver", "solvers/available.py"),
        ("add-a-solver", "solvers/_qp/table.py"),
    ):
        assert f"`{place}`" in PAGES[page]
        assert (source / place).is_file()
    assert "_OWN" in (source / "solvers/available.py").read_text(encoding="utf-8")
