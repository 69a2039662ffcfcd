"""dtypes, no_grad, torch.func, and the gradient of two hundred random problems of each cone."""

from __future__ import annotations

from typing import Any

import pytest

cp: Any = pytest.importorskip("cvxpy", minversion="1.9")

import hypothesis.strategies as st  # noqa: E402
import torch  # noqa: E402
from hypothesis import Phase, given, settings  # noqa: E402
from torch import Tensor  # noqa: E402

import foldopt as fo  # noqa: E402
from foldopt.cvxpy import CvxpyLayer  # noqa: E402
from tests import cvxpy_problems as problems  # noqa: E402
from tests.cvxpy_problems import F64  # noqa: E402

PROBLEMS = 200  # of each cone
EXAMPLES = 2
STEP = 1e-6


@pytest.mark.parametrize("name", problems.CONES)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # a batch of hundred has nothing to shrink
)
@given(seed=st.integers(0, 2**31))
def test_random_gradients_are_finite_differences(name: str, seed: int) -> None:
    case = problems.CONES[name]()
    layer = CvxpyLayer(case.problem, case.parameters, case.variables[:1])
    g = torch.Generator().manual_seed(seed)
    values = case.draw(PROBLEMS // EXAMPLES, g)
    moves = [problems.normal(g, *value.shape) for value in values]
    (found,) = layer(*(values := [value.requires_grad_() for value in values]))
    w = problems.normal(g, *found.shape)
    gradients = torch.autograd.grad((w * found).sum(), values)
    slope = sum((a * b).reshape(len(a), -1).sum(1) for a, b in zip(gradients, moves, strict=True))

    def quotient(step: float) -> Tensor:
        with torch.no_grad():
            ends = [
                layer(*(v + side * step * m for v, m in zip(values, moves, strict=True)))[0]
                for side in (1.0, -1.0)
            ]
        return (w * (ends[0] - ends[1])).flatten(1).sum(1) / (2 * step)

    rough, fine = quotient(STEP), quotient(STEP / 3)
    # Where a constraint begins or ends to hold on the way, there is no one derivative.
    smooth = (rough - fine).abs() <= 3e-6 * (1 + fine.abs())
    assert int(smooth.sum()) > 0.97 * len(smooth)
    error = (slope - fine).abs() / (1 + fine.abs())
    assert float(error[smooth].max()) < 1e-5


@pytest.mark.parametrize("name", ["linear", "second-order"])
def test_single_precision_stays(name: str) -> None:
    case = problems.CONES[name]()
    values = case.one()
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    single = [value.float().requires_grad_() for value in values]
    for seen, right in zip(layer(*single), layer(*values), strict=True):
        assert seen.dtype == torch.float32
        assert torch.allclose(seen.double(), right, atol=1e-4)
    gradients = torch.autograd.grad(layer(*single)[0].sum(), single)
    assert all(one.dtype == torch.float32 for one in gradients)


def test_dtypes_mix_as_in_torch() -> None:
    case = problems.linear_rows()
    values = case.one()
    layer = CvxpyLayer(case.problem, case.parameters, case.variables[:1])
    assert layer(values[0].float(), *values[1:])[0].dtype == F64


def test_the_device_stays(device: torch.device) -> None:
    for case in (problems.linear_rows(), problems.second_order()):
        values = [value.to(device) for value in case.one()]
        (seen,) = CvxpyLayer(case.problem, case.parameters, case.variables[:1])(*values)
        assert seen.device.type == device.type


@pytest.mark.parametrize("name", ["linear", "second-order"])
def test_without_gradients(name: str) -> None:
    case = problems.CONES[name]()
    values = [value.requires_grad_() for value in case.one()]
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    with torch.no_grad():
        outside = layer(*values)
    assert not any(one.requires_grad for one in outside)
    for one, other in zip(outside, layer(*values), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("name", ["linear", "second-order", "entropy"])
def test_transforms_agree(name: str) -> None:
    case = problems.CONES[name]()
    first, *rest = case.draw(3, torch.Generator().manual_seed(0))
    rest = [value[0] for value in rest]
    layer = CvxpyLayer(case.problem, case.parameters, case.variables[:1])

    def x(value: Tensor) -> Tensor:
        return layer(value, *rest)[0]

    assert torch.allclose(torch.func.vmap(x)(first), x(first), atol=1e-10)
    back, ahead = torch.func.jacrev(x)(first[0]), torch.func.jacfwd(x)(first[0])
    assert torch.allclose(back, ahead, atol=1e-9)
    tangent = torch.func.jvp(x, (first[0],), (torch.ones_like(first[0]),))[1]
    assert torch.allclose(tangent, back.sum(-1), atol=1e-9)

    def loss(value: Tensor) -> Tensor:
        return x(value).pow(3).sum()

    each = torch.func.vmap(torch.func.grad(loss))(first)
    alone = torch.stack([torch.func.grad(loss)(one) for one in first])
    assert torch.allclose(each, alone, atol=1e-9)


def test_a_jacobian_of_each_sample() -> None:
    case = problems.second_order()
    layer = CvxpyLayer(case.problem, case.parameters, case.variables[:1])
    first, *rest = case.draw(3, torch.Generator().manual_seed(0))
    rest = [value[0] for value in rest]
    jacobian = torch.func.jacrev(lambda c: layer(c, *rest)[0])
    found = torch.func.vmap(jacobian)(first)
    assert torch.allclose(found, torch.stack([jacobian(one) for one in first]), atol=1e-10)


def test_training_through_the_layer_converges() -> None:
    # The radius of the disc that gives a wanted point.
    x, c, r = cp.Variable(2), cp.Parameter(2), cp.Parameter()
    layer = CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [cp.norm(x) <= r]), [c, r], [x])
    radius = torch.tensor(1.0, dtype=F64, requires_grad=True)
    optimizer = torch.optim.SGD([radius], lr=0.4)
    towards = torch.tensor([-0.6, -0.8], dtype=F64)
    for _ in range(25):
        optimizer.zero_grad()
        (seen,) = layer(-towards, radius, warm_start=True)
        ((seen - 3 * towards) ** 2).sum().backward()
        optimizer.step()
    assert float(radius.detach()) == pytest.approx(3.0, abs=1e-6)


def test_the_record_sees_both_passes() -> None:
    case = problems.second_order()
    values = [value.requires_grad_() for value in case.one()]
    with fo.record() as seen:
        CvxpyLayer(case.problem, case.parameters, case.variables[:1])(*values)[0].sum().backward()
    assert [event.kind for event in seen] == ["forward", "adjoint"]
    assert float(seen[0].residual.max()) < 1e-12
    assert float(seen[1].residual.max()) < 1e-9
