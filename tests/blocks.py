"""Blocks of Python in a page of Markdown, to be run as its reader would run them."""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import re
from typing import Any, NamedTuple

# A block of Python, and the block of text that shows what it prints, if one follows.
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)


class Block(NamedTuple):
    """One block: its source, what it prints, and the line of the page on which it begins."""

    source: str
    expected: str
    line: int


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [
        Block(found[1], found[2] or "", page[: found.start(1)].count("\n") + 1)
        for found in _BLOCK.finditer(page)
    ]


def run(block: Block, name: str, namespace: dict[str, Any]) -> None:
    """Run a block in a namespace, and compare what it prints with what the page says."""
    # Blank lines in front make a traceback's line numbers those of the page.
    code = compile("\n" * (block.line - 1) + block.source, name, "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    same = doctest.OutputChecker().check_output(
        block.expected, printed.getvalue(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert same, (
        f"{name}, line {block.line} says:\n{block.expected}\nprinted:\n{printed.getvalue()}"
    )


def imported(source: str) -> set[str]:
    """The top-level packages that a source imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def names_of(page: str) -> set[str]:
    """The names of this library, as ``fo.steps.gradient``, that a page speaks of."""
    return set(re.findall(r"\bfo\.(\w+(?:\.\w+)*)", page))
