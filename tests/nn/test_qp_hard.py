"""The quadratic program layer on hard inputs that have a solution."""

from __future__ import annotations

import pytest
import torch

import foldopt as fo
from foldopt.nn import QP
from tests.dense_programs import F64, given, programs, wanting


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("which", ["objective", "constraints", "bounds"])
def test_scale_does_not_matter(which: str, scale: float) -> None:
    Q, p, G, h, A, b, lower, upper = programs(3, 8, 6, 2, True)
    assert None not in (Q, p, G, h, A, b, lower, upper)
    plain = wanting([Q, p, G, h, A, b, lower, upper])
    if which == "objective":  # the same x
        other, size = [scale * Q, scale * p, G, h, A, b, lower, upper], 1.0  # type: ignore[operator]
    elif which == "constraints":
        other, size = [Q, p, scale * G, scale * h, scale * A, scale * b, lower, upper], 1.0  # type: ignore[operator]
    else:  # all lengths in another unit
        other = [Q, scale * p, G, scale * h, A, scale * b, scale * lower, scale * upper]  # type: ignore[operator]
        size = scale
    scaled = wanting(other)
    x, y = QP()(*plain), QP()(*scaled)
    torch.testing.assert_close(y / size, x, rtol=1e-11, atol=1e-11)
    x.sum().backward()
    y.sum().backward()
    # In its own units the gradient in p is the same as well.
    unit = {"objective": scale, "constraints": 1.0, "bounds": 1.0}[which]
    assert plain[1] is not None
    assert scaled[1] is not None
    assert scaled[1].grad is not None
    torch.testing.assert_close(scaled[1].grad * unit, plain[1].grad, rtol=1e-9, atol=1e-10)


def test_bounds_far_away_change_nothing() -> None:
    blocks = wanting(programs(3, 6, 4, 1))
    far = wanting(programs(3, 6, 4, 1))
    x = QP()(*blocks)
    y = QP()(*far[:6], -1e6, 1e6)
    torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-12)
    for mine, other in zip(
        torch.autograd.grad(x.sum(), given(blocks)),
        torch.autograd.grad(y.sum(), given(far)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-11)


def test_infinite_limits() -> None:
    Q, p = torch.eye(2, dtype=F64), torch.tensor([-3.0, -3.0], dtype=F64)
    inf = torch.inf
    found = QP(multipliers=True)(
        Q, p.requires_grad_(), torch.eye(2, dtype=F64), torch.tensor([1.0, inf], dtype=F64),
        lower=-inf, upper=torch.tensor([inf, 2.0], dtype=F64),
    )  # fmt: skip
    torch.testing.assert_close(found.x.detach(), torch.tensor([1.0, 2.0], dtype=F64))
    torch.testing.assert_close(
        found.multipliers.inequality.detach(), torch.tensor([2.0, 0]).to(F64)
    )
    torch.testing.assert_close(found.multipliers.bounds.detach(), torch.tensor([0, 1.0]).to(F64))
    (gradient,) = torch.autograd.grad(found.x.sum(), p)
    assert gradient.eq(0).all()


def test_fixed_variables_and_an_empty_interior() -> None:
    # x₁ is fixed; x₂ = −x₃ by two inequalities that leave no interior.
    Q, p = torch.eye(3, dtype=F64), torch.tensor([0.0, -1.0, 2.0], dtype=F64)
    G = torch.tensor([[0.0, 1, 1], [0, -1, -1]], dtype=F64)
    h = torch.zeros(2, dtype=F64)
    fixed = torch.tensor([0.5, -10.0, -10.0], dtype=F64)
    upper = torch.tensor([0.5, 10.0, 10.0], dtype=F64, requires_grad=True)
    p.requires_grad_()
    x = QP()(Q, p, G, h, lower=fixed, upper=upper)
    torch.testing.assert_close(x.detach(), torch.tensor([0.5, 1.5, -1.5], dtype=F64))
    jacobian = torch.stack([torch.autograd.grad(x[i], p, retain_graph=True)[0] for i in range(3)])
    expected = torch.tensor([[0.0, 0, 0], [0, -0.5, 0.5], [0, 0.5, -0.5]], dtype=F64)
    torch.testing.assert_close(jacobian, expected, rtol=1e-10, atol=1e-12)
    (moved,) = torch.autograd.grad(x[0], upper)
    torch.testing.assert_close(moved, torch.tensor([1.0, 0, 0], dtype=F64))


def test_the_same_constraint_twice() -> None:
    Q, p = torch.eye(2, dtype=F64), torch.tensor([-3.0, 0.0], dtype=F64, requires_grad=True)
    G = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=F64)
    h = torch.ones(2, dtype=F64, requires_grad=True)
    with fo.record() as seen:
        found = QP(multipliers=True)(Q, p, G, h)
    torch.testing.assert_close(found.x.detach(), torch.tensor([1.0, 0], dtype=F64))
    torch.testing.assert_close(found.multipliers.inequality.detach(), torch.ones(2, dtype=F64))
    jacobian = torch.stack(
        [torch.autograd.grad(found.x[i], p, retain_graph=True)[0] for i in (0, 1)]
    )
    torch.testing.assert_close(jacobian, torch.tensor([[0.0, 0], [0, -1]]).to(F64))
    # Both limits together move x; how that is shared out between them is a choice: evenly.
    (both,) = torch.autograd.grad(found.x[0], h)
    torch.testing.assert_close(both, torch.full((2,), 0.5, dtype=F64))
    assert not seen[0].status.any()


