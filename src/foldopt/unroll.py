"""The other two modes of Figure 1, to compare with: unrolling and unfolding; and a forward loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foldopt._arguments import AUTO, CERTIFY, Adjoint, OnFailure, Step, to_tensor
from foldopt._call import graph_break, prepare
from foldopt._problem import Problem
from foldopt._tree import Leaves, flatten, unflatten
from foldopt.anderson import accelerate
from foldopt.certify import Certify
from foldopt.fold import run
from foldopt.linear._common import tolerances
from foldopt.status import Status
from foldopt.step import bind

__all__ = ["fixed_point", "unfold", "unroll"]


def unroll(step: Step, x0: Any, *params: Any, iterations: int) -> Any:
    r"""Run the step from x0 with every iteration recorded: :math:`x_{k+1} = U(x_k, c)`.

    The derivative is that of the loop as it ran, :math:`J_{k+1} = \Phi_k J_k + \Psi_k`, and has
    converged only after the iterates have, with a lag. Time and memory grow with ``iterations``.

    Parameters
    ----------
    step
        ``step(x, *params) -> x``, in PyTorch.
    x0
        Where to start: a tensor or numpy array, or a nested tuple, list or dict of them. It is
        detached.
    *params
        As for :func:`~foldopt.fold`.
    iterations
        How many steps, 0 or more.

    Returns
    -------
    x
        The last iterate, in the structure of ``x0``.

    Raises
    ------
    TypeError, ValueError
        If ``step`` is not callable, or ``iterations`` not an integer of 0 or more.

    References
    ----------
    arXiv 2301.12047, eq. 13–15 and Figure 1.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.tensor([[4.0]], requires_grad=True)
    >>> x = fo.unroll(lambda x, c: 0.5 * (x + c / x), torch.ones(1, 1), c, iterations=20)
    >>> x.sum().backward()
    >>> c.grad
    tensor([[0.2500]])
    """
    if not callable(step):
        raise TypeError(f"step must be callable, step(x, *params) -> x, got {type(step).__name__}")
    _whole("iterations", iterations, 0)
    x = _start(x0, params)
    step, params = bind(step, params)
    for _ in range(iterations):
        x = step(x, *params)
    return x


def unfold(step: Step, x_star: Any, *params: Any, iterations: int) -> Any:
    r"""Unroll from a precomputed fixed point, where Φ and Ψ are constant.

    The forward value does not move; the backward pass is then the linear fixed-point iteration
    :math:`v_{k+1} = \Phi^\top v_k + g`, cut off after ``iterations`` terms: the same numbers as
    ``fold(..., adjoint=LFPI(max_iterations=iterations))``, with all iterations held in memory.

    Parameters
    ----------
    step
        ``step(x, *params) -> x``, in PyTorch.
    x_star
        The fixed point, as for :func:`~foldopt.fold`. It is detached.
    *params
        As for :func:`~foldopt.fold`.
    iterations
        How many steps, 0 or more; with 1 the derivative is Ψ.

    Returns
    -------
    x
        The last iterate, which is x_star to the precision to which x_star is a fixed point.

    Raises
    ------
    TypeError, ValueError
        If ``step`` is not callable, or ``iterations`` not an integer of 0 or more.

    References
    ----------
    arXiv 2301.12047, Section 4 and eq. 16–18.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.tensor([[1.0]], requires_grad=True)
    >>> x = fo.unfold(lambda x, c: 0.5 * x + c, torch.tensor([[2.0]]), c, iterations=3)
    >>> x.sum().backward()
    >>> c.grad  # 1 + 1/2 + 1/4
    tensor([[1.7500]])
    """
    return unroll(step, x_star, *params, iterations=iterations)


@graph_break
def fixed_point(
    step: Step,
    x0: Any,
    *params: Any,
    method: str = "anderson",
    history: int = 5,
    rtol: float | None = None,
    atol: float = 0.0,
    max_iterations: int = 1000,
    adjoint: Adjoint = AUTO,
    batch_dims: int = 1,
    on_failure: OnFailure = "raise",
    certify: Certify = CERTIFY,
) -> Any:
    r"""Find the fixed point :math:`x^\star = U(x^\star, c)` by iterating, and fold it.

    Nothing of the iteration is recorded: the derivative is the implicit one, whatever the way
    that led to x*.

    Parameters
    ----------
    step
        ``step(x, *params) -> x``, in PyTorch; see :func:`~foldopt.fold`.
    x0
        Where to start, in the structure, shapes and dtype of x. No gradient flows into it.
    *params
        As for :func:`~foldopt.fold`.
    method
        ``"anderson"``: Anderson acceleration, which restarts from its best iterate with plain
        steps where it leads astray, or ``"plain"``: :math:`x_{k+1} = U(x_k, c)`.
    history
        How many earlier iterates Anderson acceleration combines with the current one.
    rtol, atol
        A sample stops once ‖U(x) − x‖ ≤ atol + rtol (1 + ‖x‖). ``rtol=None``: 1.1e-11 in float64,
        1.4e-5 in float32.
    max_iterations
        At most so many steps.
    adjoint, batch_dims, on_failure, certify
        As for :func:`~foldopt.fold`. A sample that has not converged has failed.

    Returns
    -------
    x
        The fixed point, differentiable in the params.

    Raises
    ------
    FoldError
        If a sample has not converged, or for the reasons of :func:`~foldopt.fold`.
    ValueError
        If an option is not of its kind.

    References
    ----------
    H. F. Walker, P. Ni, SIAM J. Numer. Anal. 49 (2011), 1715–1735 (Anderson acceleration).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    >>> x = fo.fixed_point(lambda x, c: torch.cos(c * x), torch.zeros(1, 1, dtype=c.dtype), c)
    >>> x.sum().backward()
    >>> s = torch.sin(c * x).detach()
    >>> bool(torch.allclose(c.grad, -x * s / (1 + c * s)))
    True
    """
    if method not in ("anderson", "plain"):
        raise ValueError(f"method must be 'anderson' or 'plain', got {method!r}")
    _whole("max_iterations", max_iterations, 1)
    _whole("history", history, 1)
    tolerances(rtol, atol)
    step, params = bind(step, params)
    call = prepare(step, params, adjoint, batch_dims, on_failure, certify)
    starts = call.take_solution(x0)
    keep = history if method == "anderson" else 0

    def iterate(problem: Problem, starts: Leaves, tensors: Leaves) -> tuple[Leaves, Tensor | None]:
        layout = problem.layout(starts)

        def once(flat: Tensor) -> Tensor:
            return layout.ravel(problem.update(layout.unravel(flat), tensors))

        with torch.no_grad():
            flat, status = accelerate(once, layout.ravel(starts), keep, rtol, atol, max_iterations)
        bad = bool(Status.failed(status).any())
        return layout.unravel(flat), status if bad else None

    iterate.torch_native = True  # pyright: ignore[reportFunctionMemberAccess]
    return run(call, iterate, starts)


def _start(x: Any, params: tuple[Any, ...]) -> Any:
    """x detached; numpy arrays take dtype and device of the first floating param."""
    found = [leaf for leaf in flatten(params)[0] if isinstance(leaf, Tensor)]
    like = next((leaf for leaf in found if leaf.is_floating_point()), None)
    leaves, spec = flatten(x)
    dtype, device = (None, None) if like is None else (like.dtype, like.device)
    return unflatten([to_tensor(leaf, dtype, device) for leaf in leaves], spec)


def _whole(name: str, value: int, least: int) -> None:
    """Raise unless ``value`` is an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of {least} or more, got {value!r}")
