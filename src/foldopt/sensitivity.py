"""∂x*/∂c in full (the paper's Appendix B)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from foldopt._arguments import AUTO, CERTIFY, Step
from foldopt._calculus import pullback, transforms_active
from foldopt._call import graph_break, prepare
from foldopt._problem import Problem
from foldopt._tree import flatten, unflatten
from foldopt.certify import Certify, backward_message, parity
from foldopt.fold import given_solution
from foldopt.jacobian import StepJacobian
from foldopt.linear import Dense, LinearOperator, solve
from foldopt.status import FoldError

__all__ = ["jacobian"]


@graph_break
@torch.no_grad()
def jacobian(
    step: Step, x_star: Any, *params: Any, batch_dims: int = 1, certify: Certify = CERTIFY
) -> Any:
    r"""The Jacobian ∂x*/∂c of a solution, sample by sample.

    By the four steps of the paper's Appendix B: take x*; record one step there and write out
    :math:`\Phi = \partial U/\partial x` and :math:`\Psi = \partial U/\partial c`; solve
    :math:`(I - \Phi)\,\partial x^\star/\partial c = \Psi` by a factorisation of I − Φ.
    The result carries no graph; for derivatives of it, apply ``torch.func.jacrev`` to a function
    that calls :func:`~foldopt.fold`.

    Parameters
    ----------
    step, x_star, *params, batch_dims, certify
        As for :func:`~foldopt.fold`.

    Returns
    -------
    jacobian
        In the structure of x, and in each of its leaves in the structure of the params (of the
        one param, if there is one): a tensor of shape ``(*batch, *x_event, *c_event)`` for a
        batched param, ``(*batch, *x_event, *c_shape)`` for one that the samples share. A param
        counts as batched if it begins with the batch's shape and no sample's step uses another's
        entries. None for leaves that are not floating tensors.

    Raises
    ------
    FoldError
        If the step does not leave ``x_star`` fixed, I − Φ is singular, or a ``torch.func``
        transform is active.

    References
    ----------
    arXiv 2301.12047, eq. DFP and Appendix B.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> M = torch.tensor([[0.5, 0.0], [0.25, 0.5]])
    >>> c = torch.tensor([[1.0, 1.0]])
    >>> fo.jacobian(lambda x, c: x @ M.T + c, torch.tensor([[2.0, 3.0]]), c)
    tensor([[[2., 0.],
             [1., 2.]]])
    """
    if transforms_active():
        raise FoldError(
            "jacobian: called inside a torch.func transform, where its result would carry no "
            "derivative. Call it outside, or apply torch.func.jacrev or jacfwd to foldopt.fold."
        )
    call = prepare(step, params, AUTO, batch_dims, "raise", certify)
    n_weights = len(call.tensors) - sum(isinstance(leaf, Tensor) for leaf in flatten(params)[0])
    wanted = tuple(
        index >= n_weights and leaf.is_floating_point() for index, leaf in enumerate(call.tensors)
    )
    names = ("",) * len(wanted)
    call.options = call.options._replace(wanted=wanted, names=names, recording=True)
    starts = call.take_solution(x_star)
    problem = call.problem(given_solution)
    problem.run(starts, call.tensors)
    at = problem.jacobian(starts, call.tensors)

    found: list[Any] = [None] * len(wanted)
    for index in [index for index, want in enumerate(wanted) if want]:
        psi, event = _psi(at, index, _is_batched(problem, at, index))
        columns = psi.reshape(*psi.shape[:2], math.prod(event)).permute(2, 0, 1)
        solution = solve(Dense(), LinearOperator(at, transpose=False), columns)
        if not solution.solved:
            status = solution.status.amax(0)  # over the columns: one for each sample
            message = backward_message(status, solution.residual.amax(0), "Dense", False)
            raise FoldError(message, status)
        # (p, B, n) to one (*batch, *x_event, *c_event) for each leaf of x.
        blocks = [
            block.movedim(0, -1).reshape(*at.layout.batch, *shape, *event)
            for block, shape in zip(
                solution.value.split(at.layout.sizes, -1), at.layout.events, strict=True
            )
        ]
        found[index] = [block.to(call.x_dtype) for block in blocks]

    leaves = [
        _in_params(call.arrange([None if f is None else f[k] for f in found]), params)
        for k in range(len(at.layout.events))
    ]
    assert call.x_spec is not None
    return unflatten(leaves, call.x_spec)


def _in_params(arranged: tuple[Any, ...], params: tuple[Any, ...]) -> Any:
    return arranged[0] if len(params) == 1 else arranged


def _psi(at: StepJacobian, index: int, batched: bool) -> tuple[Tensor, torch.Size]:
    """Ψ for one param, ``(B, n, *event)``, and that event shape."""
    layout, param = at.layout, at.params[index]
    samples, n, dims = layout.samples, layout.n, len(layout.batch)
    unit = torch.eye(n, dtype=at.value[0].dtype, device=param.device).unsqueeze(1)

    def rows(cotangents: Tensor) -> Tensor:
        """Ψᵀ v for v of shape ``(k, B, n)``."""

        def one(v: Tensor) -> Tensor:
            return pullback(at.value, (param,), layout.unravel(v))[0]

        if n == 0:
            return param.new_zeros(0, *param.shape)
        try:
            return torch.func.vmap(one)(cotangents)
        except RuntimeError:  # an operation without a batching rule
            return torch.stack([one(v) for v in cotangents])

    if batched:
        found = rows(unit.expand(n, samples, n).contiguous())
        event = param.shape[dims:]
        return found.reshape(n, samples, *event).transpose(0, 1), event
    per_sample = []
    for sample in range(samples):
        only = torch.zeros(1, samples, 1, dtype=unit.dtype, device=unit.device)
        only[:, sample] = 1
        per_sample.append(rows(unit * only))
    if not per_sample:
        return param.new_zeros(0, n, *param.shape), param.shape
    return torch.stack(per_sample), param.shape


def _is_batched(problem: Problem, at: StepJacobian, index: int) -> bool:
    """Whether the param has a row for each sample, and no sample uses another's."""
    layout, param = at.layout, at.params[index]
    if param.shape[: len(layout.batch)] != layout.batch:
        return False
    rows = (layout.samples, -1) if param.numel() else (layout.samples, 0)
    like = layout.ravel(at.x).detach()
    for chosen in parity(layout.samples, like.device):
        # Some samples' cotangents must not reach the others' rows.
        cotangent = chosen.to(like.dtype).unsqueeze(-1).expand_as(like).contiguous()
        (grad,) = pullback(at.value, (param,), layout.unravel(cotangent))
        if bool((grad.reshape(rows)[~chosen] != 0).any()):
            return False
        # A derivative may be zero at this one point, as that of M x in M at x = 0. So NaN in the
        # others' rows must not reach these samples either.
        spoilt = param.detach().reshape(rows).clone()
        spoilt[~chosen] = torch.nan
        leaves = list(at.params)
        leaves[index] = spoilt.reshape(param.shape)
        try:
            value = layout.ravel(problem.update(at.x, tuple(leaves)))
        except Exception:  # a step that refuses NaN says nothing
            continue
        if bool(value[chosen].isnan().any()):
            return False
    return True
