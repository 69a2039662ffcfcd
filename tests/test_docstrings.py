"""Every public name says what it is, what it takes, what it gives back, and shows it.

Docstrings are numpydoc. What must be there depends on the kind of the name:

- everything: a summary of one sentence;
- a function: each parameter, what it returns, an example;
- a class that users make: each parameter, an example;
- a record that the library makes (a named tuple, or a dataclass with ``Attributes``): each field;
- an enum, an exception, a protocol, a module: nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import enum
import importlib
import inspect
import itertools
import re
import types
import typing
from typing import Any, Protocol

import pytest

import foldopt
from foldopt import diagnose, linear, nn, operators, projections, prox, solvers, steps

ROOMS = {
    "foldopt": foldopt,
    "foldopt.prox": prox,
    "foldopt.projections": projections,
    "foldopt.operators": operators,
    "foldopt.solvers": solvers,
    "foldopt.steps": steps,
    "foldopt.linear": linear,
    "foldopt.nn": nn,
    "foldopt.diagnose": diagnose,
}
with contextlib.suppress(ImportError):  # the cvxpy it needs is not made for every Python
    ROOMS["foldopt.cvxpy"] = importlib.import_module("foldopt.cvxpy")
PUBLIC = sorted(
    f"{room}.{name}"
    for room, module in ROOMS.items()
    for name in module.__all__
    if typing.get_origin(getattr(module, name)) is None  # an alias of types has no text of its own
)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name: str) -> None:
    room, _, attribute = name.rpartition(".")
    assert gaps(getattr(ROOMS[room], attribute)) == []


def gaps(subject: Any) -> list[str]:
    """What the docstring of a public object lacks."""
    text = inspect.cleandoc(subject.__doc__ or "")
    if not text:
        return ["a docstring"]
    found = [] if one_sentence(summary_of(text)) else ["a summary of one sentence"]
    if not needs_sections(subject):
        return found
    sections = sections_of(text)
    record = is_record(subject)
    documented = documented_in(sections.get("Parameters", ""))
    if record:
        documented |= documented_in(sections.get("Attributes", ""))
    signature = inspect.signature(subject)
    taken = [parameter for parameter in signature.parameters if parameter != "self"]
    found += [f"parameter {name}" for name in taken if name not in documented]
    known = set(taken) | set(getattr(subject, "__annotations__", {}))
    found += [f"{name}, which is no parameter" for name in sorted(documented - known)]
    returns_nothing = signature.return_annotation in (None, "None")
    returns = inspect.isclass(subject) or returns_nothing or sections.keys() & {"Returns", "Yields"}
    found += [] if returns else ["Returns"]
    if taken and not record and not doctest.DocTestParser().get_examples(text):
        found.append("an example")
    return found


def needs_sections(subject: Any) -> bool:
    if isinstance(subject, types.ModuleType):
        return False
    if not inspect.isclass(subject):
        return True
    return not (issubclass(subject, (enum.Enum, BaseException)) or Protocol in subject.__bases__)


def is_record(subject: Any) -> bool:
    """A class of plain fields that says so by documenting them as attributes."""
    if not inspect.isclass(subject):
        return False
    plain = dataclasses.is_dataclass(subject) or hasattr(subject, "_fields")
    return plain and "Attributes" in sections_of(inspect.cleandoc(subject.__doc__ or ""))


def summary_of(text: str) -> str:
    """The first paragraph."""
    return " ".join(text.split("\n\n")[0].split())


def one_sentence(summary: str) -> bool:
    """Whether a text ends with a full stop, and has none before."""
    return re.search(r"[.!?]\s+[A-Z]", summary) is None and summary.endswith(".")


def sections_of(text: str) -> dict[str, str]:
    """The body of each section that is underlined as numpydoc wants it."""
    parts = re.split(r"^([A-Z][\w ]*)\n-{3,}\n", text, flags=re.M)
    return {name: body.rstrip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def documented_in(section: str) -> set[str]:
    """The names that a section of parameters describes: "a, b" and "*c : int" give a, b, c.

    A name without a description under it does not count.
    """
    found: set[str] = set()
    for line, following in itertools.pairwise(section.splitlines()):
        if line and not line[0].isspace() and following.startswith("    "):
            found |= {name.strip().lstrip("*") for name in line.split(":")[0].split(",")}
    return found


def sound(a: int, *b: int, c: str) -> int:
    """Add things; see also
    other things.

    Parameters
    ----------
    a, *b
        Numbers.
    c : str
        A word.

    Returns
    -------
    int
        A number.

    Examples
    --------
    >>> 1 + 1
    2
    """
    return a + len(b) + len(c)


def changed(old: str, new: str) -> Any:
    """``sound`` with another docstring."""
    assert sound.__doc__ is not None
    assert old in sound.__doc__

    def copy(a: int, *b: int, c: str) -> int:
        return sound(a, *b, c=c)

    copy.__doc__ = sound.__doc__.replace(old, new)
    return copy


@dataclasses.dataclass
class Point:
    """A point.

    Attributes
    ----------
    x
        How far right.
    """

    x: int
    y: int


@dataclasses.dataclass
class Options:
    """Options."""

    size: int = 1


class Colour(enum.Enum):
    """A colour."""

    RED = 1


class WrongError(Exception):
    """A summary without a full stop"""


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (sound, []),
        (Colour, []),
        (WrongError, ["a summary of one sentence"]),
        (Point, ["parameter y"]),
        (Options, ["parameter size", "an example"]),
        (changed("other things.", "other things"), ["a summary of one sentence"]),
        (changed("things; see", "things. See"), ["a summary of one sentence"]),
        (changed("a, *b", "a"), ["parameter b"]),
        (changed("a, *b", "a, *b, d"), ["d, which is no parameter"]),
        (changed("        A word.\n", ""), ["parameter c"]),
        (
            changed("Parameters\n    ------", "Arguments\n    ------"),
            ["parameter a", "parameter b", "parameter c"],
        ),
        (changed("Returns\n    ------", "Gives\n    ------"), ["Returns"]),
        (changed(">>>", ""), ["an example"]),
        (lambda a: a, ["a docstring"]),
    ],
)
def test_the_checker_finds(subject: Any, expected: list[str]) -> None:
    assert gaps(subject) == expected
