"""The gallery: every example runs, is short, and has a page that shows it as it is."""

from __future__ import annotations

import pathlib
import re
import runpy
import sys
from collections.abc import Iterator

import pytest
import torch

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ROOT / "docs/gallery"
SCRIPTS = {
    path.stem: path for path in sorted((ROOT / "examples").glob("*.py")) if path.stem != "run_all"
}
NEEDS = {
    "denoising": ("skimage", "sklearn"),
    "equilibrium": ("sklearn",),
    "lasso": ("sklearn",),
    "localisation": ("gurobipy", "pyscipopt"),
    "markowitz": ("skfolio",),
    "pendulum": (),
    "power_market": ("pypower", "casadi"),
    "ranking": ("sklearn",),
    "collision": (),
}


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """An example may seed torch and set its threads."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def test_the_gallery_is_whole() -> None:
    assert set(SCRIPTS) == set(NEEDS)
    assert {path.stem for path in PAGES.glob("*.md")} == {"index", *SCRIPTS}
    assert {path.stem for path in PAGES.glob("*.png")} == set(SCRIPTS)
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((\w+)\.md\)", index)) == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("matplotlib", *NEEDS[name]):
        pytest.importorskip(package)
    picture = PAGES / f"{name}.png"
    before = picture.stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS[name]), "--quick"])
    runpy.run_path(str(SCRIPTS[name]), run_name="__main__")  # its assertions are the test
    assert picture.stat().st_mtime_ns == before, "a quick run leaves the picture alone"


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_is_short_and_its_page_shows_it(name: str) -> None:
    script = SCRIPTS[name].read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in script.splitlines()) < 100
    assert script.count("    assert ") >= 2
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert f"]({name}.png)" in page
    assert "## Who would use it\n" in page
    listing = page.split("## The whole script\n\n")[1]
    assert listing == f"```python\n{script}```\n", f"run: python examples/run_all.py {name}"
    first, *rest = re.findall(r"```python\n(.*?)```", page, re.S)
    assert rest, "the page shows the key lines, too"
    assert first in script, "the key lines are not those of the script"
    assert "```text\n" in page
