"""Answers of single samples, checked and put together to a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt._tree import flatten, unflatten
from foldopt.solvers._run.arrays import to_array
from foldopt.solvers._run.dispatch import Failure
from foldopt.status import FoldError, Solution, Status, tally

__all__ = ["as_one", "together"]


def as_one(found: Any) -> Solution:
    """One sample's answer in numpy, whatever form it had; NaN in it is seen."""
    solution = found if isinstance(found, Solution) else Solution(found)
    status = Status.CONVERGED if solution.status is None else Status(int(solution.status))
    if solution.x is None and status != Status.CONVERGED:
        return Solution(None, int(status), None, None, solution.messages or "")
    leaves, spec = flatten(solution.x)
    arrays = [_as_array(leaf) for leaf in leaves]
    if not arrays or not all(isinstance(leaf, (np.ndarray, np.generic)) for leaf in arrays):
        raise TypeError(
            f"the solver must return x as numbers, arrays or tensors, and returned "
            f"{type(solution.x).__name__}"
        )
    if status == Status.CONVERGED and not all(np.isfinite(leaf).all() for leaf in arrays):
        status = Status.NONFINITE
    multipliers, shape = flatten(solution.multipliers)
    held = unflatten([_as_array(leaf) for leaf in multipliers], shape)
    gap = None if solution.gap is None else float(solution.gap)
    return Solution(unflatten(arrays, spec), int(status), held, gap, solution.messages or "")


def _as_array(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, (float, int)) else to_array(leaf, None)


def together(
    answers: list[Any], reference: Tensor, blank: Callable[[], Solution] | None, alone: bool
) -> Solution:
    """A batch of answers; see :func:`~foldopt.solvers._run.samples.lift`."""
    answers = [_without_failure(answer) for answer in answers]
    whole = next((answer for answer in answers if answer.x is not None), None)
    if blank is not None:
        empty = as_one(blank())
    elif whole is not None:
        empty = _nan_like(whole)
    else:
        raise _nothing(answers)
    filled = [
        empty._replace(status=answer.status, messages=answer.messages)
        if answer.x is None
        else answer
        for answer in answers
    ]
    x = _stack([one.x for one in filled], empty.x, reference)
    multipliers = _stack([one.multipliers for one in filled], empty.multipliers, reference)
    gaps = [float("nan") if one.gap is None else one.gap for one in filled]
    gap = None
    if any(one.gap is not None for one in filled):
        gap = torch.tensor(gaps, dtype=reference.dtype, device=reference.device)
    status = torch.tensor([one.status for one in filled], dtype=torch.int64)
    status = status.to(reference.device)
    said = tuple(one.messages for one in filled)
    if not alone:
        return Solution(x, status, multipliers, gap, said)
    first = [
        None if tree is None else unflatten([_first(leaf) for leaf in flatten(tree)[0]], spec)
        for tree, spec in ((x, flatten(x)[1]), (multipliers, flatten(multipliers)[1]))
    ]
    return Solution(first[0], status[0], first[1], None if gap is None else gap[0], said)


def _without_failure(answer: Any) -> Solution:
    if not isinstance(answer, Failure):
        return answer
    if answer.missing:
        raise ImportError(answer.message.partition(": ")[2])
    return Solution(None, int(Status.FAILED), None, None, answer.message)


def _nothing(answers: list[Solution]) -> Exception:
    if not answers:
        return ValueError(
            "solve_batch: the batch is empty, and so the shape of x is not known. Leave such "
            "batches out"
        )
    return FoldError(
        f"solve_batch: the solver has no answer for any of {len(answers)} samples: "
        f"{tally(torch.tensor([answer.status for answer in answers]))}. It says of sample 0: "
        f"{answers[0].messages or 'nothing'}. If it raised, call it on one sample by hand for the "
        "traceback",
        torch.tensor([answer.status for answer in answers]),
    )


def _first(leaf: Any) -> Any:
    return leaf[0] if isinstance(leaf, Tensor) else leaf


def _nan_like(solution: Solution) -> Solution:
    def blanked(tree: Any) -> Any:
        leaves, spec = flatten(tree)
        return unflatten(
            [
                np.full(leaf.shape, np.nan) if isinstance(leaf, np.ndarray) else leaf
                for leaf in leaves
            ],
            spec,
        )

    return Solution(blanked(solution.x), 0, blanked(solution.multipliers), None, "")


def _stack(trees: list[Any], like: Any, reference: Tensor) -> Any:
    """One tree of tensors from a tree of arrays for each sample."""
    wanted, spec = flatten(like)
    columns = []
    for index, tree in enumerate(trees):
        leaves, seen = flatten(tree)
        shapes = [[getattr(leaf, "shape", None) for leaf in each] for each in (leaves, wanted)]
        if seen != spec or shapes[0] != shapes[1]:
            raise FoldError(
                f"solve_batch: the solver must return the same structure and shapes for every "
                f"sample: sample {index} has {shapes[0]}, another one {shapes[1]}"
            )
        columns.append(leaves)
    rows = zip(*columns, strict=True) if columns else [() for _ in wanted]
    stacked = [
        None if leaf is None else _to_tensor(np.stack(row) if row else leaf[None][:0], reference)
        for row, leaf in zip(rows, wanted, strict=True)
    ]
    return unflatten(stacked, spec)


def _to_tensor(array: np.ndarray, reference: Tensor) -> Tensor:
    tensor = torch.as_tensor(array, device=reference.device)
    return tensor.to(reference.dtype) if tensor.is_floating_point() else tensor
