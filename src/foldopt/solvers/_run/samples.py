"""A solver of one sample, on numpy, lifted to batches of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt._tree import flatten, unflatten
from foldopt.solvers._run.answers import as_one, together
from foldopt.solvers._run.arrays import check_numbers, count_samples, is_batched, to_array
from foldopt.solvers._run.dispatch import Failure, Task, solve_all
from foldopt.solvers._run.executors import ExecutorLike
from foldopt.solvers._settings import Settings
from foldopt.solvers.warm_start import WarmStart
from foldopt.status import Solution, Status

__all__ = ["lift", "solve_samples"]


def solve_samples(
    one: Callable[..., Solution],
    params: Sequence[Any],
    *,
    names: Sequence[str],
    in_dims: Sequence[int | None],
    settings: Settings,
    releases_gil: bool,
    blank: Callable[[], Solution],
    infinite: Container[str] = (),
    checked: bool = False,
) -> Solution:
    """What every engine does with its batch; the arguments are those of :func:`lift`."""
    return lift(
        one,
        params,
        names=names,
        in_dims=in_dims,
        executor=settings.executor,
        warm_start=settings.warm_start,
        releases_gil=releases_gil,
        blank=blank,
        infinite=infinite,
        checked=checked,
        dtype=np.dtype(np.float64),
    )


def lift(
    one: Callable[..., Any],
    params: Sequence[Any],
    *,
    names: Sequence[str],
    in_dims: Sequence[int | None],
    executor: ExecutorLike,
    warm_start: WarmStart | None,
    releases_gil: bool,
    blank: Callable[[], Solution] | None = None,
    infinite: Container[str] = (),
    checked: bool = False,
    dtype: np.dtype | None = None,
) -> Solution:
    """Solve every sample of a batch, wherever, and put the answers together.

    Parameters
    ----------
    one
        ``one(*arrays, start=None)`` solves one sample.
    params, names, in_dims
        The params; what messages call them; 0 for those with a row for each sample, None for the
        others.
    executor, warm_start
        See :class:`~foldopt.solvers._settings.Settings`.
    releases_gil
        Threads help ``one``.
    blank
        What a sample without an answer gets; None: NaN, in the shape of another one's answer.
    infinite
        The names of params that may hold ±inf.
    checked
        The params have been looked at for NaN and inf already.
    dtype
        What floating-point arrays become for ``one``; None: they stay what they are.
    """
    if not checked:
        check_numbers(params, names, infinite)
    leaves, places = [], []
    for param, name, dim in zip(params, names, in_dims, strict=True):
        found, spec = flatten(param)
        arrays = [to_array(leaf, dtype) for leaf in found]
        # Numbers in the places of the leaves: unlike a spec, they can be sent to any process.
        places.append(unflatten(range(len(leaves), len(leaves) + len(arrays)), spec))
        leaves += [(array, name, dim is not None and is_batched(array)) for array in arrays]
    samples = count_samples(leaves)
    alone = samples is None
    starts: list[Any] = [None] * (1 if samples is None else samples)
    keys = None if warm_start is None else warm_start.keys_for(len(starts))
    if warm_start is not None and keys is not None:
        starts = [warm_start.get(key) for key in keys]
    task = Task(
        _Unflattened(one, tuple(places)),
        tuple(array for array, _, _ in leaves),
        tuple(batched for _, _, batched in leaves),
        starts,
    )
    answers = solve_all(task, executor, releases_gil)
    if warm_start is not None and keys is not None:
        for key, answer in zip(keys, answers, strict=True):
            if not isinstance(answer, Failure) and answer.status == Status.CONVERGED:
                warm_start.put(key, answer)
    reference = next(
        (leaf for leaf in flatten(tuple(params))[0] if _is_real(leaf)),
        torch.zeros((), dtype=torch.float64),
    )
    return together(answers, reference, blank, alone)


@dataclasses.dataclass(frozen=True)
class _Unflattened:
    """``one`` on a flat list of leaves; a plain object, so that it can be sent elsewhere."""

    one: Callable[..., Any]
    places: tuple[Any, ...]  # the params, with the number of a leaf in the place of each leaf

    def __call__(self, *leaves: Any, start: Any = None) -> Solution:
        arguments = []
        for place in self.places:
            if isinstance(place, int):
                arguments.append(leaves[place])
                continue
            numbers, spec = flatten(place)
            arguments.append(unflatten([leaves[number] for number in numbers], spec))
        found = self.one(*arguments) if start is None else self.one(*arguments, start=start)
        return as_one(found)


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
