"""A loop inside a loop: unrolling the projection inside projected gradient descent, or folding it.

Unrolled, K iterations of ADMM stand for the projection. What they have not reached stays as an
error of the gradient, whatever the outer loop does, and each of them is held in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import foldopt as fo
from foldopt.experiments.convergence.top_k import TopK

__all__ = ["NestedRow", "nested_unrolling", "saved_bytes"]


@dataclasses.dataclass(frozen=True)
class NestedRow:
    """One way to differentiate the nested loop.

    Attributes
    ----------
    name
        Of the way.
    inner
        K, the inner iterations of one projection.
    forward, backward
        Relative L1 errors of x and of ∂L/∂c.
    megabytes
        What autograd holds for the backward pass of one outer iteration.
    """

    name: str
    inner: int
    forward: float
    backward: float
    megabytes: float


def saved_bytes(function: Callable[[], Any]) -> tuple[Any, int]:
    """What a function returns, and the bytes that autograd has saved on the way.

    Every tensor counts once, however often it is saved.

    Examples
    --------
    >>> import torch
    >>> x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    >>> saved_bytes(lambda: (x.exp(), x.exp()))[1]
    16000
    """
    seen: dict[int, int] = {}
    kept: list[Tensor] = []  # a freed tensor's address could be given to another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            kept.append(tensor.detach())
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function()
    return value, sum(seen.values())


def nested_unrolling(
    problem: TopK,
    step_size: float,
    x: Tensor,
    c: Tensor,
    loss: Callable[[Tensor], Tensor],
    counts: tuple[int, ...],
    outer: int = 60,
) -> list[NestedRow]:
    """Errors and memory of unrolling with K inner iterations, and of folding the inner loop.

    Parameters
    ----------
    problem, step_size, x, c, loss
        Smooth top-k selection, its solution x ``(1, n)``, its scores, and a loss of x.
    counts
        The K to try.
    outer
        Outer iterations to unroll; enough for the outer loop's own error to vanish.

    Returns
    -------
    list of NestedRow
        Unrolled for each K, then folded for each K.

    Examples
    --------
    >>> import torch
    >>> c = torch.zeros(1, 4, dtype=torch.float64)
    >>> c[0, 0] = 0.1
    >>> x = TopK(k=1).solve(c)
    >>> rows = nested_unrolling(TopK(k=1), 0.1, x, c, lambda x: x[..., 0], (50,), outer=40)
    >>> rows[-1].backward < 1e-9
    True
    """
    n = x.shape[-1]
    params = c.clone().requires_grad_()
    (reference,) = torch.autograd.grad(
        loss(fo.fold(problem.step(step_size), x, params)).sum(), params
    )
    admm = fo.steps.admm_qp(("equality", "box"))
    sides = (
        torch.ones(1, n, dtype=x.dtype),
        torch.full((1,), float(problem.k), dtype=x.dtype),
        torch.full((n,), problem.floor, dtype=x.dtype),
        torch.ones(n, dtype=x.dtype),
    )
    eye = torch.eye(n, dtype=x.dtype)

    def descended(y: Tensor, c: Tensor) -> Tensor:
        slope = problem.epsilon * (1 + y.log()) - c
        return y - step_size * slope

    def unrolled(y: Tensor, c: Tensor, count: int) -> Tensor:
        bound, prepared = admm.bind(eye, -descended(y, c), *sides)
        w = torch.zeros_like(y)
        for _ in range(count):
            w = bound.update(w, *prepared)
        # Not yet inside the bounds: the logarithm of the next step needs what is.
        return bound.solution(w, *prepared).clamp(problem.floor, 1.0)

    def folded(y: Tensor, c: Tensor, count: int) -> Tensor:
        bound, prepared = admm.bind(eye, -descended(y, c), *sides)
        w = fo.fixed_point(bound, torch.zeros_like(y), *prepared, max_iterations=count)
        return bound.solution(w, *prepared)

    rows = []
    for count in counts:
        _, held = saved_bytes(lambda k=count: unrolled(x, c.clone().requires_grad_(), k))
        params = c.clone().requires_grad_()
        y = x
        for _ in range(outer):
            y = unrolled(y, params, count)
        (grad,) = torch.autograd.grad(loss(y).sum(), params)
        rows.append(NestedRow("unrolled", count, *_errors(y, x, grad, reference), held / 1e6))
    for count in counts:
        if count < 50:
            continue  # the inner loop is to converge: its count is then only an upper limit
        _, held = saved_bytes(lambda k=count: folded(x, c.clone().requires_grad_(), k))
        params = c.clone().requires_grad_()
        y = fo.fold(lambda y, c, k=count: folded(y, c, k), x, params)
        (grad,) = torch.autograd.grad(loss(y).sum(), params)
        rows.append(NestedRow("folded", count, *_errors(y, x, grad, reference), held / 1e6))
    return rows


def _errors(y: Tensor, x: Tensor, grad: Tensor, reference: Tensor) -> tuple[float, float]:
    forward = (y.detach() - x).abs().sum() / x.abs().sum()
    backward = (grad - reference).abs().sum() / reference.abs().sum()
    return float(forward), float(backward)
