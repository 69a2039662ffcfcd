"""Previous solutions, by key, to start from."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["WarmStart"]


class WarmStart:
    """Keeps the last solution of each sample, so that the next solve can start there.

    A training loop meets the same samples again and again, with params that have moved a little.
    Samples are known by a key: their index in the data set, say. A solver that can uses what it
    finds; one that cannot does as if there were nothing.

    Parameters
    ----------
    capacity
        How many solutions are kept; the one unused for longest makes room.

    Examples
    --------
    >>> import torch
    >>> from foldopt import solvers
    >>> def root(c, start=None):  # Heron's method, from 1 or from the previous root
    ...     x = 1.0 if start is None else float(start.x)
    ...     while abs(x * x - c) > 1e-12:
    ...         x = (x + c / x) / 2
    ...     return x
    >>> store = solvers.WarmStart()
    >>> with store.at(["a", "b"]):
    ...     solution = solvers.solve_batch(root, torch.tensor([4.0, 9.0]), warm_start=store)
    >>> len(store), store.get("b").x.item()
    (2, 3.0)
    """

    def __init__(self, capacity: int = 100_000) -> None:
        if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
            raise ValueError(f"capacity must be an integer of 1 or more, got {capacity!r}")
        self.capacity = capacity
        self._kept: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._here = threading.local()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def at(self, keys: Iterable[Hashable] | Tensor) -> Iterator[WarmStart]:
        """Say which samples the batches inside the ``with`` block hold, in their order.

        Parameters
        ----------
        keys
            One hashable key for each sample; a tensor or array of integers will do.
        """
        listed = keys.tolist() if isinstance(keys, (Tensor, np.ndarray)) else list(keys)
        before = self.keys
        self._here.keys = listed
        try:
            yield self
        finally:
            self._here.keys = before

    @property
    def keys(self) -> list[Hashable] | None:
        """The keys of the ``with`` block that this thread is in, None outside."""
        return getattr(self._here, "keys", None)

    def keys_for(self, samples: int) -> list[Hashable]:
        """The keys of a batch of ``samples``, or an error that says how to give them."""
        keys = self.keys
        if keys is None:
            raise ValueError(
                "warm_start: the samples have no keys. Solve inside `with warm_start.at(keys):`, "
                "one key for each sample, such as its index in the data set"
            )
        if len(keys) != samples:
            raise ValueError(
                f"warm_start: {len(keys)} keys were given for a batch of {samples} samples"
            )
        return keys

    def get(self, key: Hashable) -> Any:
        """What was kept last of one sample, a :class:`~foldopt.Solution`; None if nothing was."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, solution: Any) -> None:
        """Keep the solution of one sample."""
        with self._lock:
            self._kept[key] = solution
            self._kept.move_to_end(key)
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and worker processes get an empty one: what is kept stays where it was found.
        return {"capacity": self.capacity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["capacity"])
