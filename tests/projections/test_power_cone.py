"""The projection on the power cone: Moreau's conditions, limits, derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foldopt import projections
from foldopt.projections import power_cone

F64 = torch.float64


def points(count: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.randn(count, 3, generator=g, dtype=F64) * torch.tensor([1.0, 1.0, 2.0], dtype=F64)
    return y, 0.05 + 0.9 * torch.rand(count, generator=g, dtype=F64)


def outside(x: Tensor, powers: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """How far x violates (x₁/w₁)^α (x₂/w₂)^(1 − α) ≥ |x₃|."""
    sides = (x[:, :2].clamp_min(0) / weights) ** powers
    return (x[:, 2].abs() - sides.prod(-1)).clamp_min(0) + (-x[:, :2]).clamp_min(0).sum(-1)


def test_moreau() -> None:
    y, alpha = points(3000)
    x = power_cone(y, alpha)
    powers = torch.stack([alpha, 1 - alpha], -1)
    assert float(outside(x, powers).max()) < 1e-12
    # y − x is in the polar cone, −(its dual), and orthogonal to x. A small exponent makes rounding
    # large: what is away from the boundary by 1e-13 counts as on it.
    rest = x - y + 1e-13 * torch.tensor([1.0, 1.0, 0.0], dtype=F64)
    assert float(outside(rest, powers, powers).max()) < 1e-6
    assert float((x * (x - y)).sum(-1).abs().max()) < 1e-12


def test_half_is_a_rotated_second_order_cone() -> None:
    # ab ≥ c² is (a + b)/√2 ≥ ‖((a − b)/√2, √2 c)‖: an isometry only in the plane of c = 0, where
    # the projection is known: the positive parts.
    y = torch.tensor([[1.0, -2.0, 0.0], [-1.0, 3.0, 0.0], [-1.0, -1.0, 0.0]], dtype=F64)
    assert torch.equal(power_cone(y, 0.5), y.clamp_min(0))


@pytest.mark.parametrize("size", [1e-150, 1e-8, 1.0, 1e8, 1e150])
def test_any_size(size: float) -> None:
    y, alpha = points(200)
    assert torch.allclose(power_cone(size * y, alpha) / size, power_cone(y, alpha), atol=1e-12)


def test_the_far_corners() -> None:
    y = torch.tensor([[-1e8, 1.0, 1.0], [1.0, -1e8, 1.0], [1e-9, 1e-9, 1.0]], dtype=F64)
    for alpha in (0.05, 0.5, 0.95):
        x = power_cone(y, alpha)
        powers = torch.tensor([alpha, 1 - alpha], dtype=F64)
        assert bool(torch.isfinite(x).all())
        assert float(outside(x, powers).max()) < 1e-8


def test_derivatives() -> None:
    y, alpha = points(16)
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: power_cone(t, alpha), y)
    assert torch.autograd.gradgradcheck(lambda t: power_cone(t, alpha), y)


def test_vmap() -> None:
    y, _ = points(30)
    assert torch.allclose(
        torch.func.vmap(lambda t: power_cone(t, 0.3))(y), power_cone(y, 0.3), atol=1e-14
    )


def test_single_precision() -> None:
    y, alpha = points(50)
    x = power_cone(y.float(), alpha.float())
    assert x.dtype == torch.float32
    assert torch.allclose(x.double(), power_cone(y, alpha), atol=1e-5)


def test_arguments() -> None:
    y = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"shape \(\*batch, 3\)"):
        power_cone(torch.zeros(4), 0.5)
    with pytest.raises(ValueError, match=r"alpha must be between 0 and 1"):
        power_cone(y, 1.0)
    with pytest.raises(ValueError, match=r"alpha"):
        power_cone(y, -0.5)
    assert bool(power_cone(torch.ones(1, 3), torch.tensor([1.5])).isnan().all())


def test_it_is_a_neighbour_of_the_other_cones() -> None:
    # As α goes to 1, a ≥ |c| with b free above zero: a second-order cone of two entries.
    y = torch.tensor([[0.2, 1.0, 1.0]], dtype=F64)
    right = projections.second_order_cone(y[:, [0, 2]])
    seen = power_cone(y, 1 - 1e-7)
    assert torch.allclose(seen[:, [0, 2]], right, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("sides", [(-1.0, 1.0), (2.0, -0.5), (1e3, -1e3)])
def test_on_an_edge_c_has_the_derivative_of_a_smooth_boundary(
    alpha: float, sides: tuple[float, float]
) -> None:
    y = torch.tensor([*sides, 0.0], dtype=F64, requires_grad=True)
    seen = torch.autograd.functional.jacobian(lambda y: power_cone(y, alpha), y)
    step = 1e-7 * float(y.detach().abs().max()) * torch.eye(3, dtype=F64)
    above, below = (power_cone(y.detach() + sign * step, alpha) for sign in (1, -1))
    expected = ((above - below) / (2 * step.max())).mT
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-7)
    # The boundary is a parabola there for ½ alone, and of higher order or none for the others.
    if alpha == 0.5:
        eps = 1e-5 * float(y.detach().abs().max())
        assert torch.autograd.gradgradcheck(lambda y: power_cone(y, 0.5), y, eps=eps, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("c", [0.0, 0.5])
@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 1e-42), (F64, 1e-200)])
def test_an_entry_next_to_nothing_has_a_derivative(
    alpha: float, c: float, dtype: torch.dtype, tiny: float
) -> None:
    for small in (tiny, 1e-20):
        y = torch.tensor([-1.0, small, c], dtype=dtype, requires_grad=True)
        x = power_cone(y, alpha)
        (gradient,) = torch.autograd.grad(x.sum(), y)
        assert torch.isfinite(x).all()
        assert torch.isfinite(gradient).all()
