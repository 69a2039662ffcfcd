"""The documentation is true: its code runs, its names exist, its tables are what is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import foldopt as fo
from foldopt.solvers._qp.choose import Traits, choose
from foldopt.solvers._qp.program import Limits
from tests.blocks import blocks_of, imported, names_of, run

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
# The report is written by `fold-opt report`; the gallery has tests of its own.
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if path.name != "results.md" and "gallery" not in path.parts
}
WITH_CODE = [name for name, page in PAGES.items() if blocks_of(page)]


def public_rooms() -> list[str]:
    """The packages whose names users import, found by looking."""
    rooms = ["foldopt"]
    for found in pkgutil.walk_packages(fo.__path__, "foldopt."):
        inside = found.name.split(".")
        private = any(part.startswith("_") for part in inside) or "experiments" in inside
        if found.ispkg and not private:
            rooms.append(found.name)
    return rooms


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """A page may seed and start what it likes."""
    with torch.random.fork_rng(devices=[]):
        yield


# -- the code ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(name: str) -> None:
    blocks = blocks_of(PAGES[name])
    assert len(blocks) == PAGES[name].count("```python"), "a block is not closed, or is indented"
    for package in sorted(set().union(*(imported(block.source) for block in blocks))):
        if package != "foldopt":
            pytest.importorskip(package)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        run(block, f"docs/{name}", namespace)


def test_every_how_to_has_code() -> None:
    how_to = {name for name in PAGES if name.startswith("how-to/")}
    assert len(how_to) >= 10
    assert {"start.md", "idea.md", "certificates.md", "faq.md", *how_to} <= set(WITH_CODE)


@pytest.mark.parametrize("name", PAGES)
def test_names_exist(name: str) -> None:
    for dotted in names_of(PAGES[name]):
        found = fo
        for part in dotted.split("."):
            assert hasattr(found, part), f"docs/{name} speaks of fo.{dotted}"
            found = getattr(found, part)


def test_the_page_of_trust_has_every_status() -> None:
    rows = table(PAGES["certificates.md"], "Each status")
    assert [row["Status"].strip("`") for row in sorted(rows, key=code_of)] == [
        status.name for status in fo.Status
    ]


def code_of(row: dict[str, str]) -> int:
    return int(fo.Status[row["Status"].strip("`")])


def test_the_messages_that_are_explained_exist() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src/foldopt").glob("*.py"))
    said = re.sub(r'"\s*f?"', "", source)  # a message goes on over several lines
    rows = table(PAGES["certificates.md"], "Each message")
    assert len(rows) > 10
    for row in rows:
        assert row["Message"] in said


# -- the tables of how-to-choose.md ---------------------------------------------------------------


def table(page: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table under a heading."""
    lines = page.split(f"## {heading}\n")[1].splitlines()
    rows = [line for line in lines if line.startswith("|")]
    first = lines.index(rows[0])
    rows = [line for line in lines[first : first + len(rows)] if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


CHOOSE = PAGES["how-to-choose.md"]
ADJOINTS = table(CHOOSE, "Which adjoint solver?")
ENGINES = table(CHOOSE, "Which forward solver?")


@pytest.mark.parametrize("row", ADJOINTS, ids=lambda row: f"{row['n']}, {row['Φ']}")
def test_auto_chooses_as_the_table_says(row: dict[str, str]) -> None:
    n = int(float(row["n"].replace(" ", "")))
    eigenvalues, symmetric = SPECTRA[row["Φ"]]
    taken = method_of(n, eigenvalues, symmetric)
    assert taken == f"Auto: {row['Auto takes'].strip('`')}"


# Eigenvalues of Φ that a row speaks of, spread over 50 values, and whether the step says symmetric.
SPECTRA: dict[str, tuple[tuple[float, float], bool]] = {
    "zero": ((0.0, 0.0), False),
    "any": ((-0.5, 0.99), False),
    "ρ = 0.1": ((-0.1, 0.1), False),
    "ρ = 0.9, symmetric": ((0.0, 0.9), True),
    "ρ = 0.999": ((-0.5, 0.999), False),
    "ρ = 0.999, symmetric": ((-0.5, 0.999), True),
    "ρ = 3": ((-3.0, 0.5), False),
}


def method_of(n: int, ends: tuple[float, float], symmetric: bool) -> str:
    """What Auto does for a Φ with eigenvalues between these ends."""
    few = torch.linspace(*ends, min(n, 50 if n < 10_000 else 2), dtype=torch.float64)
    factors = few.repeat(-(-n // len(few)))[:n]
    step = fo.steps.Step(lambda x, c: factors * x + (1 - factors) * c, symmetric=symmetric)
    c = torch.ones(1, n, dtype=torch.float64, requires_grad=True)
    with fo.record() as seen:
        fo.fold(step, c.detach(), c).sum().backward()
    assert c.grad is not None
    torch.testing.assert_close(c.grad, torch.ones_like(c), rtol=0, atol=1e-6)  # x* = c
    return seen[-1].method


@pytest.mark.parametrize("row", ENGINES, ids=lambda row: " ".join(row.values()))
def test_the_qp_engine_is_as_the_table_says(row: dict[str, str]) -> None:
    convexity: Any = {"linear": "linear", "semidefinite": "semidefinite", "definite": "strong"}
    density = {"dense": 1.0, "sparse": 0.01}[row["matrices"]]
    wanted = row["engine"].strip("`")
    pytest.importorskip({"highs": "highspy"}.get(wanted, wanted))
    for n in (int(size) for size in row["n"].split(" to ")):
        traits = Traits(n, n, density, convexity[row["Q"]])
        assert choose(traits, Limits())[0] == wanted


# -- the site ---------------------------------------------------------------------------------


def test_every_room_has_a_page_of_reference() -> None:
    shown = {
        room
        for name, page in PAGES.items()
        if name.startswith("reference/")
        for room in re.findall(r"^::: (\S+)$", page, re.M)
    }
    wanted = {room for room in public_rooms() if room_or_none(room) is not None}
    assert shown >= wanted
    assert {"foldopt", "foldopt.nn", "foldopt.learning.pyepo"} <= wanted


def room_or_none(room: str) -> Any:
    """A module with public names; None if what it needs is not installed, or it has none."""
    try:
        module = importlib.import_module(room)
    except ImportError:
        return None
    return module if getattr(module, "__all__", None) else None


def test_the_site_builds_without_a_warning_and_shows_every_name(tmp_path: pathlib.Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings", "cvxpy", "pyepo"):
        pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = "".join(page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html"))
    prose = re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)  # listings show docstrings as such
    assert re.search(r":(math|class|func|meth|mod):`", prose) is None
    assert ".. math::" not in prose
    for room in public_rooms():
        module = room_or_none(room)
        for name in module.__all__ if module else ():
            public = f"{room}.{name}"
            assert f'id="{public}"' in text or f">{public}<" in text, f"{public} is not shown"
