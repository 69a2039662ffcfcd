"""Nested tuples, lists and dicts of tensors, and how they become one matrix (batch, n)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

Leaves = tuple[Tensor, ...]
Spec = pytree.TreeSpec


_ONE_LEAF: Spec = pytree.tree_flatten(0)[1]


def flatten(tree: Any) -> tuple[list[Any], Spec]:
    """The leaves of a nested tuple, list or dict, and what it takes to put them back."""
    if isinstance(tree, Tensor):  # by far the most common, and the general way takes 10 µs
        return [tree], _ONE_LEAF
    kind = type(tree)
    if (
        isinstance(tree, tuple)
        and (kind is tuple or hasattr(kind, "_fields"))
        and all(isinstance(one, Tensor) for one in tree)
        and not torch.compiler.is_compiling()  # which does not look into a cache
    ):
        return list(tree), _row_of_leaves(kind, len(tree))
    return pytree.tree_flatten(tree)


@functools.cache
def _row_of_leaves(kind: type, count: int) -> Spec:
    """The structure of a tuple, or of a named one, whose entries are all leaves."""
    make = kind if kind is tuple else kind._make  # pyright: ignore[reportAttributeAccessIssue]
    spec = pytree.tree_flatten(make(range(count)))[1]
    _MAKE[id(spec)] = make
    return spec


# How such a structure is put together again; they are never dropped, so that none has another's id.
_MAKE: dict[int, Callable[[Sequence[Any]], Any]] = {}


def unflatten(leaves: Sequence[Any], spec: Spec) -> Any:
    """The inverse of :func:`flatten`."""
    if spec is _ONE_LEAF:
        return leaves[0]
    make = _MAKE.get(id(spec))
    if make is not None:
        return make(leaves)
    return pytree.tree_unflatten(list(leaves), spec)


def describe(leaves: Sequence[Any]) -> str:
    """The shapes, dtypes and devices of some leaves, for a message."""

    def one(leaf: Any) -> str:
        if not isinstance(leaf, Tensor):
            return type(leaf).__name__
        return f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')} on {leaf.device}"

    return ", ".join(map(one, leaves)) or "nothing"


class Layout:
    """How the leaves of x, each ``(*batch, *event)``, lie side by side in one ``(B, n)`` matrix.

    Attributes
    ----------
    batch, events
        The shapes: of the batch, and of each leaf's events.
    samples, sizes, n
        B, how many numbers each leaf has for a sample, and their sum.
    """

    __slots__ = ("_flat", "_rows", "batch", "events", "n", "samples", "sizes")

    def __init__(self, leaves: Leaves, batch_dims: int) -> None:
        self.batch = leaves[0].shape[:batch_dims]
        self.events = tuple(leaf.shape[batch_dims:] for leaf in leaves)
        self.samples = math.prod(self.batch)
        self.sizes = [math.prod(event) for event in self.events]
        self.n = sum(self.sizes)
        # Are the leaves (B, size) already, and is there but one?
        self._rows = batch_dims == 1 and all(len(event) == 1 for event in self.events)
        self._flat = self._rows and len(leaves) == 1

    def ravel(self, leaves: Leaves) -> Tensor:
        """Leaves ``(*lead, *batch, *event)`` to one tensor ``(*lead, B, n)``."""
        if self._flat:
            return leaves[0]
        lead = leaves[0].dim() - len(self.batch) - len(self.events[0])
        parts = [
            leaf if self._rows else leaf.reshape((*leaf.shape[:lead], self.samples, size))
            for leaf, size in zip(leaves, self.sizes, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def unravel(self, flat: Tensor) -> Leaves:
        """One tensor ``(*lead, B, n)`` to leaves ``(*lead, *batch, *event)``."""
        if self._flat:
            return (flat,)
        lead = flat.shape[:-2]
        parts = (flat,) if len(self.events) == 1 else torch.split_with_sizes(flat, self.sizes, -1)
        if self._rows:
            return tuple(parts)
        return tuple(
            part.reshape((*lead, *self.batch, *event))
            for part, event in zip(parts, self.events, strict=True)
        )


def floating(leaves: Leaves) -> tuple[list[int], Leaves]:
    """The leaves that can be differentiated, and where they stand."""
    where = [index for index, leaf in enumerate(leaves) if leaf.is_floating_point()]
    return where, tuple(leaves[index] for index in where)


def given(leaves: Leaves, tangents: tuple[Tensor | None, ...]) -> tuple[list[int], Leaves, Leaves]:
    """The leaves that have a tangent, where they stand, and their tangents."""
    pairs = [
        (index, leaf, tangent)
        for index, (leaf, tangent) in enumerate(zip(leaves, tangents, strict=True))
        if tangent is not None and leaf.is_floating_point()
    ]
    where, kept, push = zip(*pairs, strict=True) if pairs else ((), (), ())
    return list(where), tuple(kept), tuple(push)


def put(leaves: Leaves, where: list[int], new: Leaves) -> Leaves:
    """The leaves with those at ``where`` replaced."""
    out = list(leaves)
    for index, leaf in zip(where, new, strict=True):
        out[index] = leaf
    return tuple(out)


def split(leaves: Leaves, n_x: int) -> tuple[Leaves, Leaves]:
    return leaves[:n_x], leaves[n_x:]


def spread(count: int, where: list[int], grads: Leaves) -> list[Tensor | None]:
    """Gradients back in their places, None elsewhere."""
    out: list[Tensor | None] = [None] * count
    for index, grad in zip(where, grads, strict=True):
        out[index] = grad
    return out


def to_front(tensors: tuple, dims: tuple) -> tuple[Leaves, tuple[bool, ...]]:
    """Mapped tensors with the mapped dimension in front, and which they are."""
    fronted = tuple(
        leaf if dim is None else leaf.movedim(dim, 0)
        for leaf, dim in zip(tensors, dims, strict=True)
    )
    return fronted, tuple(dim is not None for dim in dims)


def identity_of(x: Leaves, params: Leaves) -> tuple:
    """Tells whether two sets of tensors are the same memory, seen the same way."""
    return tuple([(leaf.data_ptr(), leaf.shape, leaf.stride()) for leaf in (*x, *params)])
