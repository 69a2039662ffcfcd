"""FoldedLayer and folded inside ordinary PyTorch: modules, saving, compiling, precision, memory."""

from __future__ import annotations

import copy
import gc
import io
import shutil
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foldopt as fo
from tests.problems import F64, newton_root


class Equilibrium(nn.Module):
    """A step with weights: U(x, c) = tanh(W x + c)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n, n, dtype=F64)
        with torch.no_grad():
            self.linear.weight.mul_(0.5 / torch.linalg.matrix_norm(self.linear.weight, 2))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(self.linear(x) + c)


class Iterate(nn.Module):
    """A solver that owns its step."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, c: Tensor) -> Tensor:
        x = torch.zeros_like(c)
        for _ in range(200):
            x = self.step(x, c)
        return x


def square_root(c: Tensor) -> np.ndarray:
    return np.sqrt(c.numpy())


def root_model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 2), nn.Softplus(), fo.FoldedLayer(square_root, newton_root), nn.Linear(2, 1)
    )


def test_a_steps_own_parameters_get_their_gradients() -> None:
    step = Equilibrium(4)
    layer = fo.FoldedLayer(Iterate(step), step)
    c = torch.randn(3, 4, dtype=F64, requires_grad=True)
    inputs = [c, step.linear.weight, step.linear.bias]
    weight = torch.randn(3, 4, dtype=F64)
    got = torch.autograd.grad((layer(c) * weight).sum(), inputs)
    wanted = torch.autograd.grad((Iterate(step)(c) * weight).sum(), inputs)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    assert {id(p) for p in layer.parameters()} == {id(p) for p in step.parameters()}


def test_a_module_step_under_fold_and_gradcheck() -> None:
    step = Equilibrium(3)
    c = torch.randn(2, 3, dtype=F64, requires_grad=True)
    x_star = Iterate(step)(c).detach()
    x = fo.fold(step, x_star, c)
    (got,) = torch.autograd.grad(x.sum(), step.linear.weight)
    (wanted,) = torch.autograd.grad(Iterate(step)(c).sum(), step.linear.weight)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


def test_functional_call_and_a_gradient_for_each_sample() -> None:
    step = Equilibrium(3)
    blackbox = Iterate(copy.deepcopy(step))  # knows nothing of the weights that are swapped in
    layer = fo.FoldedLayer(lambda c: blackbox(c), step)
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    c = torch.randn(4, 3, dtype=F64)

    def loss(weights: dict[str, Tensor], c: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (c[None],)).square().sum()

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, c)
    for i in range(4):
        wanted = torch.autograd.grad(
            Iterate(step)(c[i : i + 1]).square().sum(), list(step.parameters())
        )
        mine = [got[name][i] for name, _ in layer.named_parameters()]
        torch.testing.assert_close(mine, list(wanted), rtol=0, atol=1e-10)


def test_training_lowers_the_loss() -> None:
    model = root_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    features = torch.rand(64, 3)
    target = features.sum(-1, keepdim=True)
    losses = []
    for _ in range(100):
        loss = (model(features) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_copy_state_dict_and_save() -> None:
    model = root_model()
    features = torch.rand(2, 3)
    wanted = model(features)
    wanted.sum().backward()
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(features), wanted)
    fresh = root_model()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh(features), wanted)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    torch.testing.assert_close(loaded(features), wanted)
    loaded(features).sum().backward()


# Dynamo looks at .grad of the tensors that it guards at a graph break, and warns of it itself.
dynamo_warns = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@dynamo_warns
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_torch_compile_agrees_with_eager(backend: str) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler on this machine")
    torch.compiler.reset()
    model = root_model()
    features = torch.rand(5, 3)
    wanted = model(features)
    wanted_grads = torch.autograd.grad(wanted.sum(), list(model.parameters()))
    compiled: Any = torch.compile(model, backend=backend)
    for _ in range(3):
        got = compiled(features)
        grads = torch.autograd.grad(got.sum(), list(model.parameters()))
        torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(grads, wanted_grads)


