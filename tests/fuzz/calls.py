"""Strategies that draw calls of the public API: well-formed ones, and ones with something wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import HealthCheck
from hypothesis import strategies as st

# Each of these enters its targets when it is imported.
from tests.fuzz import closed_forms, folds, programs  # noqa: F401
from tests.fuzz.targets import TARGETS, Call
from tests.fuzz.values import Array, drawers, spoiled

__all__ = ["HEALTH", "TARGETS", "Call", "calls"]

# Some calls are slow and many are large: nothing to be warned of.
HEALTH = (
    HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example,
    HealthCheck.filter_too_much,
)  # fmt: skip


@st.composite
def calls(draw: Any, name: str) -> Call:
    """A call of one target; half of them with one or two arguments spoiled."""
    call = TARGETS[name](draw(drawers()))
    args, kwargs = list(call.args), dict(call.kwargs)
    places = [*range(len(args)), *kwargs]
    if not places or not draw(st.booleans()):
        return call
    for place in {draw(st.sampled_from(places)), draw(st.sampled_from(places))}:
        held: Any = args if isinstance(place, int) else kwargs
        if isinstance(held[place], Array):
            held[place] = spoiled(draw, held[place])
    return dataclasses.replace(call, args=tuple(args), kwargs=tuple(kwargs.items()), spoiled=True)
