"""What the builders of steps refuse, and under which modes of PyTorch a step still works."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import projections, prox, steps
from tests.closed_forms import F64

gradient: Any = steps.gradient  # for calls that the types forbid
projected: Any = steps.projected_gradient
proximal: Any = steps.proximal_gradient


def distance(x: Tensor, c: Tensor) -> Tensor:
    return 0.5 * ((x - c) ** 2).sum(-1)


@pytest.mark.parametrize("alpha", [0, -0.1, float("nan"), float("inf"), torch.tensor([0.1, 0.0])])
def test_step_size_must_be_finite_and_positive(alpha: float | Tensor) -> None:
    says = "step_size must be finite and above 0"
    with pytest.raises(ValueError, match=says):
        gradient(distance, alpha)
    with pytest.raises(ValueError, match=says):
        projected(distance, projections.simplex, alpha)
    with pytest.raises(ValueError, match=says):
        proximal(distance, prox.l1, alpha)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: gradient("f", 0.1), "objective must be callable, got str"),
        (
            lambda: gradient(distance, "0.1"),
            "step_size must be a number or a tensor, got str",
        ),
        (lambda: projected(distance, None, 0.1), "projection must be callable"),
        (lambda: proximal(distance, 3.0, 0.1), "prox must be callable, got float"),
        (
            lambda: projected(distance, projections.simplex, 1.0, projection_params=1),
            r"projection_params must be a sequence of positions such as \(1,\), got 1",
        ),
        (
            lambda: proximal(distance, prox.l1, 1.0, prox_params="1"),
            "prox_params must be a sequence of positions",
        ),
    ],
)
def test_arguments_of_another_kind(build: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        build()


def test_a_position_that_does_not_exist() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"projection_params=\(1,\): .* 1 param\(s\).* number 1"):
        steps.projected_gradient(distance, projections.simplex, 1.0, projection_params=[1])(x, x)
    with pytest.raises(ValueError, match=r"prox_params=\(-2,\): .* no number -2"):
        steps.proximal_gradient(distance, prox.l1, 1.0, prox_params=[-2])(x, x)


@pytest.mark.parametrize(
    ("objective", "error", "says"),
    [
        (lambda x, c: 0.0, TypeError, "must return a tensor of values, got float"),
        (
            lambda x, c: (x * 1j * c).sum(-1),
            TypeError,
            "must return real values, got torch.complex",
        ),
        (lambda x, c: (x * c).sum(-1).numpy(force=True), TypeError, "got ndarray"),
        (lambda x, c: (x * c).sum(0), ValueError, r"\(2, 3\) begins with, and returned \(3,\)"),
        (lambda x, c: (x * c).sum(-1, keepdim=True), ValueError, r"returned \(2, 1\)"),
        (lambda x, c: (x * c).unsqueeze(-1), ValueError, r"returned \(2, 3, 1\)"),
        (lambda x, c: (x.detach() * c).sum(-1), ValueError, "do not depend on x"),
        (lambda x, c: torch.tensor([x[0].sum().item()] * 2), ValueError, "do not depend on x"),
    ],
)
@pytest.mark.parametrize("build", ["gradient", "projected", "proximal"])
def test_objective_of_another_shape_or_kind(
    build: str, objective: Any, error: type[Exception], says: str
) -> None:
    step = {
        "gradient": lambda: steps.gradient(objective, 0.1),
        "projected": lambda: steps.projected_gradient(objective, projections.simplex, 0.1),
        "proximal": lambda: steps.proximal_gradient(objective, prox.l1, 0.1),
    }[build]()
    with pytest.raises(error, match=says):
        step(torch.ones(2, 3), torch.ones(2, 3))


def test_objective_may_return_one_value_for_all_samples_or_one_for_each_entry() -> None:
    x, c = torch.randn(2, 3), torch.randn(2, 3)
    wanted = steps.gradient(distance, 0.1)(x, c)
    for total in (
        lambda x, c: distance(x, c).sum(),
        lambda x, c: 0.5 * (x - c) ** 2,
        lambda x, c: distance(x.double(), c.double()),  # computed in more digits
    ):
        torch.testing.assert_close(steps.gradient(total, 0.1)(x, c), wanted)


class Square(torch.autograd.Function):
    """An old-style function, which ``torch.func`` refuses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


square: Any = Square.apply


def test_objective_may_hold_an_old_style_autograd_function() -> None:
    c = torch.randn(2, 3, requires_grad=True)
    step = steps.gradient(lambda x, c: 0.5 * square(x - c).sum(-1), 0.5)
    x = fo.fold(step, c.detach(), c)
    (grad,) = torch.autograd.grad(x[:, 0].sum(), c)
    torch.testing.assert_close(grad, torch.tensor([[1.0, 0, 0]] * 2))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_step_has_the_same_value_in_every_mode(mode: Any) -> None:
    x, c = torch.randn(2, 3, dtype=F64), torch.randn(2, 3, dtype=F64, requires_grad=True)
    step = steps.projected_gradient(distance, projections.simplex, 0.3)
    wanted = projections.simplex(x - 0.3 * (x - c))
    with mode():
        torch.testing.assert_close(step(x, c).detach(), wanted.detach())
        torch.testing.assert_close(step(x + 0, c).detach(), wanted.detach())


def test_a_compiled_step_folds() -> None:
    torch.compiler.reset()
    c = torch.randn(2, 3, dtype=F64, requires_grad=True)
    step: Any = torch.compile(
        steps.projected_gradient(distance, projections.simplex, 0.3),
        backend="aot_eager",
        fullgraph=True,
    )
    x_star = projections.simplex(c.detach())
    (found,) = torch.autograd.grad(fo.fold(step, x_star, c).square().sum(), c)
    (wanted,) = torch.autograd.grad(projections.simplex(c).square().sum(), c)
    torch.testing.assert_close(found, wanted)


def test_a_projection_that_changes_the_shape_is_named_by_the_fold() -> None:
    step = steps.projected_gradient(distance, lambda y: y[..., :2], 0.3)
    c = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(fo.FoldError, match="the step must return what it was given"):
        fo.fold(step, c.detach(), c)


def test_empty_batch() -> None:
    c = torch.ones(0, 3, requires_grad=True)
    fo.fold(steps.gradient(distance, 0.1), c.detach(), c).sum().backward()
    assert c.grad is not None
    assert c.grad.shape == (0, 3)
