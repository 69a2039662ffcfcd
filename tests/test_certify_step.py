"""Never silently wrong: every error and warning of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foldopt as fo
from foldopt import FoldError, FoldWarning
from tests.problems import F64, newton_root
from tests.roots import C, leaf


def test_a_captured_tensor() -> None:
    w = torch.ones((), dtype=F64, requires_grad=True)
    for c in (C, leaf()):  # also where nothing else asks for a gradient
        with pytest.raises(FoldError, match=r"1 tensor\(s\) that require grad but are not among"):
            fo.fold(lambda x, c: newton_root(x, c) * w, C.sqrt(), c)
        with pytest.raises(FoldError, match="Pass them as params"):
            fo.fold(lambda x, c: newton_root(x, c) * (2 * w - 1), C.sqrt(), c)
    with torch.no_grad():
        fo.fold(lambda x, c: newton_root(x, c) * w, C.sqrt(), C)


def test_a_captured_module() -> None:
    net = nn.Linear(2, 2, dtype=F64)
    with pytest.raises(FoldError, match=r"hold them in an nn.Module that is itself the step"):
        fo.fold(lambda x, c: newton_root(x, c) + 0 * net(x), C.sqrt(), leaf())


def test_a_tensor_captured_from_a_transform() -> None:
    def loss(w: Tensor) -> Tensor:
        return fo.fold(lambda x, c: newton_root(x, c) * w, C.sqrt(), C).sum()

    with pytest.raises(FoldError, match="their gradient would be lost"):
        torch.func.grad(loss)(torch.ones((), dtype=F64))


@pytest.mark.parametrize(
    ("step", "seen"),
    [
        (lambda x, c: newton_root(x, c)[:, :1], r"returned \(3, 1\) float64"),
        (lambda x, c: newton_root(x, c).float(), r"returned \(3, 2\) float32"),
        (lambda x, c: newton_root(x, c)[None], r"returned \(1, 3, 2\)"),
    ],
)
def test_another_shape_or_dtype(step: Any, seen: str) -> None:
    with pytest.raises(
        FoldError, match=r"must return what it was given, \(3, 2\) float64.*" + seen
    ):
        fo.fold(step, C.sqrt(), leaf())


def test_another_structure() -> None:
    with pytest.raises(FoldError, match="must return x's structure"):
        fo.fold(lambda x, c: (newton_root(x, c),), C.sqrt(), leaf())


def test_numpy_in_the_step() -> None:
    with pytest.raises(FoldError, match="the step is not PyTorch throughout"):
        fo.fold(lambda x, c: torch.from_numpy(np.sqrt(c.numpy())), C.sqrt(), leaf())
    with pytest.raises(FoldError, match="step returned ndarray: every leaf must be a tensor"):
        fo.fold(lambda x, c: np.sqrt(c.detach().numpy()), C.sqrt(), leaf())
    with pytest.raises(FoldError, match="has no graph"):
        fo.fold(lambda x, c: c.detach().sqrt(), C.sqrt(), leaf())


def test_other_errors_of_the_step_come_through() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fo.fold(lambda x, c: x @ torch.ones(5, 5, dtype=F64), C.sqrt(), leaf())


def test_an_unused_param_is_reported() -> None:
    d = torch.ones(2, requires_grad=True)
    with pytest.warns(FoldWarning, match="param 1 requires grad, but the step does not use it"):
        x = fo.fold(lambda x, c, d: newton_root(x, c), C.sqrt(), leaf(), d)
    assert torch.autograd.grad(x.sum(), d)[0].tolist() == [0.0, 0.0]
    with pytest.warns(FoldWarning, match=r"param 0 \(leaf 1\) requires grad"):
        fo.fold(lambda x, c: newton_root(x, c[0]), C.sqrt(), (leaf(), d))


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x.mean(0, keepdim=True) + 0 * x,
        lambda x: x.cumsum(0) / torch.arange(1, 4)[:, None],
        lambda x: x.roll(1, 0),
        lambda x: x.flip(0),
        lambda x: 0.5 * (x - x.mean(0)) + x.mean(0),
    ],
)
def test_a_step_that_mixes_samples(mix: Any) -> None:
    same = torch.full((3, 2), 4.0, dtype=F64)  # equal samples: the residual sees nothing

    def step(x: Tensor, c: Tensor) -> Tensor:
        return 0.5 * (mix(x) + c.sqrt())

    with pytest.raises(FoldError, match=r"mixes samples.*batch shape"):
        fo.fold(step, same.sqrt(), same.clone().requires_grad_())
    layer = fo.FoldedLayer(torch.sqrt, step)
    with pytest.raises(FoldError, match="mixes samples"):
        layer(same.clone().requires_grad_())


def test_mixing_is_looked_for_once_in_a_layer() -> None:
    calls = []

    class Counting(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # pyright: ignore
            calls.append(1)
            return g

    layer = fo.FoldedLayer(torch.sqrt, lambda x, c: newton_root(Counting.apply(x), c))
    layer(leaf())
    first = len(calls)
    layer(leaf())
    assert first == 2
    assert len(calls) == first


def test_the_vmap_of_old() -> None:
    x = fo.fold(newton_root, C.sqrt(), c := leaf())
    with pytest.raises(FoldError, match=r"Use torch.func.jacrev"):
        torch.autograd.grad(x, c, torch.ones(4, 3, 2, dtype=F64), is_grads_batched=True)


class OnceDifferentiable(torch.autograd.Function):
    """Half a sine whose backward pass is not recorded, as in many old layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return 0.5 * x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *g: Tensor) -> Tensor:
        return 0.5 * g[0] * ctx.saved_tensors[0].cos()


@pytest.mark.parametrize("n", [2, 60])
def test_a_step_that_cannot_be_differentiated_twice(n: int) -> None:
    def step(x: Tensor, c: Tensor) -> Tensor:
        return OnceDifferentiable.apply(x) + 0.1 * x + c  # pyright: ignore

    c = torch.rand(3, n, dtype=F64, requires_grad=True)
    x_star = fo.fixed_point(lambda x, c: 0.5 * x.sin() + 0.1 * x + c, torch.zeros(3, n).double(), c)
    x = fo.fold(step, x_star, c)
    (first,) = torch.autograd.grad(x.sum(), c, retain_graph=True)  # needs no second derivative
    torch.testing.assert_close(first, torch.autograd.grad(x_star.sum(), c)[0])
    (first,) = torch.autograd.grad(x.sum(), c, create_graph=True)
    with pytest.raises(FoldError, match="the step cannot be differentiated twice"):
        first.sum().backward()
    with torch.autograd.forward_ad.dual_level(), pytest.raises(FoldError, match="twice"):
        fo.fold(step, x_star, torch.autograd.forward_ad.make_dual(c.detach(), c.detach()))


def test_a_step_whose_params_cannot_be_pushed_forward() -> None:
    def step(x: Tensor, c: Tensor) -> Tensor:
        return 0.5 * x + OnceDifferentiable.apply(c)  # pyright: ignore

    with torch.autograd.forward_ad.dual_level(), pytest.raises(FoldError, match="twice"):
        fo.fold(step, C.sin(), torch.autograd.forward_ad.make_dual(C, C))
