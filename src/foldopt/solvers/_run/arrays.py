"""Params of a solver: looked at, and made arrays."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt._tree import flatten
from foldopt.solvers import _scipy

__all__ = ["check_numbers", "check_params", "count_samples", "is_batched", "to_array"]


def check_numbers(params: Sequence[Any], names: Sequence[str], infinite: Container[str]) -> None:
    """Raise for NaN or inf, and say where: an engine's answer to them means nothing."""
    for param, name in zip(params, names, strict=True):
        for leaf in flatten(param)[0]:
            values = getattr(leaf, "data", None) if _is_sparse(leaf) else leaf
            if isinstance(values, Tensor):
                values = (values.coalesce().values() if values.is_sparse else values).detach()
                if values.layout != torch.strided:
                    values = values.values()
                if not values.is_floating_point():
                    continue
                # Decided on its own device, and by one sum: NaN and inf both survive in it. Only
                # what is bad (or overflows) is fetched, to be looked at and named.
                if bool(torch.isfinite(values.sum(dtype=torch.float64))):
                    continue
                values = values.cpu().to(torch.float64).numpy()
            if not isinstance(values, (np.ndarray, np.generic, float)):
                continue
            values = np.asarray(values)
            if values.dtype.kind not in "fc":
                continue
            bad = np.isnan(values) if name in infinite else ~np.isfinite(values)
            if bad.any():
                where = tuple(int(i) for i in np.argwhere(bad)[0])
                what = "NaN" if np.isnan(values[where]) else f"{values[where]:+}"
                raise ValueError(
                    f"{name} holds {what} at {list(where)} (shape {tuple(values.shape)}; "
                    f"{int(bad.sum())} such entries): no engine was run. Likely cause: the network "
                    "that predicts it diverged, or data are missing"
                )


def check_params(params: Sequence[Any]) -> None:
    """:func:`check_numbers` for params that have a number and no name."""
    check_numbers(params, [f"param {position}" for position in range(len(params))], ())


def to_array(leaf: Any, dtype: np.dtype | None) -> Any:
    """A tensor as a numpy array; what is no array or tensor stays what it is."""
    if isinstance(leaf, Tensor):
        if leaf.layout != torch.strided:
            return _to_scipy(leaf)
        leaf = leaf.detach().cpu()
        leaf = (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
    if isinstance(leaf, (float, int)) and dtype is not None:
        return np.asarray(leaf, dtype=dtype)
    if isinstance(leaf, (np.ndarray, np.generic)):
        leaf = np.asarray(leaf)
        if dtype is not None and leaf.dtype.kind == "f":
            leaf = np.ascontiguousarray(leaf, dtype=dtype)
    return leaf


def _to_scipy(matrix: Tensor) -> Any:
    entries = matrix.detach().cpu().to_sparse_coo().coalesce()
    row, column = entries.indices().numpy()
    values = entries.values().to(torch.float64).numpy()
    return _scipy.sparse.csc_matrix((values, (row, column)), shape=tuple(matrix.shape))


def is_batched(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.ndim > 0


def count_samples(leaves: list[tuple[Any, str, bool]]) -> int | None:
    """B, or None if nothing has a row for each sample."""
    counts = [(len(array), name) for array, name, batched in leaves if batched]
    for count, name in counts:
        if count != counts[0][0]:
            raise ValueError(
                f"{counts[0][1]} has {counts[0][0]} samples, and {name} has {count}. A param that "
                "all samples share needs in_dims=None at its place"
            )
    return counts[0][0] if counts else None


def _is_sparse(leaf: Any) -> bool:
    return hasattr(leaf, "tocsc")
