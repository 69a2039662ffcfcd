"""Steps on (x, λ, ν): what their tests share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import steps
from foldopt._tree import flatten, unflatten
from foldopt.jacobian import StepJacobian
from foldopt.operators import PrimalDual
from tests.programs import CASES, F64, Case

Build = Callable[..., steps.Step]

# From (objective, inequality, equality, step_size) to a step whose Φ is (1 − α) I.
BUILDERS: dict[str, Build] = {
    "newton_kkt": steps.newton_kkt,
    "sqp": steps.sqp,
    "sqp by ADMM": functools.partial(steps.sqp, method="admm"),
    "sqp by qpth": functools.partial(steps.sqp, method="qpth"),
}
# qpth's own backward pass is an old-style function: no transform, no second derivative.
FULL = ("newton_kkt", "sqp", "sqp by ADMM")


def build(name: str, *arguments: Any, **options: Any) -> steps.Step:
    """One of ``BUILDERS``; the test is skipped where its package is missing."""
    if "qpth" in name:
        pytest.importorskip("qpth")
    return BUILDERS[name](*arguments, **options)


def functions(case: Case) -> tuple[Any, Any, Any]:
    return case.objective, case.inequality, case.equality


@functools.cache
def solved(name: str, seed: int = 0) -> tuple[Case, PrimalDual]:
    """A case of :mod:`tests.programs` and its solution, with multipliers by least squares."""
    torch.manual_seed(seed)
    case = CASES[name]()
    x = case.solve(*case.params)
    return case, steps.multipliers(*functions(case))(x, *case.params)


def phi(step: steps.Step, z: Any, *params: Any) -> Tensor:
    """Φ of each sample, ``(B, N, N)``, N the length of all of z."""
    leaves, spec = flatten(z)

    def update(x: tuple[Tensor, ...], _: Any) -> tuple[Tensor, ...]:
        return tuple(flatten(step(unflatten(x, spec), *params))[0])

    return StepJacobian(update, tuple(leaves), (), 1, ()).dense()


def assert_multiple_of_identity(matrix: Tensor, factor: float, atol: float = 1e-9) -> None:
    wanted = factor * torch.eye(matrix.shape[-1], dtype=matrix.dtype).expand_as(matrix)
    torch.testing.assert_close(matrix, wanted, rtol=0, atol=atol)


def count_products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the outermost recorded step, as it happens; not of folds inside it."""
    seen: list[str] = []
    inner: set[int] = set()
    depth = 0
    start = StepJacobian.__init__

    def recorded(self: StepJacobian, *arguments: Any) -> None:
        nonlocal depth
        if depth:
            inner.add(id(self))
            keep.append(self)
        depth += 1
        try:
            start(self, *arguments)
        finally:
            depth -= 1

    keep: list[StepJacobian] = []  # or else another one might get its id
    monkeypatch.setattr(StepJacobian, "__init__", recorded)
    for name in ("vjp", "params_vjp"):
        product = getattr(StepJacobian, name)

        def counted(self: StepJacobian, v: Tensor, name: str = name, product: Any = product) -> Any:
            if id(self) not in inner:
                # A stack of cotangents is as many products.
                seen.extend([name] * (v[..., 0, 0].numel() if v.numel() else 1))
            return product(self, v)

        monkeypatch.setattr(StepJacobian, name, counted)
    return seen


# -- a program with a solution in closed form ------------------------------------------------


def linear(x: Tensor, c: Tensor, r: Tensor) -> Tensor:
    return c @ x


def ball(x: Tensor, c: Tensor, r: Tensor) -> Tensor:
    """‖x‖ ≤ r, the only constraint of the closed form below."""
    return x @ x - r**2


def lowest(c: Tensor, r: Tensor | float) -> PrimalDual:
    """The point of the ball that has the least cᵀx; c is ``(*batch, n)``, r ``(*batch,)``."""
    length = torch.linalg.vector_norm(c, dim=-1)
    radius = torch.as_tensor(r).unsqueeze(-1)
    x = -radius * c / length.unsqueeze(-1)
    return PrimalDual(x, length.unsqueeze(-1) / (2 * radius), c[..., :0])


def fold_lowest(step: steps.Step, c: Tensor, r: Any, batch_dims: int = 1, **options: Any) -> Any:
    """The same by a fold of the solution."""
    point = lowest(c.detach(), r.detach() if isinstance(r, Tensor) else r)
    return fo.fold(step, point, c, r, batch_dims=batch_dims, **options)


def leaves_of(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Random float64 leaves, a single number in (1, 2) for shapes without n."""
    return [
        (torch.randn(shape, dtype=F64) if len(shape) > 1 else 1 + torch.rand(shape, dtype=F64))
        .requires_grad_()
        for shape in shapes
    ]  # fmt: skip
