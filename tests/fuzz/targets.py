"""A call of the public API, and the table of the functions that make one.

A call is a source text that makes what is called (``fo.nn.QP(on_failure='mask')``), arguments, and
what may be expected of it if nothing is wrong. Its repr is a program that repeats it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tests.fuzz.values import Array, Drawer, Source

Argument = Array | Source


@dataclasses.dataclass(frozen=True)
class Call:
    """One call.

    Attributes
    ----------
    target
        The name of the strategy that drew it.
    function
        Source of what is called, with ``fo``, ``torch``, ``np`` and ``f`` (the functions of
        :mod:`tests.fuzz.functions`) at hand.
    args, kwargs
        The arguments.
    shape
        Of the first tensor that it returns, if nothing is wrong; None: not known.
    smooth
        Whether the derivative can be held against finite differences of the call.
    spoiled
        Whether something was made wrong, or extreme, on purpose.
    """

    target: str
    function: str
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...] = ()
    shape: tuple[int, ...] | None = None
    smooth: bool = True
    spoiled: bool = False

    def __repr__(self) -> str:
        given = [repr(arg) for arg in self.args]
        given += [f"{name}={value!r}" for name, value in self.kwargs]
        inside = ",\n    ".join(given)
        return f"{self.function}(\n    {inside},\n)" if given else f"{self.function}()"


Maker = Callable[[Drawer], Call]
TARGETS: dict[str, Maker] = {}


def target(name: str) -> Callable[[Maker], Maker]:
    def enter(maker: Maker) -> Maker:
        TARGETS[name] = maker
        return maker

    return enter


def options(d: Drawer, **choices: tuple[Any, ...]) -> str:
    """Keyword arguments as source, most of them left out; each value as its repr."""
    given = []
    for name, values in choices.items():
        if d.among(False, False, True):
            given.append(f"{name}={d.among(*values)!r}")
    return ", ".join(given)


ON_FAILURE = ("raise", "mask", "warn", "mask", "never", None)
