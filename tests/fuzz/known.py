"""Findings that are not mended yet: the target, and words of what it says. Delete the mended."""

from __future__ import annotations

import re

__all__ = ["KNOWN", "hangs", "is_known"]

KNOWN: tuple[tuple[str, str], ...] = (
    # An empty batch.
    ("nn.Portfolio", "where expected condition to be a boolean tensor"),
    ("nn.QP", "Expected reduction dim to be specified for input.numel() == 0"),
    ("nn.QP", "The expanded size of the tensor"),
    ("nn.QP", "not enough values to unpack (expected 2, got 0)"),
    ("cvxpy.CvxpyLayer", "cannot reshape tensor of 0 elements"),
    ("nn.TotalVariation", "cannot reshape tensor of 0 elements"),
    # A status of another shape than the batch.
    ("folded", "is invalid for input of size"),
    # Arguments of the wrong kind, dtype or shape, where torch or NumPy complains and we do not.
    ("nn.f_pgd", "Error at foldopt"),
    ("nn.f_fdpg", "names nothing: 'only integer tensors"),
    ("solvers.descent", "not implemented for"),
    ("solvers.descent", "Error at foldopt"),
)


def is_known(target: str, broken: str) -> bool:
    """Whether this has been found before."""
    first = broken.splitlines()[0]
    return any(target == name and words in first for name, words in KNOWN)


def hangs(target: str, call: str) -> bool:
    """Whether this is a call that is known never to end: entries of 1e100 and more in ProxQP."""
    return target == "nn.Portfolio" and re.search(r"e\+[123]\d\d", call) is not None
