"""Projected gradient with restarts, and ADMM, on batches in PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import projections, steps
from foldopt.solvers.admm import ADMM
from foldopt.solvers.projected_gradient import ProjectedGradient
from tests.quadratic import apply, random_program, solve

F64 = torch.float64
Status = fo.Status


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


# -- projected gradient ---------------------------------------------------------------------------


def test_quadratic_on_the_simplex_against_piqp() -> None:
    n, samples = 6, 4
    R, p = rand(samples, n, n), rand(samples, n, seed=1)
    Q = R @ R.mT / n + 0.1 * torch.eye(n, dtype=F64)
    solver = ProjectedGradient(
        lambda x, Q, p: 0.5 * (x * apply(Q, x)).sum(-1) + (p * x).sum(-1),
        projections.simplex,
        lambda Q, p: torch.zeros_like(p),
        restarts=2,
    )
    solution = solver(Q, p)
    assert solution.status.tolist() == [0] * samples
    blocks = (Q, p, -torch.eye(n, dtype=F64), torch.zeros(n, dtype=F64))
    known = solve(*blocks, torch.ones(1, n, dtype=F64), torch.ones(1, dtype=F64))
    torch.testing.assert_close(solution.x, known.x, rtol=0, atol=1e-7)


def wells(x: Tensor, c: Tensor) -> Tensor:
    """Two wells in each coordinate, the one at −1 or that at +1 deeper, as the sign of c has it."""
    return ((x**2 - 1) ** 2 - 0.2 * c * x).sum(-1)


def test_restarts_find_what_one_start_misses() -> None:
    c = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [1.0, 1.0]], dtype=F64)
    options: dict[str, Any] = {"start": lambda c: -c}  # in the wrong well everywhere
    box = lambda y: y.clamp(-2, 2)
    one = ProjectedGradient(wells, box, restarts=1, **options)(c)
    many = ProjectedGradient(wells, box, restarts=24, spread=2.0, **options)(c)
    assert one.status.tolist() == many.status.tolist() == [0] * 3
    # The global optimum by brute force: coordinates do not touch one another.
    grid = torch.linspace(-2, 2, 40_001, dtype=F64)
    known = torch.stack([grid[wells(grid[:, None], s).argmin()] for s in torch.tensor([-1.0, 1.0])])
    wanted = known[(c > 0).long()]
    torch.testing.assert_close(many.x, wanted, rtol=0, atol=2e-4)
    assert bool((wells(one.x, c) > wells(many.x, c) + 0.1).all())
    again = ProjectedGradient(wells, box, restarts=24, spread=2.0, **options)(c)
    assert torch.equal(again.x, many.x)


def test_projected_gradient_statuses() -> None:
    c = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=F64)
    solver = ProjectedGradient(wells, lambda y: y.clamp(-2, 2), torch.zeros_like, restarts=2)
    solution = ProjectedGradient(
        lambda x, c: wells(x, c.sqrt()),  # NaN for the second
        lambda y: y.clamp(-2, 2),
        lambda c: torch.full_like(c, 0.5),
        restarts=2,
    )(c)
    assert solution.status.tolist() == [0, 5]
    assert bool(solution.x[1].isnan().all())
    short = ProjectedGradient(
        wells, lambda y: y.clamp(-2, 2), solver.start, restarts=2, max_iterations=1
    )(c[:1])
    assert short.status.tolist() == [1]
    assert short.messages == ("MAX_ITERATIONS",)
    late = ProjectedGradient(
        wells, lambda y: y.clamp(-2, 2), solver.start, time_limit=1e-9
    )(c[:1])  # fmt: skip
    assert late.status.tolist() == [10]


def test_badly_scaled_and_in_single_precision() -> None:
    scale = torch.tensor([1.0, 10.0, 1e4])
    for dtype, atol in ((F64, 1e-7), (torch.float32, 1e-3)):
        c = rand(3, 3).to(dtype)
        solver = ProjectedGradient(
            lambda x, c: (scale.to(c.dtype) * (x - c) ** 2).sum(-1),
            lambda y: y.clamp_min(0),
            torch.ones_like,
            restarts=1,
        )
        solution = solver(c)
        assert solution.status.tolist() == [0] * 3
        assert solution.x.dtype == dtype
        torch.testing.assert_close(solution.x, c.clamp_min(0), rtol=0, atol=atol)


def test_the_fold_of_projected_gradient_has_the_right_gradient() -> None:
    c = torch.tensor([[0.5, 0.7, -1.0]], dtype=F64, requires_grad=True)
    objective = lambda x, c: 0.5 * ((x - c) ** 2).sum(-1)
    solver = ProjectedGradient(objective, projections.simplex, torch.zeros_like)
    step = steps.projected_gradient(objective, projections.simplex, 1.0)
    x = fo.folded(step)(solver)(c)
    (grad,) = torch.autograd.grad(x[0, 0], c)
    torch.testing.assert_close(grad, torch.tensor([[0.5, -0.5, 0.0]], dtype=F64))


# -- ADMM -----------------------------------------------------------------------------------------


def test_admm_against_piqp_with_bounds() -> None:
    Q, p, G, h, A, b = random_program(5, generator=torch.Generator().manual_seed(0))
    n = p.shape[-1]
    lower = torch.full((n,), -0.5, dtype=F64)
    lower[0] = -torch.inf
    upper = torch.full((5, n), 0.7, dtype=F64)
    inside = 0.3 * torch.ones(5, n, dtype=F64)
    b, h = apply(A, inside), apply(G, inside) + 0.2
    solution = ADMM()(Q, p, G, h, A, b, lower, upper)
    assert solution.status.tolist() == [0] * 5
    eye = torch.eye(n, dtype=F64).expand(5, n, n)
    rows = torch.cat([G, -eye, eye], 1)
    rights = torch.cat([h, -lower.expand(5, n), upper], 1)
    known = solve(Q, p, rows, rights, A, b)
    torch.testing.assert_close(solution.x, known.x, rtol=0, atol=1e-9)
    lam, nu, mu = solution.multipliers
    slope = apply(Q, solution.x) + p + apply(G.mT, lam) + apply(A.mT, nu) + mu
    torch.testing.assert_close(slope, torch.zeros_like(p), rtol=0, atol=1e-9)
    assert bool((lam >= -1e-12).all())
    assert bool((mu[solution.x < 0.69] <= 1e-9).all())
    assert bool((mu[solution.x > -0.49] >= -1e-9).all())
    assert bool((mu.abs() > 0.1).any())


def test_admm_statuses_and_shapes() -> None:
    eye, p = torch.eye(2), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    h = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    G = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    solution = ADMM()(eye, p, G, h)  # x₁ ≤ −1 ≤ ... ≤ −x₁ ≤ −1 for the second sample
    assert solution.status.tolist() == [0, int(Status.INFEASIBLE)]
    assert bool(solution.x[1].isnan().all())
    assert solution.x.dtype == torch.float32
    single = ADMM()(eye, p[0], lower=torch.zeros(2))
    assert single.x.tolist() == [0, 0]
    torch.testing.assert_close(single.multipliers.bounds, torch.tensor([-1.0, -1.0]))
    assert ADMM()(0 * eye, p[0]).status == Status.UNBOUNDED
    p[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"p holds NaN at \[0, 0\]"):
        ADMM()(eye, p)
    box = ADMM()(eye, torch.tensor([3.0, -3.0]), lower=-1.0, upper=2.0)
    assert box.x.tolist() == [-1, 2]
    assert box.multipliers.bounds.tolist() == [-2, 1]
