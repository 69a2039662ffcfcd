"""fo.jacobian against closed forms and against ``torch.func.jacrev`` through fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foldopt as fo
from foldopt.status import Status
from tests.problems import F64, contraction, iterate, network_step, newton_root

N = 3


def through_fold(step: Any, x_star: Tensor, *params: Tensor, of: int) -> Tensor:
    """∂x*/∂params[of] with the full shapes of both, by reverse mode."""
    jacobian = torch.func.jacrev(lambda *p: fo.fold(step, x_star, *p), of)(*params)
    assert isinstance(jacobian, Tensor)
    return jacobian


def diagonal(jacobian: Tensor) -> Tensor:
    """(B, n, B, *event) to (B, n, *event): each sample in its own entries."""
    return torch.stack([jacobian[k, :, k] for k in range(len(jacobian))])


def test_closed_form() -> None:
    m, c = contraction(N), torch.randn(2, N, dtype=F64)
    inverse = torch.linalg.inv(torch.eye(N, dtype=F64) - m)
    x_star = (c**2) @ inverse.T
    found = fo.jacobian(lambda x, c: x @ m.T + c**2, x_star, c)
    torch.testing.assert_close(found, inverse * (2 * c).unsqueeze(1))
    assert not found.requires_grad


def test_a_newton_step_has_phi_zero() -> None:
    c = torch.tensor([[4.0], [9.0]], dtype=F64)
    found = fo.jacobian(newton_root, c.sqrt(), c)
    torch.testing.assert_close(found, (0.5 / c.sqrt()).unsqueeze(-1))


def test_batched_and_shared_params_against_fold() -> None:
    step = network_step(contraction(N))
    c, w = torch.randn(4, 2, dtype=F64), torch.randn(2, N, dtype=F64)
    x_star = iterate(step, N)(c, w)
    in_c, in_w = fo.jacobian(step, x_star, c, w)
    torch.testing.assert_close(in_c, diagonal(through_fold(step, x_star, c, w, of=0)))
    torch.testing.assert_close(in_w, through_fold(step, x_star, c, w, of=1))


def test_a_shared_param_may_begin_with_the_size_of_the_batch() -> None:
    """W is (2, N) and so is c; only what the step does with them tells them apart."""
    step = network_step(contraction(N))
    c, w = torch.randn(2, 2, dtype=F64), torch.randn(2, N, dtype=F64)
    x_star = iterate(step, N)(c, w)
    in_c, in_w = fo.jacobian(step, x_star, c, w)
    assert (in_c.shape, in_w.shape) == ((2, N, 2), (2, N, 2, N))
    torch.testing.assert_close(in_c, diagonal(through_fold(step, x_star, c, w, of=0)))
    torch.testing.assert_close(in_w, through_fold(step, x_star, c, w, of=1))


@pytest.mark.parametrize("c", [torch.zeros(N, N), torch.ones(N, N)])
def test_the_shapes_do_not_depend_on_the_values(c: Tensor) -> None:
    """At x* = 0 the derivative in M is zero, which must not make M look batched."""
    m = contraction(N).float()
    step = lambda x, c, m: x @ m.T + c
    x_star = torch.linalg.solve(torch.eye(N) - m, c.T).T
    in_c, in_m = fo.jacobian(step, x_star, c, m)
    assert (in_c.shape, in_m.shape) == ((N, N, N), (N, N, N, N))
    torch.testing.assert_close(in_m, through_fold(step, x_star, c, m, of=1))


def test_a_step_that_refuses_nan_is_judged_by_its_derivative() -> None:
    def step(x: Tensor, c: Tensor) -> Tensor:
        if c.isnan().any():
            raise ValueError("NaN")
        return 0.5 * x + c

    c = torch.randn(2, N, dtype=F64)
    torch.testing.assert_close(
        fo.jacobian(step, 2 * c, c), 2 * torch.eye(N, dtype=F64).expand(2, N, N)
    )


def test_batch_of_one_and_scalar_params() -> None:
    step = lambda x, c, s: 0.5 * x + s * c
    c, s = torch.randn(1, N, dtype=F64), torch.tensor(3.0, dtype=F64)
    in_c, in_s = fo.jacobian(step, 6 * c, c, s)
    torch.testing.assert_close(in_c, 6 * torch.eye(N, dtype=F64).expand(1, N, N))
    torch.testing.assert_close(in_s, 2 * c)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_batch_dimensions(batch: tuple[int, ...]) -> None:
    step = network_step(contraction(N))
    c, w = torch.randn(*batch, 2, dtype=F64), torch.randn(2, N, dtype=F64)
    x_star = iterate(step, N)(c, w)
    in_c, in_w = fo.jacobian(step, x_star, c, w, batch_dims=len(batch))
    assert (in_c.shape, in_w.shape) == ((*batch, N, 2), (*batch, N, 2, N))
    flat = zip(in_c.reshape(-1, N, 2), c.reshape(-1, 2), x_star.reshape(-1, N), strict=True)
    for found, one, x in flat:
        alone = torch.func.jacrev(lambda c, x=x: fo.fold(step, x, c, w, batch_dims=0))(one)
        torch.testing.assert_close(found, alone)


def test_nested_x_and_params() -> None:
    m, c = contraction(N), torch.randn(2, N, dtype=F64)

    def step(x: Any, p: Any, count: int) -> Any:
        y = torch.cat([x["a"], x["b"][0].flatten(1)], -1) @ m.T + p["c"] * p["scale"][0]
        return {"a": y[:, :1], "b": (y[:, 1:].unsqueeze(-1),)}

    inverse = torch.linalg.inv(torch.eye(N, dtype=F64) - m)
    x = (c * 2) @ inverse.T
    x_star = {"a": x[:, :1].numpy(), "b": (x[:, 1:].unsqueeze(-1),)}
    scale = torch.tensor(2.0, dtype=F64)
    found = fo.jacobian(step, x_star, {"c": c, "scale": [scale]}, 7)
    (in_a, none), (in_b, _) = found["a"], found["b"][0]
    assert none is None  # 7 is no tensor
    in_c = torch.cat([in_a["c"], in_b["c"].squeeze(2)], 1)
    torch.testing.assert_close(in_c, (2 * inverse).expand(2, N, N))
    in_scale = torch.cat([in_a["scale"][0], in_b["scale"][0].squeeze(-1)], 1)
    torch.testing.assert_close(in_scale, c @ inverse.T)


def test_a_modules_weights_and_integer_params_have_no_jacobian() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(N, N, dtype=F64)

        def forward(self, x: Tensor, c: Tensor, power: Tensor) -> Tensor:
            return 0.1 * torch.tanh(self.linear(x)) + c**power

    step, c, power = Layer(), torch.randn(2, N, dtype=F64), torch.tensor(2)
    x_star = fo.fixed_point(step, c, c, power, rtol=1e-14).detach()
    in_c, in_power = fo.jacobian(step, x_star, c, power)
    assert in_power is None
    wanted = torch.func.jacrev(lambda c: fo.fold(step, x_star, c, power))(c)
    assert isinstance(wanted, Tensor)
    torch.testing.assert_close(in_c, diagonal(wanted))
    assert all(weight.grad is None for weight in step.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_its_dtype(dtype: torch.dtype) -> None:
    c = torch.tensor([[1.0, 2.0]], dtype=dtype)
    found = fo.jacobian(lambda x, c: 0.5 * x + c, 2 * c, c)
    torch.testing.assert_close(found, 2 * torch.eye(2, dtype=dtype).unsqueeze(0))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_empty(shape: tuple[int, int]) -> None:
    batch, n = shape
    c, s = torch.ones(shape), torch.ones(4)
    in_c, in_s = fo.jacobian(lambda x, c, s: 0.5 * x + c * s.sum(), 8 * c, c, s)
    assert in_c.shape == (batch, n, n)
    assert in_s.shape == (batch, n, 4)
    assert fo.jacobian(lambda x: 0.5 * x, torch.zeros(2, 3)) == ()


def test_works_without_grad_mode_and_from_numpy() -> None:
    c = torch.ones(1, 2, dtype=F64)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = fo.jacobian(lambda x, c: 0.5 * x + c, np.full((1, 2), 2.0), c)
        assert found.tolist() == [[[2.0, 0.0], [0.0, 2.0]]]


# -- what cannot be trusted ----------------------------------------------------------------------


def test_a_singular_system_names_the_sample() -> None:
    slope = torch.tensor([[0.5], [1.0], [0.2]], dtype=F64)
    c = torch.zeros(3, 2, dtype=F64)
    with pytest.raises(fo.FoldError, match=r"1 BREAKDOWN \(first: sample 1 of 3\)") as caught:
        fo.jacobian(lambda x, c: slope * x + c, torch.zeros(3, 2, dtype=F64), c)
    assert caught.value.status is not None
    assert caught.value.status.tolist() == [0, Status.BREAKDOWN, 0]


def test_a_step_that_moves_the_solution() -> None:
    c = torch.ones(2, 2, dtype=F64)
    step = lambda x, c: 0.5 * x + c
    with pytest.raises(fo.FoldError, match="2 NOT_FIXED"):
        fo.jacobian(step, 3 * c, c)
    loose = fo.Certify(error_above=1, warn_above=1)
    assert fo.jacobian(step, 3 * c, c, certify=loose)[0, 0, 0] == 2


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.vmap, torch.func.jacfwd])
def test_inside_a_transform_it_would_lose_its_derivative(transform: Any) -> None:
    c = torch.ones(2, 2, dtype=F64)
    with pytest.raises(fo.FoldError, match=r"jacobian: called inside a torch.func transform"):
        transform(lambda c: fo.jacobian(lambda x, c: 0.5 * x + c, 2 * c, c))(c)


def test_a_captured_tensor_that_requires_grad() -> None:
    c = torch.ones(2, 2, dtype=F64)
    hidden = torch.ones(2, dtype=F64, requires_grad=True)
    with pytest.raises(fo.FoldError, match="require grad but are not among its params"):
        fo.jacobian(lambda x, c: 0.5 * x + c * hidden, 2 * c, c)


@pytest.mark.parametrize("size", [3, 5])
def test_rows_of_equally_spaced_variables_are_not_taken_for_zero(size: int) -> None:
    # Each row of Φ on the support is a unit vector less the mean: a probe that is affine in the
    # index would vanish there.
    n = 50
    rows = []
    for spacing in range(1, n // size):
        for first in range(n - (size - 1) * spacing):
            c = torch.full((n,), -5.0, dtype=F64)
            c[first : first + size * spacing : spacing][:size] = 1 + 0.1 * torch.arange(size)
            rows.append(c)
    c = torch.stack(rows).requires_grad_()
    x = fo.projections.simplex(c.detach())
    folded = fo.fold(lambda x, c: fo.projections.simplex((x + c) / 2), x, c, adjoint=fo.Dense())
    (found,) = torch.autograd.grad(folded.square().sum(), c)
    support = x > 0
    mean = torch.where(support, 2 * x, 0).sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
    torch.testing.assert_close(found, torch.where(support, 2 * x - mean, 0), rtol=0, atol=1e-12)
