"""What the tests of the closed-form operators share: drawn points, derivatives, their oracles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

F64 = torch.float64
Operator = Callable[..., Tensor]

# Whole numbers make ties and points on the boundary; the others lie in general position.
entries = st.one_of(st.integers(-3, 3).map(float), st.floats(-50, 50, allow_nan=False))
sizes = st.floats(0, 8, allow_nan=False)  # of a set, or of a weight


@st.composite
def points(draw: st.DrawFn, count: int = 1) -> Any:
    """``count`` float64 vectors of one length between 1 and 7; a single one for 1."""
    n = draw(st.integers(1, 7))
    drawn = draw(
        st.lists(st.lists(entries, min_size=n, max_size=n), min_size=count, max_size=count)
    )
    found = [torch.tensor(row, dtype=F64) for row in drawn]
    return found[0] if count == 1 else found


def leaf(*shape: int, low: float | None = None) -> Tensor:
    """A random leaf: normal, or uniform on (low, low + 1)."""
    value = torch.randn(shape, dtype=F64) if low is None else torch.rand(shape, dtype=F64) + low
    return value.requires_grad_()


def check_derivatives(operator: Operator, *arguments: Tensor) -> None:
    """First and second derivatives in every argument, reverse, forward and batched."""
    assert gradcheck(
        operator,
        arguments,
        check_forward_ad=True,
        check_batched_grad=True,
        check_undefined_grad=False,
    )
    assert gradgradcheck(operator, arguments)


def differences(operator: Operator, *arguments: Tensor, of: int = 0, h: float = 1e-6) -> Tensor:
    """∂operator/∂arguments[of] by central differences; the result's shape comes first."""
    columns = []
    for position in range(arguments[of].numel()):
        ends = []
        for sign in (1, -1):
            moved = arguments[of].detach().clone()
            moved.view(-1)[position] += sign * h
            ends.append(operator(*arguments[:of], moved, *arguments[of + 1 :]))
        columns.append((ends[0] - ends[1]) / (2 * h))
    return torch.stack(columns, -1).reshape(*columns[0].shape, *arguments[of].shape)


def jacobian(operator: Operator, *arguments: Any, of: int = 0) -> Tensor:
    """∂operator/∂arguments[of], once ``jacrev``, ``jacfwd`` and their ``vmap`` have agreed."""
    reverse = torch.func.jacrev(operator, of)(*arguments)
    torch.testing.assert_close(torch.func.jacfwd(operator, of)(*arguments), reverse)
    axes = tuple(0 if k == of else None for k in range(len(arguments)))
    twice = [a.expand(2, *a.shape) if k == of else a for k, a in enumerate(arguments)]
    both = torch.func.vmap(torch.func.jacrev(operator, of), axes)(*twice)
    torch.testing.assert_close(both, reverse.expand_as(both))
    return reverse


def is_limit_of_jacobians(operator: Operator, y: Tensor, *rest: Any, tries: int = 200) -> bool:
    """Whether ∂operator/∂y at a kink is one of those around it, and so a generalized Jacobian."""
    here = jacobian(operator, y, *rest)
    assert torch.isfinite(here).all()
    near = y + 1e-7 * torch.randn(tries, *y.shape, dtype=y.dtype)
    there = torch.func.vmap(torch.func.jacrev(lambda point: operator(point, *rest)))(near)
    return bool(((there - here).abs().flatten(1).amax(-1) < 1e-5).any())


def assert_derivative_of_a_projection(J: Tensor) -> None:
    """Symmetric, with eigenvalues between 0 and 1."""
    torch.testing.assert_close(J, J.mT)
    eigenvalues = torch.linalg.eigvalsh(J)
    assert eigenvalues.min() > -1e-9
    assert eigenvalues.max() < 1 + 1e-9
