"""Large columns on their way to processes of this machine: by memory, not through a pipe."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["Stored", "stored"]

# Through a pipe a gigabyte takes seconds; below this, a file is not worth opening.
_LARGE = 1 << 20
_MEMORY = "/dev/shm"  # a file system in memory, on Linux; elsewhere the usual temporary folder


@dataclasses.dataclass(frozen=True)
class Stored:
    """Some rows of an array that lies in a file.

    Attributes
    ----------
    path
        Of the file, in numpy's format.
    begin, end
        The rows.
    """

    path: str
    begin: int = 0
    end: int | None = None

    def rows(self, begin: int, end: int) -> Stored:
        """These rows of the whole."""
        return dataclasses.replace(self, begin=begin, end=end)

    def load(self) -> np.ndarray:
        """A copy of the rows, for whoever solves them."""
        return np.array(np.load(self.path, mmap_mode="r")[self.begin : self.end])


@contextlib.contextmanager
def stored(columns: tuple[Any, ...], batched: tuple[bool, ...]) -> Iterator[tuple[Any, ...]]:
    """The columns, with a :class:`Stored` for each large one, until the end of the block."""
    large = [own and column.nbytes > _LARGE for column, own in zip(columns, batched, strict=True)]
    if not any(large):
        yield columns
        return
    home = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="foldopt-", dir=home) as folder:
        given = list(columns)
        try:
            for index, column in enumerate(columns):
                if large[index]:
                    path = os.path.join(folder, f"{index}.npy")
                    np.save(path, column)
                    given[index] = Stored(path)
        except OSError:  # no room there: the pipe has
            given = list(columns)
        yield tuple(given)
