"""Docstrings are written for Sphinx's roles; the site speaks Markdown. This translates."""

from __future__ import annotations

import re
from typing import Any

import griffe

_MATH_BLOCK = re.compile(
    r"^([ \t]*)\.\. math::(.*(?:\n\1[ \t]+\S.*|\n[ \t]*(?=\n\1[ \t]+\S))*)", re.M
)
_MATH = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([\w.]+)`")


def to_markdown(text: str) -> str:
    """Formulas for MathJax, and references as links where the target is public."""
    text = _MATH_BLOCK.sub(_block, text)
    text = _MATH.sub(lambda found: rf"\({found[1]}\)", text)
    return _ROLE.sub(_link, text)


def _block(found: re.Match[str]) -> str:
    indent, formula = found[1], " ".join(found[2].split())
    return f"\n{indent}\\[{formula}\\]\n"


def _link(found: re.Match[str]) -> str:
    target = found[1]
    shown = target.rsplit(".", 1)[-1]
    if not target.startswith("foldopt."):
        return f"`{shown}`"
    # A reference that nobody answers stays text.
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


class Markdown(griffe.Extension):
    """What griffe calls for each object that it has read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Translate its docstring."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
