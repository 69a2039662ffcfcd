"""The active rows of every sample, side by side: as many as the sample has that has most."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Active", "active_rows"]


class Active(NamedTuple):
    """Which rows are active.

    Attributes
    ----------
    index
        Where they stand among the rows of all samples, one after another, ``(B, r)``. What fills up
        is a row of the same sample that is not active: zero in whatever is zero there.
    valid
        Which of these are active, ``(B, r)``.
    """

    index: np.ndarray
    valid: np.ndarray

    def rows(self, of: np.ndarray) -> np.ndarray:
        """The active rows of ``(B or 1, M, n)``, zeros in the place of the others."""
        shared = len(of) == 1
        found = of.reshape(-1, of.shape[-1]).take(
            self.index % of.shape[1] if shared else self.index, 0
        )
        found[~self.valid] = 0
        return found

    def gather(self, entries: np.ndarray) -> np.ndarray:
        """The active entries of ``(*lead, B, M)``, which are zero where a row is not active."""
        return entries.reshape(*entries.shape[:-2], -1).take(self.index, -1)

    def scatter(self, packed: np.ndarray, count: int) -> np.ndarray:
        """The reverse, for ``(*lead, B, r)`` with zeros in the place of rows not active."""
        *lead, samples, _ = packed.shape
        entries = np.zeros((*lead, samples * count))
        entries[..., self.index] = packed
        return entries.reshape(*lead, samples, count)


def active_rows(mask: np.ndarray) -> Active:
    """Pack a mask ``(B, M)``, in order."""
    samples, count = mask.shape
    many = mask.sum(-1)
    width = int(many.max(initial=0))
    valid = np.arange(width) < many[:, None]
    index = np.empty(valid.shape, dtype=np.intp)
    if width:
        # Where all rows are active nothing needs to fill up.
        index[:] = (mask.argmin(-1) + np.arange(0, samples * count, count))[:, None]
        index[valid] = np.flatnonzero(mask)
    return Active(index, valid)
