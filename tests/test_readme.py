"""The README is true: its code runs and prints what it says, its commands and names exist."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib.metadata
import io
import pathlib
import re

import pytest

import foldopt

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# A block of Python, and the block of text that shows what it prints, if one follows.
BLOCKS = list(
    re.finditer(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", README, re.M | re.S)
)


def test_the_readme_has_code() -> None:
    assert len(BLOCKS) == README.count("```python") >= 3
    assert sum(block[2] is not None for block in BLOCKS) == README.count("```text") >= 1


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: _line(block.start(1)))
def test_code_runs(block: re.Match[str]) -> None:
    source, expected = block[1], block[2] or ""
    for name in imported(source) - {"numpy", "torch", "foldopt"}:
        pytest.importorskip(name)
    # Blank lines in front make a traceback's line numbers those of the README.
    code = compile("\n" * README[: block.start(1)].count("\n") + source, "README.md", "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "__main__"})
    same = doctest.OutputChecker().check_output(
        expected, printed.getvalue(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert same, f"README says:\n{expected}\nprinted:\n{printed.getvalue()}"


def test_the_first_example_needs_only_torch_and_numpy_and_is_short() -> None:
    first = BLOCKS[0][1]
    assert imported(first) == {"numpy", "torch", "foldopt"}
    assert sum(bool(line.strip()) for line in first.splitlines()) <= 15


def test_names_exist() -> None:
    names = set(re.findall(r"\bfo\.(\w+(?:\.\w+)*)", README))
    assert names
    for name in names:
        found = foldopt
        for part in name.split("."):
            assert hasattr(found, part), f"the README speaks of fo.{name}"
            found = getattr(found, part)


def test_commands_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"\bmake (\w+)$", README, re.M))
    assert {"demo", "test"} <= named <= targets
    installs = re.findall(r'pip install -e "?\.(?:\[([\w,]+)\])?', README)
    extras = set(importlib.metadata.metadata("fold-opt").get_all("Provides-Extra") or ())
    assert "solvers" in installs
    assert {extra for extra in installs if extra} <= extras


def test_links_to_files_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    local = [link for link in links if not link.startswith("https://")]
    assert {"CONTRIBUTING.md", "LICENSE"} <= set(local)
    for link in local:
        assert (ROOT / link).exists(), f"the README links to {link}"


def imported(source: str) -> set[str]:
    """The top-level packages that a source imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def _line(position: int) -> str:
    return f"line {README[:position].count(chr(10)) + 1}"
