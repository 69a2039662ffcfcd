"""The sparse quadratic program layer on hard inputs that have a solution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, Status
from foldopt.nn import QP
from tests.sparse_programs import F64, INF, LAYER, dense, programs, solved, sparse, tensor, wanting


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("which", ["objective", "constraints", "lengths"])
def test_scale_does_not_matter(which: str, scale: float) -> None:
    blocks = programs(8, 6, 2, True, flat=2)
    shares = {
        "objective": ("Q", "p"),
        "constraints": ("G", "h", "A", "b"),
        "lengths": ("p", "h", "b", "lower", "upper"),
    }[which]
    other = {name: block * scale if name in shares else block for name, block in blocks.items()}
    plain, scaled = wanting(blocks, "csr"), wanting(other, "csr")
    size = scale if which == "lengths" else 1.0
    x, y = QP()(**plain), QP()(**scaled)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    torch.testing.assert_close(y / size, x, rtol=1e-10, atol=1e-10)
    x.sum().backward()
    y.sum().backward()
    unit = {"objective": scale, "constraints": 1.0, "lengths": 1.0}[which]
    assert plain["p"].grad is not None
    assert scaled["p"].grad is not None
    torch.testing.assert_close(scaled["p"].grad * unit, plain["p"].grad, rtol=1e-9, atol=1e-9)


def test_bounds_far_away_change_nothing() -> None:
    blocks, far = (wanting(programs(6, 4, 1, False), "csr") for _ in range(2))
    x, y = QP()(**blocks), QP()(**far, lower=-1e6, upper=1e6)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    torch.testing.assert_close(y, x, rtol=1e-10, atol=1e-10)
    x.sum().backward()
    y.sum().backward()
    for name, block in blocks.items():
        gradient, other = block.grad, far[name].grad
        assert gradient is not None
        assert other is not None
        torch.testing.assert_close(dense(other), dense(gradient), rtol=1e-9, atol=1e-9)


def test_infinite_limits() -> None:
    p = tensor(-3.0, -3.0).requires_grad_()
    eye = sparse(torch.eye(2, dtype=F64))
    found = solved(LAYER, eye, p, eye, tensor(1.0, INF), lower=-INF, upper=tensor(INF, 2.0))
    torch.testing.assert_close(found.x.detach(), tensor(1.0, 2.0))
    torch.testing.assert_close(found.multipliers.inequality.detach(), tensor(2.0, 0.0))
    torch.testing.assert_close(found.multipliers.bounds.detach(), tensor(0.0, 1.0))
    (gradient,) = torch.autograd.grad(found.x.sum(), p)
    assert gradient.abs().max() < 1e-12


def test_infinite_limits_beside_a_failed_sample() -> None:
    eye = torch.eye(2, dtype=F64)
    G = sparse(torch.stack([eye, eye, tensor([1.0, 0], [-1, 0])]))  # the last: x₁ ≤ −1, −x₁ ≤ −1
    p = tensor([-3.0, -3], [-1, -2], [1, 1])
    h = tensor([1.0, INF], [0.5, 0.7], [-1, -1]).requires_grad_()
    G.requires_grad_()
    found = solved(QP(multipliers=True, on_failure="mask"), sparse(eye), p, G, h)
    assert found.status.tolist() == [0, 0, int(Status.INFEASIBLE)]
    found.x[0].sum().backward()
    assert G.grad is not None
    assert h.grad is not None
    # x₁ = h₁ / G₁₁ and x₂ = 3 is free: ∂x₁/∂G₁₁ = −1.
    torch.testing.assert_close(G.grad.to_dense()[0], tensor([-1.0, 0], [0, 0]))
    torch.testing.assert_close(h.grad, tensor([1.0, 0], [0, 0], [0, 0]))


def test_fixed_variables_and_an_empty_interior() -> None:
    # x₁ is fixed; x₂ = −x₃ by two inequalities that leave no interior.
    p = tensor(0.0, -1.0, 2.0).requires_grad_()
    G = sparse(tensor([0.0, 1, 1], [0, -1, -1]))
    upper = tensor(0.5, 10.0, 10.0).requires_grad_()
    lower = tensor(0.5, -10.0, -10.0)
    found = solved(LAYER, sparse(torch.eye(3, dtype=F64)), p, G, torch.zeros(2, dtype=F64),
                   lower=lower, upper=upper)  # fmt: skip
    x = found.x
    torch.testing.assert_close(x.detach(), tensor(0.5, 1.5, -1.5), rtol=1e-10, atol=1e-10)
    jacobian = torch.stack([torch.autograd.grad(x[i], p, retain_graph=True)[0] for i in range(3)])
    expected = tensor([0.0, 0, 0], [0, -0.5, 0.5], [0, 0.5, -0.5])
    torch.testing.assert_close(jacobian, expected, rtol=1e-10, atol=1e-12)
    (moved,) = torch.autograd.grad(x[0], upper)
    torch.testing.assert_close(moved, tensor(1.0, 0, 0), rtol=1e-10, atol=1e-12)


def test_the_same_constraint_twice() -> None:
    p, h = tensor(-3.0, 0.0).requires_grad_(), torch.ones(2, dtype=F64, requires_grad=True)
    G = sparse(tensor([1.0, 0.0], [1.0, 0.0]))
    with fo.record() as seen:
        found = solved(LAYER, sparse(torch.eye(2, dtype=F64)), p, G, h)
    torch.testing.assert_close(found.x.detach(), tensor(1.0, 0))
    torch.testing.assert_close(found.multipliers.inequality.detach(), tensor(1.0, 1.0))
    # Both limits together move x; how that is shared out between them is a choice: evenly.
    (both,) = torch.autograd.grad(found.x[0], h, retain_graph=True)
    torch.testing.assert_close(both, torch.full((2,), 0.5, dtype=F64))
    # Their sum has a derivative; what is asked of their difference no multipliers can give.
    (total,) = torch.autograd.grad(found.multipliers.inequality.sum(), p, retain_graph=True)
    torch.testing.assert_close(total, tensor(-1.0, 0.0))
    torch.autograd.grad(found.multipliers.inequality[0], p)
    assert not seen[0].status.any()
    assert [int(event.status) for event in seen] == [0, 0, 0, int(Status.LEAST_SQUARES)]


@pytest.mark.parametrize("definite", [True, False])
def test_redundant_equalities_of_different_lengths(definite: bool) -> None:
    Q = torch.diag(tensor(1.0, 1.0, float(definite)))
    A = tensor([1.0, 1, 1], [300, 300, 300], [0, 0, 1])
    b, p = tensor(3.0, 900, 1), tensor(0.5, -0.5, 0.0).requires_grad_()
    found = solved(LAYER, sparse(Q), p, A=sparse(A), b=b)
    torch.testing.assert_close(found.x.detach(), tensor(0.5, 1.5, 1.0), rtol=1e-10, atol=1e-10)
    least = torch.linalg.pinv(A.mT) @ -(Q @ found.x + p).detach()
    torch.testing.assert_close(found.multipliers.equality.detach(), least, rtol=1e-8, atol=1e-10)
    (gradient,) = torch.autograd.grad(found.x[0], p)
    torch.testing.assert_close(gradient, tensor(-0.5, 0.5, 0), rtol=1e-9, atol=1e-10)


def test_a_weakly_active_constraint_is_said() -> None:
    # min ½x² + px, x ≤ 0 at p = 0: x = min(−p, 0) has the derivatives −1 and 0 on its two sides.
    p = tensor([0.0], [1.0]).requires_grad_()
    with fo.record() as seen:
        x = QP()(sparse(torch.eye(1, dtype=F64)), p, upper=0.0)
    assert isinstance(x, Tensor)
    (gradient,) = torch.autograd.grad(x.sum(), p)
    assert min(abs(float(gradient[0]) + 1), abs(float(gradient[0]))) < 1e-12
    assert float(gradient[1]) == pytest.approx(-1.0, abs=1e-12)
    assert seen[0].messages[1] == ""
    assert "only just active" in seen[0].messages[0]


def test_linear_programs_move_with_their_constraints() -> None:
    # max x₁ + 2x₂, x₁ + x₂ ≤ 1, x ≥ 0: x = (0, 1).
    p, h = tensor(-1.0, -2.0).requires_grad_(), torch.ones(1, dtype=F64, requires_grad=True)
    zero, G = sparse(torch.zeros(2, 2, dtype=F64)), sparse(torch.ones(1, 2, dtype=F64))
    x = solved(LAYER, zero, p, G, h, lower=0.0).x
    torch.testing.assert_close(x.detach(), tensor(0.0, 1.0), rtol=1e-10, atol=1e-10)
    by_p, by_h = torch.autograd.grad(x[1], (p, h))
    assert by_p.abs().max() < 1e-12
    torch.testing.assert_close(by_h, torch.ones(1, dtype=F64))


def test_regularization_lets_a_linear_program_follow_its_costs() -> None:
    p = tensor(-1.0, -1.2).requires_grad_()
    zero, G = sparse(torch.zeros(2, 2, dtype=F64), "coo"), sparse(torch.ones(1, 2, dtype=F64))
    x = QP(regularization=0.5)(zero, p, G, torch.ones(1, dtype=F64), lower=0.0)
    assert isinstance(x, Tensor)
    torch.testing.assert_close(x.detach(), tensor(0.3, 0.7))
    (gradient,) = torch.autograd.grad(x[1], p)
    torch.testing.assert_close(gradient, tensor(1.0, -1.0))


def test_what_is_not_unique_has_no_derivative() -> None:
    # Nothing says where x₂ lies between its bounds.
    Q, p = sparse(torch.diag(tensor(1.0, 0.0))), tensor(-0.5, 0.0).requires_grad_()
    x = solved(LAYER, Q, p, lower=-1.0, upper=1.0).x
    (gradient,) = torch.autograd.grad(x[0], p, retain_graph=True)
    torch.testing.assert_close(gradient, tensor(-1.0, 0.0))
    with pytest.raises(FoldError, match="BREAKDOWN"):
        torch.autograd.grad(x[1], p)
