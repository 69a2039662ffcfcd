"""The quadratic program layer: values, derivatives, hard inputs, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, Status, solvers
from foldopt.nn import QP, QPSolution
from foldopt.nn._qp import forward

F64 = torch.float64
NAMES = ("Q", "p", "G", "h", "A", "b", "lower", "upper")


def programs(
    samples: int, n: int, m: int, k: int, bounds: bool = False, seed: int = 0
) -> list[Tensor | None]:
    """Strictly convex, feasible, with some constraints active."""
    g = torch.Generator().manual_seed(seed)
    L = torch.randn(samples, n, n, generator=g, dtype=F64)
    Q = L @ L.mT / n + 0.1 * torch.eye(n, dtype=F64)
    p = 2 * torch.randn(samples, n, generator=g, dtype=F64)
    G = torch.randn(samples, m, n, generator=g, dtype=F64)
    A = torch.randn(samples, k, n, generator=g, dtype=F64)
    inside = torch.randn(samples, n, generator=g, dtype=F64)
    h = (G @ inside.unsqueeze(-1)).squeeze(-1) + torch.rand(samples, m, generator=g, dtype=F64)
    b = (A @ inside.unsqueeze(-1)).squeeze(-1)
    width = 0.1 + torch.rand(2, samples, n, generator=g, dtype=F64)
    return [
        Q, p, *((G, h) if m else (None, None)), *((A, b) if k else (None, None)),
        *((inside - width[0], inside + width[1]) if bounds else (None, None)),
    ]  # fmt: skip


def wanting(blocks: list[Tensor | None]) -> list[Tensor | None]:
    return [None if block is None else block.clone().requires_grad_() for block in blocks]


def given(blocks: list[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(block for block in blocks if block is not None)


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


# -- hard inputs -----------------------------------------------------------------------------------


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


BOTH_SIDES = torch.tensor([[1.0], [-1.0]])


def test_what_is_not_unique_has_no_derivative() -> None:
    # Nothing says where x₂ lies between its bounds.
    Q = torch.diag(torch.tensor([1.0, 0.0], dtype=F64))
    p = torch.tensor([-0.5, 0.0], dtype=F64, requires_grad=True)
    x = QP()(Q, p, lower=-1.0, upper=1.0)
    (gradient,) = torch.autograd.grad(x[0], p, retain_graph=True)
    torch.testing.assert_close(gradient, torch.tensor([-1.0, 0.0], dtype=F64))
    with pytest.raises(FoldError, match="BREAKDOWN"):
        torch.autograd.grad(x[1], p)


TROUBLE = {
    "infeasible": (
        Status.INFEASIBLE,
        [torch.eye(1), torch.zeros(1), BOTH_SIDES, torch.tensor([-1.0, -1.0])],
    ),
    "unbounded": (
        Status.UNBOUNDED,
        [
            torch.zeros(1, 1),
            torch.ones(1),
            torch.tensor([[1.0], [-1.0]]),
            torch.tensor([5.0, torch.inf]),
        ],
    ),
    "not convex": (
        Status.FAILED,
        [-torch.eye(1), torch.zeros(1), BOTH_SIDES, torch.ones(2)],
    ),
    "nan": (
        Status.NONFINITE,
        [torch.eye(1), torch.full((1,), torch.nan), BOTH_SIDES, torch.ones(2)],
    ),
}
SOUND = [torch.eye(1), torch.tensor([-3.0]), BOTH_SIDES, torch.ones(2)]


@pytest.mark.parametrize("kind", TROUBLE)
def test_one_bad_sample_of_two(kind: str) -> None:
    status, bad = TROUBLE[kind]
    blocks = [torch.stack(pair).to(F64).requires_grad_() for pair in zip(SOUND, bad, strict=True)]
    layer = QP(multipliers=True, on_failure="mask")
    found = layer(*blocks)
    assert found.status.tolist() == [0, int(status)]
    assert float(found.x[0].detach()) == 1.0
    assert found.x[1].isnan().all()
    found.x[0].sum().backward()
    alone = [block.to(F64).requires_grad_() for block in SOUND]
    QP()(*alone).sum().backward()
    for both, one in zip(blocks, alone, strict=True):
        assert both.grad is not None
        assert one.grad is not None
        torch.testing.assert_close(both.grad[0], one.grad, rtol=1e-12, atol=1e-12)
        assert both.grad[1].eq(0).all()


def test_infinite_limits_beside_a_failed_sample() -> None:
    # min ½‖x − c‖², x₁ ≤ 1 and x₂ ≤ ∞; the second sample asks for x₁ ≤ −1 and −x₁ ≤ −1 as well.
    G = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64).expand(2, 2, 2).clone()
    h = torch.tensor([[1.0, torch.inf], [-1.0, -1.0]], dtype=F64)
    p = torch.tensor([[-3.0, -5.0], [0.0, 0.0]], dtype=F64)
    G.requires_grad_()
    p.requires_grad_()
    x = QP(on_failure="mask")(torch.eye(2, dtype=F64), p, G, h)
    torch.testing.assert_close(x[0].detach(), torch.tensor([1.0, 5.0], dtype=F64))
    by_G, by_p = torch.autograd.grad(x[0].sum(), (G, p))
    # x₁ = (1 − G₁₂ x₂) / G₁₁ near here, and λ = 2: x₂ = 5 − 2 G₁₂.
    torch.testing.assert_close(
        by_G[0], torch.tensor([[-1.0, -5.0 - 2.0], [0, 0]], dtype=F64), rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(by_p[0], torch.tensor([0.0, -1.0], dtype=F64))
    assert by_G[1].eq(0).all()
    assert by_p[1].eq(0).all()


@pytest.mark.parametrize("kind", ["infeasible", "unbounded", "not convex"])
def test_a_bad_sample_is_an_error(kind: str) -> None:
    status, bad = TROUBLE[kind]
    blocks = [torch.stack(pair).to(F64) for pair in zip(SOUND, bad, strict=True)]
    with pytest.raises(FoldError, match=f"1 {status.name} \\(first: sample 1 of 2\\)") as caught:
        QP()(*blocks)
    assert caught.value.status is not None
    assert caught.value.status.tolist() == [0, int(status)]
    if kind == "not convex":
        assert "sample 1: Q is not positive semidefinite" in str(caught.value)


def test_an_error_quotes_the_sample_that_failed() -> None:
    # What is said of the first, that it is only just active, is no reason to fail.
    p = torch.tensor([[0.0], [-1.0]], dtype=F64)
    Q = torch.tensor([[[1.0]], [[-1.0]]], dtype=F64)
    with pytest.raises(FoldError, match="says of sample 1: Q is not positive semidefinite"):
        QP()(Q, p, upper=0.0)


def test_limits_of_the_engines_are_statuses() -> None:
    blocks = programs(1, 20, 40, 0)
    engines = solvers.QP("clarabel", max_iterations=1)
    layer = QP(multipliers=True, on_failure="mask", engines=engines)
    zero = torch.zeros(20, 20, dtype=F64)
    found = layer(zero, *blocks[1:4], lower=-50.0, upper=50.0)
    assert found.status.tolist() == [int(Status.MAX_ITERATIONS)]
    assert found.x.isnan().all()


# -- wrong arguments -------------------------------------------------------------------------------

I2, ONES = torch.eye(2), torch.ones(2)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((I2, [1.0, 2.0]), TypeError, "p must be a tensor of float32 or float64, got list"),
        ((I2, torch.ones(2, dtype=torch.int64)), TypeError, r"got torch\.int64"),
        ((I2, torch.ones(())), ValueError, r"p must have shape \(\*batch, n\)"),
        ((torch.eye(3), ONES), ValueError, r"Q must have shape \(2, 2\), .*; got \(3, 3\)"),
        ((None, ONES), TypeError, "Q must be a tensor or None, got NoneType"),
        ((I2, ONES, I2), ValueError, "G and h go together"),
        ((I2, ONES, None, None, I2), ValueError, "A and b go together"),
        ((I2, ONES, I2, [1.0]), TypeError, "h must be a tensor or None, got list"),
        ((I2, ONES, torch.ones(3, 3), torch.ones(3)), ValueError, r"G must have shape \(3, 2\)"),
        ((I2.double(), ONES), TypeError, r"Q is torch\.float64 on cpu, p is torch\.float32"),
        ((torch.ones(3, 2, 2), torch.ones(4, 2)), ValueError, "batch shapes differ: Q has .3,., p"),
        ((I2, torch.tensor([1.0, torch.nan])), ValueError, "p of sample 0 holds nan"),
        ((I2, torch.tensor([[1.0, 2.0], [1.0, torch.inf]])), ValueError, "p of sample 1 holds inf"),
        (
            (I2, ONES, I2, torch.tensor([-torch.inf, 1.0])),
            ValueError,
            "h holds -inf .h may hold inf",
        ),
        ((I2.to_sparse(), ONES, I2, ONES), TypeError, "G is dense and Q is sparse"),
    ],
)
def test_wrong_data(arguments: tuple, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        QP()(*arguments)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="regularization must be 0 or more, got -1"):
        QP(regularization=-1)
    with pytest.raises(TypeError, match=r"engines must be a foldopt\.solvers\.QP, got str"):
        QP(engines="piqp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_failure must be one of"):
        QP(on_failure="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="p of sample 0 holds nan"):  # shared: no sample is left
        QP(on_failure="mask")(I2, torch.tensor([1.0, torch.nan]))
