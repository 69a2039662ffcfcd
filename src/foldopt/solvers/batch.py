"""A solver of one instance, lifted to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from foldopt.solvers._run.executors import ExecutorLike, check_executor
from foldopt.solvers._run.samples import lift
from foldopt.solvers.warm_start import WarmStart
from foldopt.status import Solution

__all__ = ["solve_batch"]


def solve_batch(
    one: Callable[..., Any],
    *params: Any,
    in_dims: int | Sequence[int | None] | None = 0,
    executor: ExecutorLike = None,
    warm_start: WarmStart | None = None,
) -> Solution:
    """Solve every sample of a batch by a function that knows only one.

    Each sample ends with a status of its own. One whose ``one`` raises is ``FAILED``, with the
    error's text among the messages and NaN for x; the others are not touched by that. The order
    of the answers is that of the samples, whoever solved them and whenever.

    Parameters
    ----------
    one
        ``one(*arrays) -> x`` for a single instance: any code, no autograd. The params arrive as
        numpy arrays without the batch dimension. It returns x (numbers, an array or a tensor, or a
        nested tuple, list or dict of them), or a :class:`~foldopt.Solution` that also has a status,
        multipliers, a gap or a message.
    *params
        Tensors or arrays with a row for each sample, or nested tuples, lists and dicts of them.
        All must be finite.
    in_dims
        0 for a param with a row for each sample, None for one that all samples share; one for
        each param, or one for all, as in ``torch.func.vmap``.
    executor
        Who works: None or ``"serial"``, this thread; ``"threads"``, as many as there are cores (of
        use if ``one`` spends its time where Python's lock is released); ``"processes"``, likewise,
        kept for later calls (needs ``loky``); ``"auto"``, processes if the first samples took
        long; any ``concurrent.futures.Executor``: of dask, mpi4py, your cluster's, which stays
        open; or a function that makes one, called again should the first one break. When a worker
        dies, its samples are tried again, alone; the ones that kill their worker again are
        ``FAILED``.
    warm_start
        A :class:`~foldopt.solvers.WarmStart`: ``one`` is then called as ``one(*arrays,
        start=solution)`` for samples of which there is a previous :class:`~foldopt.Solution`.

    Returns
    -------
    Solution
        Tensors, with the batch dimension in front, on the device and (where they are real
        numbers) in the dtype of the first floating-point tensor among the params.

    Raises
    ------
    ValueError
        If a param holds NaN or inf, or the params disagree about the number of samples.
    FoldError
        If no sample has an answer, or shapes differ among samples.
    TypeError
        If ``one`` cannot be sent to the executor's processes.
    ImportError
        If ``one`` lacks a package.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from foldopt import solvers
    >>> def solve(A, b):
    ...     return np.linalg.solve(A, b)
    >>> A = torch.stack([torch.eye(2), torch.zeros(2, 2)])  # the second has no solution
    >>> solution = solvers.solve_batch(solve, A, torch.ones(2), in_dims=(0, None))
    >>> solution.x
    tensor([[1., 1.],
            [nan, nan]])
    >>> solution.status.tolist(), solution.messages[1]
    ([0, 12], 'LinAlgError: Singular matrix')
    """
    if not callable(one):
        raise TypeError(f"one must be callable, one(*arrays) -> x, got {type(one).__name__}")
    check_executor(executor)
    if warm_start is not None and not isinstance(warm_start, WarmStart):
        raise TypeError(f"warm_start must be a WarmStart() or None, got {warm_start!r}")
    if in_dims is None or isinstance(in_dims, int):
        in_dims = (in_dims,) * len(params)
    if len(in_dims) != len(params) or any(dim not in (0, None) for dim in in_dims):
        raise ValueError(
            f"in_dims must be 0 or None, or one of them for each of the {len(params)} params, got "
            f"{in_dims!r}"
        )
    return lift(
        one,
        params,
        names=[f"param {position}" for position in range(len(params))],
        in_dims=in_dims,
        executor=executor,
        warm_start=warm_start,
        releases_gil=executor == "threads",
    )