@dynamo_warns
def test_a_compiled_function_that_calls_fold_directly() -> None:
    torch.compiler.reset()

    def model(c: Tensor) -> Tensor:
        d = c.square() + 1
        return fo.fold(newton_root, d.sqrt(), d).sin().sum()

    c = torch.rand(3, 2, requires_grad=True)
    compiled: Any = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(
        torch.autograd.grad(compiled(c), c), torch.autograd.grad(model(c), c)
    )


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_without_gradients(guard: Any) -> None:
    model = root_model()
    features = torch.rand(4, 3)
    wanted = model(features).detach()
    with guard():
        got = model(features)
    assert not got.requires_grad
    torch.testing.assert_close(got.clone(), wanted)


def test_a_solution_made_in_inference_mode_can_be_folded_later() -> None:
    c = torch.tensor([[4.0]], requires_grad=True)
    with torch.inference_mode():
        x_star = c.sqrt()
    (g,) = torch.autograd.grad(fo.fold(newton_root, x_star, c).sum(), c)
    torch.testing.assert_close(g, torch.tensor([[0.25]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_dtype_in_is_dtype_out(dtype: torch.dtype) -> None:
    c = torch.tensor([[4.0, 9.0]], dtype=dtype, requires_grad=True)
    seen: list[torch.dtype] = []

    def solver(c: Tensor) -> Tensor:
        seen.append(c.dtype)
        return c.float().sqrt().to(dtype)

    x = fo.folded(newton_root)(solver)(c)
    assert x.dtype == dtype
    assert seen == [dtype]
    (g,) = torch.autograd.grad(x.sum(), c)
    assert g.dtype == dtype
    torch.testing.assert_close(
        g.double(), torch.tensor([[0.25, 1 / 6]], dtype=F64), rtol=1e-2, atol=0
    )


def test_autocast() -> None:
    torch.manual_seed(1)
    linear = nn.Linear(3, 2)
    m = torch.tensor([[0.3, 0.1], [0.0, 0.2]])

    def step(x: Tensor, c: Tensor) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        return x @ m.T + c

    def solver(c: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return torch.linalg.solve(torch.eye(2) - m, c.float().T).T.to(c.dtype)

    features = torch.rand(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        c = linear(features)
        assert c.dtype == torch.bfloat16
        x = fo.folded(step)(solver)(c)
        assert x.dtype == torch.bfloat16
        loss = x.float().sum()
        loss.backward()  # inside the region on purpose: the linear solve must not be cast
    assert linear.weight.grad is not None
    # ∂x/∂c = (I − M)⁻¹, in float32 but for the rounding of c and x.
    inverse = torch.linalg.inv(torch.eye(2) - m)
    wanted = inverse.sum(0)[:, None] * features.sum(0)[None, :]
    torch.testing.assert_close(linear.weight.grad, wanted, rtol=2e-2, atol=0)


def test_memory_does_not_grow() -> None:
    model = root_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    features = torch.rand(2, 3)
    alive: list[weakref.ref] = []
    x = torch.empty(0)
    gc.collect()
    gc.disable()  # what only the cycle collector frees is a leak of GPU memory meanwhile
    try:
        for _ in range(1000):
            x = model(features)
            alive.append(weakref.ref(x))
            optimizer.zero_grad()
            x.sum().backward()
            optimizer.step()
        del x
        assert sum(ref() is not None for ref in alive) == 0
    finally:
        gc.enable()


def test_the_recorded_step_dies_with_the_solution() -> None:
    refs: list[weakref.ref] = []

    def step(x: Tensor, c: Tensor) -> Tensor:
        out = newton_root(x, c)
        refs.append(weakref.ref(out))
        return out

    gc.collect()
    gc.disable()
    try:
        c = torch.rand(3, 2, dtype=F64, requires_grad=True)
        x = fo.fold(step, c.detach().sqrt(), c)
        (g,) = torch.autograd.grad(x.sum(), c, create_graph=True)
        g.sum().backward()
        c.grad = None
        del x, g
        assert [ref() for ref in refs if ref() is not None] == []
    finally:
        gc.enable()


def test_the_decorator_keeps_the_solvers_name() -> None:
    @fo.folded(newton_root)
    def my_solver(c: Tensor) -> Tensor:
        """Mine."""
        return c.sqrt()

    assert my_solver.__name__ == "my_solver"
    assert my_solver.__doc__ == "Mine."


def test_repr_names_what_was_chosen() -> None:
    layer = fo.FoldedLayer(square_root, newton_root, adjoint=fo.CG(), batch_dims=2)
    assert "CG(" in repr(layer)
    assert "batch_dims=2" in repr(layer)
