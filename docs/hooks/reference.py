"""Writes the reference out: `::: foldopt.nn` alone on a line becomes a section for each name.

The names are those of the module's ``__all__``, so that a new one needs no line here. A name that
two places hand on is described once, at the first of them.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import types
from typing import Any

# In this order: where a name is handed on twice, the first place describes it.
ROOMS = (
    "foldopt", "foldopt.steps", "foldopt.solvers", "foldopt.nn", "foldopt.cvxpy",
    "foldopt.linear", "foldopt.projections", "foldopt.prox", "foldopt.operators",
    "foldopt.diagnose", "foldopt.learning", "foldopt.learning.pyepo",
)  # fmt: skip
_LINE = re.compile(r"^::: (foldopt[\w.]*)$", re.M)
_DESCRIBE = """
::: {path}
    options:
        show_root_heading: false
        show_root_toc_entry: false
        heading_level: 3
"""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls for each page."""
    return _LINE.sub(lambda found: sections(found[1]), markdown)


def sections(room: str) -> str:
    """The Markdown of all that a module hands on."""
    module = importlib.import_module(room)
    return "\n".join(section(room, name, getattr(module, name)) for name in sorted_names(module))


def sorted_names(module: types.ModuleType) -> list[str]:
    """Alphabetically, whatever the case; rooms within rooms last."""
    return sorted(
        module.__all__,
        key=lambda name: (inspect.ismodule(getattr(module, name)), name.lower()),
    )


def section(room: str, name: str, subject: Any) -> str:
    """One name: a heading that links can find, and what is to be said of it."""
    public = f"{room}.{name}"
    if inspect.ismodule(subject) and subject.__name__ in ROOMS:
        return f"- Module [`{public}`]({subject.__name__.split('.', 1)[1].replace('.', '-')}.md)"
    heading = f"## {name} {{#{public} data-toc-label='{name}'}}\n"
    first = home_of(subject)
    if first is not None and first != public:
        return f"{heading}\nThe same as [`{first}`][{first}].\n"
    if inspect.isclass(subject) or inspect.isfunction(subject):
        path = f"{subject.__module__}.{subject.__qualname__}"
        return heading + signature_of(name, subject) + _DESCRIBE.format(path=path)
    return f"{heading}\n```text\n{name} = {subject!r}\n```\n"


def signature_of(name: str, subject: Any) -> str:
    """How it is called, without the annotations, which stand with the parameters."""
    if inspect.isclass(subject) and issubclass(subject, (enum.Enum, BaseException)):
        return ""
    signature = inspect.signature(subject)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    text = f"{name}{inspect.Signature(bare)}"
    if len(text) > 80:  # one parameter a line
        inside = ",\n    ".join(str(part) for part in _with_marks(bare))
        text = f"{name}(\n    {inside},\n)"
    return f"\n```py\n{text}\n```\n"


def _with_marks(parameters: list[inspect.Parameter]) -> list[str]:
    """The parameters as text, with the ``*`` and ``/`` that say how they are passed."""
    marked, star, only = [], False, False
    for parameter in parameters:
        if only and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            marked.append("/")
        only = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            marked.append("*")
            star = True
        star = star or parameter.kind is inspect.Parameter.VAR_POSITIONAL
        marked.append(str(parameter))
    return marked


def home_of(subject: Any) -> str | None:
    """The first public place of a name; None for what is not known by identity."""
    if not (inspect.isclass(subject) or inspect.isfunction(subject)):
        return None
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            if getattr(module, name) is subject:
                return f"{room}.{name}"
    return None
