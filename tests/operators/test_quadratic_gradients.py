"""Quadratic programs: derivatives in all data, by three methods, against solvers and each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt.operators import PrimalDual, quadratic_program
from tests.quadratic import F64, apply, assert_slopes, random_program, solve

METHODS = ["active_set", "admm", "qpth"]
FULL = ["active_set", "admm"]
ACCURACY = {"active_set": 1e-9, "admm": 1e-9, "qpth": 1e-5}


def leaves(*batch: int, **sizes: Any) -> list[Tensor]:
    return [block.requires_grad_() for block in random_program(*batch, **sizes)]


def symmetric(Q: Tensor) -> Tensor:
    return (Q + Q.mT) / 2


def together(point: PrimalDual) -> Tensor:
    return torch.cat(point, -1)


def reference(Q: Tensor, *rest: Tensor) -> PrimalDual:
    return solve(symmetric(Q), *rest)


def skip_without_qpth(method: str) -> None:
    if method == "qpth":
        pytest.importorskip("qpth")


@pytest.mark.parametrize("sizes", [{}, {"k": 0}, {"m": 0, "k": 2}, {"m": 0, "k": 0}, {"n": 20}])
@pytest.mark.parametrize("method", METHODS)
def test_slopes_are_those_of_another_solver(method: Any, sizes: dict[str, int]) -> None:
    """Of x and of both multipliers, in every block."""
    skip_without_qpth(method)
    blocks = leaves(3, **sizes)
    point = quadratic_program(*blocks, method=method)
    for part in range(3):
        if point[part].numel():
            assert_slopes(lambda *b, part=part: reference(*b)[part], point[part], tuple(blocks))


@pytest.mark.parametrize("size", [1e-6, 1e6])
@pytest.mark.parametrize("method", FULL)
def test_slopes_of_an_objective_of_another_size(method: Any, size: float) -> None:
    """x does not notice, and its derivative in Q and p is by that much smaller."""
    Q, p, *rest = leaves(3)
    weights = torch.randn(3, 4, dtype=F64)
    grads = []
    for factor in (1.0, size):
        x = quadratic_program(factor * Q, factor * p, *rest, method=method).x
        grads.append(torch.autograd.grad((weights * x).sum(), (Q, p, *rest)))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", ["admm", "qpth"])
def test_the_methods_agree(method: Any) -> None:
    skip_without_qpth(method)
    blocks = leaves(6, n=5, m=9, k=2)
    points = [quadratic_program(*blocks, method=m) for m in ("active_set", method)]
    weights = torch.randn_like(together(points[0]))
    grads = [torch.autograd.grad((weights * together(z)).sum(), blocks) for z in points]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=ACCURACY[method])


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_a_matrix_that_is_not_symmetric_is(method: Any) -> None:
    skip_without_qpth(method)
    Q, *rest = leaves(3)
    K = torch.randn(3, 4, 4, dtype=F64)
    skewed = (Q.detach() + K - K.mT).requires_grad_()
    points = [quadratic_program(q, *rest, method=method) for q in (Q, skewed)]
    torch.testing.assert_close(points[1], points[0])
    (grad,) = torch.autograd.grad(points[1].x[:, 0].sum(), skewed)
    torch.testing.assert_close(grad, grad.mT)


@pytest.mark.parametrize("method", FULL)
def test_first_and_second_derivatives(method: Any) -> None:
    blocks = leaves(1, n=2, m=3, k=1)
    seed = quadratic_program(*blocks)
    assert (seed.inequality > 1e-3).any()

    def of_all(*blocks: Tensor) -> Tensor:
        return together(quadratic_program(*blocks, method=method))

    assert gradcheck(of_all, blocks, check_forward_ad=True)
    assert gradgradcheck(of_all, blocks)


# -- degenerate ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [(2, 3), (4, 5)])
@pytest.mark.parametrize("method", METHODS)
def test_repeated_rows_do_not_change_the_derivative_of_x(
    method: Any, rows: tuple[int, ...]
) -> None:
    """Each copy gets its share of the gradient, of inequalities and of equalities."""
    skip_without_qpth(method)
    blocks = leaves(3, n=5, m=4, k=2)
    weights = torch.randn(3, 5, dtype=F64)
    grads = []
    for copies in (1, 2):
        given = [
            part.repeat_interleave(copies, 1) if i in rows else part
            for i, part in enumerate(blocks)
        ]
        if (method, copies, rows[0]) == ("qpth", 2, 4):
            with pytest.raises(fo.FoldError, match=r"BREAKDOWN.*an equality redundant"):
                quadratic_program(*given, method=method)
            return
        point = quadratic_program(*given, method=method)
        assert (point.inequality > 1e-3).any()
        if (method, copies, rows[0]) == ("admm", 2, 2):  # its state is not unique, and it says so
            with pytest.raises(fo.FoldError, match="singular to working precision"):
                (weights * point.x).sum().backward()
            return
        grads.append(torch.autograd.grad((weights * point.x).sum(), blocks))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=ACCURACY[method])


def test_second_derivatives_where_constraints_are_dependent() -> None:
    rows = [[[2.0, 0.3], [0.3, 1.0]], [-3.0, -1.0], [[1.0, 0.5]], [0.5]]  # active, λ > 0
    blocks = [torch.tensor([part], dtype=F64, requires_grad=True) for part in rows]

    def copied(Q: Tensor, p: Tensor, *rest: Tensor) -> PrimalDual:
        return quadratic_program(Q, p, *(part.repeat_interleave(2, 1) for part in rest))

    assert (copied(*blocks).inequality > 0.1).all()

    assert gradcheck(lambda *b: together(copied(*b)), blocks, check_forward_ad=True)
    assert gradgradcheck(lambda *b: copied(*b).x, blocks)


@pytest.mark.parametrize("method", ["active_set", "qpth"])
def test_multipliers_of_dependent_rows_have_the_derivative_of_least_norm(method: Any) -> None:
    """Min ½‖x‖² + pᵀx s.t. x₀ ≤ 1, written with rows of the lengths 1, 1 and 4: see the values."""
    skip_without_qpth(method)
    p = torch.tensor([-3.0, 0.2], dtype=F64, requires_grad=True)
    G = torch.tensor([[1.0, 0], [1, 0], [4, 0]], dtype=F64)
    lam = quadratic_program(torch.eye(2, dtype=F64), p, G, G[:, 0], method=method).inequality
    share = torch.tensor([1 / 3, 1 / 3, 1 / 12], dtype=F64)
    torch.testing.assert_close(lam, 2 * share, rtol=0, atol=1e-6)
    rows = [torch.autograd.grad(lam[i], p, retain_graph=True)[0] for i in range(3)]
    wanted = torch.stack([-share, torch.zeros(3, dtype=F64)], -1)
    torch.testing.assert_close(torch.stack(rows), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", FULL)
def test_weakly_active_constraint_has_a_one_sided_derivative(method: Any) -> None:
    """The projection on x₀ ≤ h at c₀ = h."""
    p = torch.tensor([-1.0, -0.3], dtype=F64, requires_grad=True)
    G, h = torch.tensor([[1.0, 0.0]], dtype=F64), torch.ones(1, dtype=F64)
    x = quadratic_program(torch.eye(2, dtype=F64), p, G, h, method=method).x
    J = torch.stack([torch.autograd.grad(x[i], p, retain_graph=True)[0] for i in range(2)])
    sides = [torch.diag(torch.tensor([free, -1.0], dtype=F64)) for free in (-1.0, 0.0)]
    assert min(float((J - side).abs().max()) for side in sides) < 1e-12


@pytest.mark.parametrize("method", FULL)
def test_a_linear_program_at_a_vertex(method: Any) -> None:
    """x = G⁻¹h there, so that nothing depends on p."""
    p, G = torch.tensor([-1.0, -2.0], dtype=F64), torch.randn(2, 2, dtype=F64)
    G = (torch.eye(2, dtype=F64) + 0.1 * G).requires_grad_()
    p.requires_grad_()
    h = torch.ones(2, dtype=F64, requires_grad=True)
    x = quadratic_program(torch.zeros(2, 2, dtype=F64), p, G, h, method=method).x
    wanted = torch.linalg.solve(G, h)
    torch.testing.assert_close(x, wanted)
    grads = [torch.autograd.grad(y.sin().sum(), (G, h)) for y in (x, wanted)]
    torch.testing.assert_close(*grads)
    x = quadratic_program(torch.zeros(2, 2, dtype=F64), p, G, h, method=method).x
    (grad,) = torch.autograd.grad(x.sum(), p)
    torch.testing.assert_close(grad, torch.zeros(2, dtype=F64))


@pytest.mark.parametrize("method", FULL)
def test_a_solution_that_is_not_unique_has_no_derivative(method: Any) -> None:
    p = torch.tensor([-1.0, 0.0], dtype=F64, requires_grad=True)
    eye = torch.eye(2, dtype=F64)
    x = quadratic_program(0 * eye, p, torch.cat([eye, -eye]), torch.ones(4, dtype=F64),
                          method=method).x  # fmt: skip
    with pytest.raises(fo.FoldError, match="singular to working precision"):
        x[1].backward()


# -- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_alone_is_its_row_in_the_batch(method: Any) -> None:
    skip_without_qpth(method)
    blocks = leaves(3)
    whole = quadratic_program(*blocks, method=method)
    weights = torch.randn(3, 4, dtype=F64)
    grads = torch.autograd.grad((weights * whole.x).sum(), blocks)
    for row in range(3):
        alone = quadratic_program(*(block[row] for block in blocks), method=method)
        assert [part.dim() for part in alone] == [1, 1, 1]
        torch.testing.assert_close(alone.x, whole.x[row], rtol=0, atol=1e-7)
        found = torch.autograd.grad((weights[row] * alone.x).sum(), blocks)
        for ours, theirs in zip(found, grads, strict=True):
            torch.testing.assert_close(ours[row], theirs[row], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_blocks_that_samples_share_get_the_sum_of_gradients(method: Any) -> None:
    skip_without_qpth(method)
    one = leaves()
    p = torch.randn(2, 3, 4, dtype=F64, requires_grad=True)  # two batch dimensions
    blocks = (one[0], p, *one[2:])
    point = quadratic_program(*blocks, method=method)
    assert [part.shape for part in point] == [(2, 3, 4), (2, 3, 6), (2, 3, 1)]
    assert_slopes(lambda *b: reference(*b).x, point.x, blocks)
    grown = [block if block is p else block.expand(2, 3, *block.shape) for block in blocks]
    weights = torch.randn_like(point.x)
    again = quadratic_program(*grown, method=method).x
    grads = [torch.autograd.grad((weights * x).sum(), blocks) for x in (point.x, again)]
    torch.testing.assert_close(*grads)


# -- transforms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", FULL)
def test_transforms_agree_with_the_batch(method: Any) -> None:
    blocks = leaves(3)
    weights = torch.randn(4, dtype=F64)

    def x(*blocks: Tensor) -> Tensor:
        return quadratic_program(*blocks, method=method).x

    def loss(*blocks: Tensor) -> Tensor:
        return (weights * x(*blocks).sin()).sum()

    wanted = torch.autograd.grad(loss(*blocks), blocks)
    plain = [block.detach() for block in blocks]
    found = torch.func.vmap(torch.func.grad(loss, tuple(range(6))))(*plain)
    torch.testing.assert_close(found, wanted)
    rows = torch.func.vmap(torch.func.jacrev(x, 1))(*plain)
    torch.testing.assert_close(torch.func.vmap(torch.func.jacfwd(x, 1))(*plain), rows)
    tangents = [torch.randn_like(block) for block in plain]
    pushed = torch.func.jvp(x, tuple(plain), tuple(tangents))[1]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(b, t) for b, t in zip(plain, tangents, strict=True)]
        torch.testing.assert_close(forward_ad.unpack_dual(x(*duals)).tangent, pushed)
    back = sum((g * t).sum() for g, t in zip(wanted, tangents, strict=True))
    slope = weights * x(*plain).cos() * pushed
    torch.testing.assert_close(slope.sum(), torch.as_tensor(back))


@pytest.mark.parametrize("method", FULL)
def test_hessian(method: Any) -> None:
    """The value function has the gradient x, and the Hessian ∂x/∂p."""
    Q, p, *rest = (block.detach() for block in leaves())

    def value(p: Tensor) -> Tensor:
        x = quadratic_program(Q, p, *rest, method=method).x
        return 0.5 * x @ Q @ x + p @ x

    torch.testing.assert_close(
        torch.func.hessian(value)(p),
        torch.func.jacrev(lambda p: quadratic_program(Q, p, *rest).x)(p),
    )


@pytest.mark.parametrize("method", METHODS)
def test_value_function_has_the_multipliers_as_its_slopes(method: Any) -> None:
    """∂f*/∂h = −λ and ∂f*/∂b = −ν: their signs."""
    skip_without_qpth(method)
    Q, p, G, h, A, b = leaves(3)
    point = quadratic_program(Q, p, G, h, A, b, method=method)
    value = (0.5 * point.x * apply(Q, point.x) + p * point.x).sum()
    slopes = torch.autograd.grad(value, (h, b), retain_graph=True)
    wanted = (-point.inequality, -point.equality)
    torch.testing.assert_close(slopes, wanted, rtol=0, atol=ACCURACY[method])
