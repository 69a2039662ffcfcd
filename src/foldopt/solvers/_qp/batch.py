"""A whole batch in one call, for the engine that can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.solvers._qp.arguments import Blocks
from foldopt.solvers._qp.moreau import moreau, moreau_batch, structure
from foldopt.solvers._qp.one import as_program, finish, judged, plain
from foldopt.solvers._qp.presolve import Reduced, reduce
from foldopt.solvers._qp.program import Answer, Limits
from foldopt.solvers._run.answers import as_one, together
from foldopt.solvers._run.arrays import to_array
from foldopt.solvers._run.dispatch import Failure
from foldopt.status import Solution

__all__ = ["solve_together"]


def solve_together(blocks: Blocks, limits: Limits, blank: Callable[[], Solution]) -> Solution:
    """The samples of a batch, all those of one structure in one call of Moreau."""
    arrays = [to_array(block, np.dtype(np.float64)) for block in blocks.params]
    programs = [
        reduce(
            as_program(
                *(
                    array if dim is None else array[i]
                    for array, dim in zip(arrays, blocks.in_dims, strict=True)
                )
            )
        )
        for i in range(blocks.samples or 0)
    ]
    answers: list[Any] = [None] * len(programs)
    groups: dict[Any, list[int]] = {}
    for i, reduced in enumerate(programs):
        known = plain(reduced)
        if known is None:
            groups.setdefault(structure(reduced.program), []).append(i)
        else:
            answers[i] = as_one(finish(reduced, known))
    for group in groups.values():
        found = _solve(([programs[i] for i in group]), limits)
        for i, answer in zip(group, found, strict=True):
            answers[i] = answer
    reference = next(
        (block for block in blocks.params if isinstance(block, Tensor)),
        torch.zeros((), dtype=torch.float64),
    )
    return together(answers, reference, blank, alone=False)


def _solve(group: list[Reduced], limits: Limits) -> list[Any]:
    programs = [reduced.program for reduced in group]
    try:
        found: list[Answer | Failure] = [*moreau_batch(programs, limits, [None] * len(group))]
    except ImportError:
        raise
    except Exception:  # one sample may be to blame: which one?
        found = [_alone(program, limits) for program in programs]
    answers = []
    for reduced, answer in zip(group, found, strict=True):
        if isinstance(answer, Failure):
            answers.append(answer)
            continue
        answer = judged(reduced.program, answer, limits, "moreau")
        answers.append(as_one(finish(reduced, answer)))
    return answers


def _alone(program: Any, limits: Limits) -> Answer | Failure:
    try:
        return moreau(program, limits, None)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}")
