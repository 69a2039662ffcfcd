"""Findings that are not mended yet: the target, and words of what it says. Delete the mended."""

from __future__ import annotations

__all__ = ["KNOWN", "is_known"]

KNOWN: tuple[tuple[str, str], ...] = ()


def is_known(target: str, broken: str) -> bool:
    """Whether this has been found before."""
    first = broken.splitlines()[0]
    return any(target == name and words in first for name, words in KNOWN)
