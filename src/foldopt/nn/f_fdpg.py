"""f-FDPG: the dual proximal gradient method, folded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt.nn._optimizer import DEFAULT, FoldedOptimizer, Options, Solver, like, start_of
from foldopt.operators._inverse import matvec
from foldopt.solvers.fdpg import check_weight
from foldopt.steps import fdpg

__all__ = ["f_fdpg"]


def f_fdpg(
    prox: Callable[..., Tensor] | None = None,
    *,
    solver: Solver | None = None,
    options: Options = DEFAULT,
) -> FoldedOptimizer:
    r"""Fold the dual proximal gradient method: enhanced total variation with a learned operator.

    :math:`\min_x \tfrac12\|x - d\|^2 + \lambda\|D x\|_1`, with the step of
    :func:`~foldopt.steps.fdpg` on the dual variable.

    Parameters
    ----------
    prox
        The proximal operator of another function than λ‖·‖₁, see :func:`~foldopt.steps.fdpg`.
    solver
        ``solver(d, D, weight)`` gives the dual solution w, ``(*batch, m)``, or x, ``(*batch, n)``,
        if m ≠ n and D has independent rows. None: the step is iterated from w = 0, or from the
        ``x0`` of the call, of the shape of w.
    options
        As for :func:`f_pgd_a`.

    Returns
    -------
    FoldedOptimizer
        ``layer(d, D, weight) -> x``, with D of shape ``(m, n)`` or ``(*batch, m, n)``.

    Raises
    ------
    TypeError, ValueError, FoldError
        As for :func:`f_pgd_a`.

    References
    ----------
    arXiv 2301.12047, Section 5 (f-FDPG) and eq. 28.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> layer = fo.nn.f_fdpg()
    >>> d = torch.tensor([[0.0, 4.0, 5.0]])
    >>> D = torch.tensor([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]], requires_grad=True)
    >>> x = layer(d, D, 1.0)
    >>> torch.round(x.detach(), decimals=3)
    tensor([[1., 4., 4.]])
    >>> x[0, 0].backward()
    >>> bool(D.grad.abs().sum() > 0)
    True
    """
    step = fdpg(prox)
    first = step.precompute
    assert first is not None

    def checked(*params: Any) -> tuple[Any, ...]:
        _check_dtypes(params)
        prepared = first(*params)
        if prox is None:
            check_weight("f_fdpg", params)
        return prepared

    step = dataclasses.replace(step, precompute=checked)

    def to_state(found: Any, d: Tensor, D: Tensor, *rest: Any) -> Tensor:
        m, n = D.shape[-2:]
        if found is None:
            return d.new_zeros(*d.shape[:-1], m)
        value = start_of("f_fdpg", found, (d,), None) if solver is None else like(found, (d,))
        if value.shape == (*d.shape[:-1], n) and m != n:
            # Dᵀ w = x − d, which has one solution where the rows of D are independent.
            return matvec(torch.linalg.pinv(D.mT), value - d)
        if value.shape != (*d.shape[:-1], m):
            raise ValueError(
                f"f_fdpg: expected the dual solution, of shape {(*d.shape[:-1], m)}, or x, of "
                f"shape {tuple(d.shape)}, and got {tuple(value.shape)}"
            )
        return value

    return FoldedOptimizer(step, to_state, solver, options, "f_fdpg")


def _check_dtypes(params: tuple[Any, ...]) -> None:
    for name, block in zip(("d", "D"), params, strict=False):
        if isinstance(block, Tensor) and block.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(
                f"f_fdpg: {name} is {block.dtype} of shape {tuple(block.shape)}. The norm of D "
                "needs float32 or float64, and nothing is cast unasked: pass .float()"
            )