@pytest.mark.parametrize("definite", [True, False])
def test_redundant_equalities(definite: bool) -> None:
    Q = torch.eye(3, dtype=F64)
    if not definite:
        Q = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=F64))
    A = torch.tensor([[1.0, 1, 1], [2, 2, 2], [0, 0, 1]], dtype=F64)
    b = torch.tensor([3.0, 6, 1], dtype=F64)
    p = torch.tensor([0.5, -0.5, 0.0], dtype=F64, requires_grad=True)
    found = QP(multipliers=True)(Q, p, A=A, b=b)
    torch.testing.assert_close(found.x.detach(), torch.tensor([0.5, 1.5, 1.0], dtype=F64))
    nu = found.multipliers.equality.detach()
    least = torch.linalg.pinv(A.mT) @ -(Q @ found.x + p).detach()
    torch.testing.assert_close(nu, least, rtol=1e-9, atol=1e-10)
    (gradient,) = torch.autograd.grad(found.x[0], p)
    torch.testing.assert_close(
        gradient, torch.tensor([-0.5, 0.5, 0]).to(F64), rtol=1e-9, atol=1e-10
    )


def test_a_weakly_active_constraint_is_said() -> None:
    # min ½x² + px, x ≤ 0 at p = 0: x = min(−p, 0) has the derivatives −1 and 0 on its two sides.
    p = torch.zeros(2, 1, dtype=F64)
    p[1] = 1.0
    p.requires_grad_()
    with fo.record() as seen:
        x = QP()(torch.eye(1, dtype=F64), p, upper=0.0)
    (gradient,) = torch.autograd.grad(x.sum(), p)
    assert float(gradient[0]) in (-1.0, 0.0)
    assert float(gradient[1]) == -1.0
    assert seen[0].messages[1] == ""
    assert "only just active" in seen[0].messages[0]


def test_linear_programs_move_with_their_constraints() -> None:
    # max x₁ + 2x₂, x₁ + x₂ ≤ 1, x ≥ 0: x = (0, 1).
    p = torch.tensor([-1.0, -2.0], dtype=F64, requires_grad=True)
    h = torch.ones(1, dtype=F64, requires_grad=True)
    zero, G = torch.zeros(2, 2, dtype=F64), torch.ones(1, 2, dtype=F64)
    x = QP()(zero, p, G, h, lower=0.0)
    torch.testing.assert_close(x.detach(), torch.tensor([0.0, 1.0], dtype=F64))
    by_p, by_h = torch.autograd.grad(x[1], (p, h))
    assert by_p.abs().max() < 1e-12
    torch.testing.assert_close(by_h, torch.ones(1, dtype=F64))


def test_regularization_lets_a_linear_program_follow_its_costs() -> None:
    p = torch.tensor([-1.0, -1.2], dtype=F64, requires_grad=True)
    zero, G, h = torch.zeros(2, 2, dtype=F64), torch.ones(1, 2, dtype=F64), torch.ones(1, dtype=F64)
    layer = QP(regularization=0.5)
    x = layer(zero, p, G, h, lower=0.0)
    torch.testing.assert_close(x.detach(), torch.tensor([0.3, 0.7], dtype=F64))
    (gradient,) = torch.autograd.grad(x[1], p)
    torch.testing.assert_close(gradient, torch.tensor([1.0, -1.0], dtype=F64))
    assert "regularization=0.5" in repr(layer)


def test_semidefinite_programs() -> None:
    # ½(x₁ − x₂)² − x₁ over the box [0, 1]²: x = (1, …) with x₂ = 1 by the first term.
    Q = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=F64)
    p = torch.tensor([-1.0, 0.1], dtype=F64, requires_grad=True)
    x = QP()(Q, p, lower=0.0, upper=1.0)
    torch.testing.assert_close(x.detach(), torch.tensor([1.0, 0.9], dtype=F64))
    (gradient,) = torch.autograd.grad(x[1], p)
    torch.testing.assert_close(
        gradient, torch.tensor([0.0, -1.0], dtype=F64), rtol=1e-9, atol=1e-10
    )
