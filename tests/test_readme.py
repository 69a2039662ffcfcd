"""The README is true: its code runs and prints what it says, its commands and names exist."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re

import pytest

import foldopt
from tests.blocks import Block, blocks_of, imported, names_of, run

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

BLOCKS = blocks_of(README)


def test_the_readme_has_code() -> None:
    assert len(BLOCKS) == README.count("```python") >= 3
    assert sum(block.expected != "" for block in BLOCKS) == README.count("```text") >= 1


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_code_runs(block: Block) -> None:
    for name in imported(block.source) - {"numpy", "torch", "foldopt"}:
        pytest.importorskip(name)
    run(block, "README.md", {"__name__": "__main__"})


def test_the_first_example_needs_only_torch_and_numpy_and_is_short() -> None:
    first = BLOCKS[0].source
    assert imported(first) == {"numpy", "torch", "foldopt"}
    assert sum(bool(line.strip()) for line in first.splitlines()) <= 15


def test_names_exist() -> None:
    names = names_of(README)
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
