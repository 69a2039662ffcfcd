"""Landscapes with several minima, saddles and flat valleys: gradients of a branch, and its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, Status, solvers
from foldopt.nn.nlp import NLP, NLPSolution

F64 = torch.float64
NEAR = {
    "bound_push": 1e-9, "bound_frac": 1e-9, "slack_bound_push": 1e-9, "slack_bound_frac": 1e-9,
    "mu_init": 1e-9,
}  # fmt: skip


def rosenbrock(x: Tensor, p: Tensor) -> Tensor:
    return (p[0] - x[0]) ** 2 + 100 * (x[1] - p[1] * x[0] ** 2) ** 2


def himmelblau(x: Tensor, p: Tensor) -> Tensor:
    return (x[0] ** 2 + x[1] - 11 * p[0]) ** 2 + (x[0] + x[1] ** 2 - 7 * p[1]) ** 2


def camel(x: Tensor, p: Tensor) -> Tensor:
    """The one with six humps."""
    first = (4 - 2.1 * x[0] ** 2 + x[0] ** 4 / 3) * x[0] ** 2
    return p[0] * first + x[0] * x[1] + (4 * x[1] ** 2 - 4 * p[1]) * x[1] ** 2


def rastrigin(x: Tensor, p: Tensor) -> Tensor:
    waves = 10 * torch.cos(2 * math.pi * (x - 0.1 * p[0]))
    return (x.square() - waves).sum() + p[1] * x[0] * x[1]


def disc(radius: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, p: x @ x - radius * p[2]


def half(x: Tensor, p: Tensor) -> Tensor:
    return p[2] - x[0] - x[1]


GRID = torch.cartesian_prod(*[torch.tensor([-2.1, -0.4, 1.7], dtype=F64)] * 2)
LANDSCAPES: dict[str, tuple[Any, Any]] = {
    "Rosenbrock": (rosenbrock, disc(1.5)),
    "Himmelblau": (himmelblau, disc(16.0)),
    "six-hump camel": (camel, disc(5.0)),
    "Rastrigin": (rastrigin, half),
}


@pytest.mark.parametrize("name", LANDSCAPES)
def test_the_gradient_is_that_of_the_branch(name: str) -> None:
    objective, inequality = LANDSCAPES[name]
    p = torch.tensor([1.05, 0.95, 1.0], dtype=F64, requires_grad=True)
    layer = NLP(
        objective, inequality, shared=(0,), multipliers=True, on_failure="mask", executor="serial"
    )
    found = layer(p, start=GRID)
    assert isinstance(found, NLPSolution)
    good = found.status == Status.CONVERGED
    assert int(good.sum()) >= 6
    optima = torch.unique(found.x.detach()[good].round(decimals=4), dim=0)
    assert len(optima) >= (1 if name == "Rosenbrock" else 3)
    weights = torch.tensor([1.0, -0.6], dtype=F64)
    slopes = torch.stack(
        [torch.autograd.grad(x @ weights, p, retain_graph=True)[0] for x in found.x]
    )
    assert (slopes[~good] == 0).all()
    near = found.x.detach()[good]
    direction = torch.tensor([0.7, -0.4, 0.5], dtype=F64)
    ends = []
    for sign in (1, -1):
        engine = solvers.Ipopt(
            objective, inequality, shared=(0,), start=near, rtol=1e-10, options=NEAR,
            executor="serial",
        )  # fmt: skip
        ends.append(engine(p.detach() + sign * 1e-5 * direction).x)
    differences = (ends[0] - ends[1]) @ weights / 2e-5
    assert torch.allclose(slopes[good] @ direction, differences, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("on_failure", ["raise", "mask"])
def test_a_saddle_is_reported(on_failure: Any) -> None:
    """From the ridge x₂ = 0 Ipopt ends on a saddle: by symmetry nothing pushes it off."""
    layer = NLP(
        lambda x, p: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 + p * x[0],
        on_failure=on_failure,
        multipliers=True,
        executor="serial",
    )
    p = torch.tensor([1.0, 1.0], dtype=F64, requires_grad=True)
    start = torch.tensor([[1.0, 0.1], [1.0, 0.0]], dtype=F64)
    if on_failure == "raise":
        with pytest.raises(FoldError, match="no local minimum"):
            layer(p, start=start)
        return
    with fo.record() as seen:
        found = layer(p, start=start)
    assert isinstance(found, NLPSolution)
    assert found.status.tolist() == [Status.CONVERGED, Status.FAILED]
    assert seen[0].messages[0] == ""
    assert "no local minimum" in seen[0].messages[1]
    assert torch.allclose(found.x[1], torch.tensor([-0.5, 0.0], dtype=F64))  # where it ended
    (gradient,) = torch.autograd.grad(found.x[:, 0].sum(), p)
    assert torch.allclose(gradient, torch.tensor([-0.5, 0.0], dtype=F64), atol=1e-10)


def test_a_saddle_with_an_active_constraint() -> None:
    """On the circle x₁ is stationary at (r, 0) and (−r, 0), of which the first is a maximum."""
    layer = NLP(
        lambda x, r: x[0],
        None,
        lambda x, r: x @ x - r**2,
        solver=lambda r: torch.stack([r, 0 * r], -1),
        on_failure="mask",
        multipliers=True,
    )
    found = layer(torch.tensor([2.0, -2.0], dtype=F64))
    assert isinstance(found, NLPSolution)
    assert found.status.tolist() == [Status.FAILED, Status.CONVERGED]


def test_the_end_of_a_branch_is_reported() -> None:
    """The minimum √p of x³/3 − px meets a maximum at p = 0, and is gone below."""
    layer = NLP(
        lambda x, p: x[0] ** 3 / 3 - p * x[0],
        start=torch.tensor([1.0]),
        on_failure="mask",
        multipliers=True,
        executor="serial",
    )
    p = torch.tensor([0.25, 1e-4, 0.0, -1.0], dtype=F64, requires_grad=True)
    with fo.record() as seen:
        found = layer(p)
        assert isinstance(found, NLPSolution)
        (gradient,) = torch.autograd.grad(found.x.sum(), p)
    assert torch.allclose(gradient, torch.tensor([1.0, 50.0, 0.0, 0.0], dtype=F64), rtol=1e-8)
    assert found.status[:2].tolist() == [0, 0]
    assert Status.failed(found.status)[3]
    assert seen[1].status[:2].tolist() == [0, 0]
    assert Status.failed(seen[1].status)[2:].all()


@pytest.mark.parametrize("solver", ["ipopt", "sqp"])
def test_a_flat_valley_has_no_derivative(solver: Any) -> None:
    """(x₁ x₂ − p)²: a whole curve of minima."""
    layer = NLP(
        lambda x, p: (x[0] * x[1] - p) ** 2, start=torch.tensor([2.0, 1.0]), solver=solver,
        executor="serial",
    )  # fmt: skip
    p = torch.tensor([1.0], dtype=F64, requires_grad=True)
    with fo.record() as seen:
        x = layer(p)
    assert float(x.detach().prod()) == pytest.approx(1, abs=1e-6)
    assert "no curvature" in seen[0].messages[0]
    with pytest.raises(FoldError, match="no curvature") as error:
        x.sum().backward()
    assert error.value.status is not None
    assert error.value.status.tolist() == [Status.BREAKDOWN]
    # A constraint that fixes the place on the curve makes it regular again.
    layer = NLP(
        lambda x, p: (x[0] * x[1] - p) ** 2, None, lambda x, p: x[0] - 2 * x[1],
        start=torch.tensor([2.0, 1.0]), solver=solver, executor="serial",
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(layer(p)[0, 0], p)
    assert torch.allclose(gradient, torch.tensor([1 / math.sqrt(2)], dtype=F64), atol=1e-6)
