"""Arguments that name functions, and positions among their params, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["check_functions", "positions_of"]


def check_functions(**functions: Any) -> None:
    """Raise unless every argument is callable."""
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} must be callable, got {type(function).__name__}")


def positions_of(argument: str, positions: Sequence[int]) -> tuple[int, ...]:
    """The positions of some params, checked."""
    if not isinstance(positions, Sequence) or not all(isinstance(p, int) for p in positions):
        raise TypeError(
            f"{argument} must be a sequence of positions such as (1,), got {positions!r}"
        )
    return tuple(positions)
