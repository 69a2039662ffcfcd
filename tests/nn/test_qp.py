"""The quadratic program layer: values, derivatives, shapes, transforms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import solvers
from foldopt.nn import QP, QPSolution
from foldopt.nn._qp import forward
from tests.dense_programs import F64, given, programs, wanting

NAMES = ("Q", "p", "G", "h", "A", "b", "lower", "upper")


def on_given(layer: QP, blocks: list[Tensor | None]) -> Callable[..., tuple[Tensor, ...]]:
    """The layer as a function of the blocks that are there: x and the multipliers."""
    names = [name for name, block in zip(NAMES, blocks, strict=True) if block is not None]

    def solve(*values: Tensor) -> tuple[Tensor, ...]:
        found = layer(**dict(zip(names, values, strict=True)))
        parts = (found.x, *found.multipliers) if isinstance(found, QPSolution) else (found,)
        return tuple(part for part in parts if part.numel())

    return solve


SHAPES = [
    (3, 4, 0, 0, False),
    (3, 4, 3, 0, False),
    (2, 5, 0, 2, False),
    (2, 5, 4, 2, True),
    (2, 3, 0, 0, True),
    (1, 1, 1, 0, True),
    (2, 3, 8, 1, False),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_of_x_and_multipliers_in_all_data(
    shape: tuple[int, int, int, int, bool],
) -> None:
    blocks = wanting(programs(*shape))
    solve = on_given(QP(multipliers=True), blocks)
    assert torch.autograd.gradcheck(solve, given(blocks), atol=1e-6)
    assert torch.autograd.gradgradcheck(solve, given(blocks), atol=1e-5)


def kkt_gap(blocks: list[Tensor | None], found: QPSolution) -> float:
    """The largest violation of the optimality conditions, relative to the size of the data."""
    Q, p, G, h, A, b, lower, upper = blocks
    x, (lam, nu, mu) = found.x, found.multipliers
    assert Q is not None
    assert p is not None

    def mv(M: Tensor, v: Tensor) -> Tensor:
        return (M @ v.unsqueeze(-1)).squeeze(-1)

    force, gaps = mv(Q, x) + p, [torch.zeros(1, dtype=F64)]
    scale = p.abs().max() + mv(Q, x).abs().max()
    if G is not None and h is not None:
        force = force + mv(G.mT, lam)
        slack = h - mv(G, x)
        gaps += [-slack, -lam / scale, torch.minimum(lam / scale, slack).abs()]
    if A is not None and b is not None:
        force = force + mv(A.mT, nu)
        gaps.append((mv(A, x) - b).abs())
    if lower is not None and upper is not None:
        force = force + mu
        gaps += [lower - x, x - upper]
        gaps += [torch.minimum(mu.clamp_min(0) / scale, upper - x).abs()]
        gaps += [torch.minimum((-mu).clamp_min(0) / scale, x - lower).abs()]
    size = 1 + x.abs().max()
    worst = max(float(gap.max() / size) for gap in gaps if gap.numel())
    return max(worst, float(force.abs().max() / scale))


@pytest.mark.parametrize(
    "shape",
    [
        (8, 20, 20, 5, False),
        (4, 30, 60, 0, True),
        (3, 100, 100, 20, False),
        (2, 150, 260, 10, False),
        (4, 10, 200, 0, False),
    ],
)
def test_solutions_are_exact(
    shape: tuple[int, int, int, int, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a definite program needs no other engine")

    monkeypatch.setattr(forward, "_ask", never)
    blocks = programs(*shape)
    found = QP(multipliers=True)(*blocks)
    assert found.status.eq(0).all()
    assert kkt_gap(blocks, found) < 1e-11


def test_other_engines_find_the_same() -> None:
    blocks = programs(3, 12, 10, 2, True)
    expected = solvers.QP("clarabel")(*blocks)
    found = QP(multipliers=True)(*blocks)
    torch.testing.assert_close(found.x, expected.x, rtol=1e-8, atol=1e-8)
    for mine, other in zip(found.multipliers, expected.multipliers, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_the_operator_has_the_same_derivative() -> None:
    blocks = wanting(programs(4, 6, 5, 2))
    weight = torch.randn(4, 6, dtype=F64, generator=torch.Generator().manual_seed(1))
    mine = torch.autograd.grad((QP()(*blocks) * weight).sum(), given(blocks))
    Q, p, *rest = blocks
    assert Q is not None
    assert p is not None
    x = fo.operators.quadratic_program(Q, p, *rest[:4]).x
    for own, other in zip(
        mine, torch.autograd.grad((x * weight).sum(), given(blocks)), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-9)


# -- shapes, kinds, transforms ---------------------------------------------------------------------


def test_shared_blocks_get_the_sum_of_the_gradients() -> None:
    blocks = wanting(programs(1, 4, 3, 1, True))
    one = [None if block is None else block[0].detach().requires_grad_() for block in blocks]
    p = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(3))
    many = [
        None if block is None else block[0].detach().expand(5, *block.shape[1:]) for block in blocks
    ]
    many = [None if block is None else block.clone().requires_grad_() for block in many]
    shared = QP()(one[0], p, *one[2:])
    apart = QP()(many[0], p, *many[2:])
    torch.testing.assert_close(shared, apart, rtol=1e-13, atol=1e-13)
    shared.square().sum().backward()
    apart.square().sum().backward()
    for mine, other in zip(one, many, strict=True):
        if mine is not None and other is not None and mine.grad is not None:
            assert other.grad is not None
            torch.testing.assert_close(mine.grad, other.grad.sum(0), rtol=1e-10, atol=1e-12)


def test_one_program_and_several_batch_dimensions() -> None:
    blocks = programs(6, 4, 3, 1)
    flat = QP(multipliers=True)(*blocks)
    grid = QP(multipliers=True)(
        *(None if block is None else block.reshape(2, 3, *block.shape[1:]) for block in blocks)
    )
    alone = QP(multipliers=True)(*(None if block is None else block[4] for block in blocks))
    assert grid.x.shape == (2, 3, 4)
    assert grid.status.shape == (2, 3)
    assert grid.multipliers.inequality.shape == (2, 3, 3)
    assert alone.x.shape == (4,)
    assert alone.status.shape == ()
    torch.testing.assert_close(grid.x.reshape(6, 4), flat.x, rtol=0, atol=0)
    torch.testing.assert_close(alone.x, flat.x[4], rtol=1e-12, atol=1e-13)


def test_single_precision() -> None:
    blocks = programs(3, 8, 6, 2, True)
    small = wanting([None if block is None else block.float() for block in blocks])
    x = QP()(*small)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), QP()(*blocks), rtol=1e-4, atol=1e-4)
    x.sum().backward()
    large = wanting(blocks)
    QP()(*large).sum().backward()
    for mine, other in zip(given(small), given(large), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert mine.grad.dtype == torch.float32
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=1e-2, atol=1e-3)


def test_transforms() -> None:
    blocks = programs(3, 4, 3, 1, True)
    layer = QP()

    def of_p(p: Tensor) -> Tensor:
        return layer(blocks[0], p, *blocks[2:])

    p = blocks[1]
    assert p is not None
    reverse = torch.func.jacrev(of_p)(p)
    torch.testing.assert_close(torch.func.jacfwd(of_p)(p), reverse, rtol=1e-10, atol=1e-12)
    several = torch.stack([p, 1.5 * p, -p])
    mapped = torch.func.vmap(of_p)(several)
    torch.testing.assert_close(mapped[1], of_p(1.5 * p), rtol=1e-13, atol=1e-13)
    gradient = torch.func.vmap(torch.func.grad(lambda p: of_p(p).square().sum()))(several)
    (expected,) = torch.autograd.grad(of_p(q := (1.5 * p).requires_grad_()).square().sum(), q)
    torch.testing.assert_close(gradient[1], expected, rtol=1e-10, atol=1e-12)


def test_transforms_where_there_are_no_constraints() -> None:
    Q, p = torch.diag(torch.tensor([2.0, 4.0], dtype=F64)), torch.tensor([1.0, 2.0], dtype=F64)
    x, pull, *_ = torch.func.vjp(lambda p: QP()(Q, p), p)
    torch.testing.assert_close(x, torch.tensor([-0.5, -0.5], dtype=F64))
    (gradient,) = pull(torch.ones(2, dtype=F64))
    torch.testing.assert_close(gradient, torch.tensor([-0.5, -0.25], dtype=F64))


def test_the_record_holds_both_passes() -> None:
    blocks = wanting(programs(3, 4, 3, 1))
    with fo.record() as seen:
        QP()(*blocks).sum().backward()
    assert [event.kind for event in seen] == ["forward", "adjoint"]
    assert seen[1].method == "KKT"
    assert all(float(event.residual.max()) < 1e-12 for event in seen)
