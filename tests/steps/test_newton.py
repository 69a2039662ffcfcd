"""Newton, KKT and SQP steps: their values, their Φ, and what a backward pass costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import qpsolvers
import torch
from torch import Tensor

import foldopt as fo
from foldopt import steps
from foldopt.operators import PrimalDual
from tests.kkt import (
    BUILDERS,
    assert_multiple_of_identity,
    ball,
    build,
    count_products,
    functions,
    linear,
    lowest,
    phi,
    solved,
)
from tests.programs import CASES, F64

N = 4


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


# -- the value, against numpy ----------------------------------------------------------------


def cup(x: Tensor, c: Tensor) -> Tensor:
    """Σ eˣ − cᵀx + ¼‖x‖⁴."""
    return x.exp().sum() - c @ x + 0.25 * (x @ x) ** 2


def cup_slope(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    return np.exp(x) - c + (x @ x) * x


def cup_hessian(x: np.ndarray) -> np.ndarray:
    return np.diag(np.exp(x)) + (x @ x) * np.eye(len(x)) + 2 * np.outer(x, x)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_newton_is_newtons_step(alpha: float) -> None:
    x, c = rand(3, N), rand(3, N)
    found = steps.newton(cup, alpha)(x, c)
    for y, d, new in zip(x.numpy(), c.numpy(), found.numpy(), strict=True):
        wanted = y - alpha * np.linalg.solve(cup_hessian(y), cup_slope(y, d))
        np.testing.assert_allclose(new, wanted, rtol=1e-12)


def constraints(x: Tensor, c: Tensor) -> Tensor:
    return torch.stack([x @ x - 2, x[0] * x[1] - c[0]])


def plane(x: Tensor, c: Tensor) -> Tensor:
    return x.sum() - c[1]


def numbers(
    z: tuple[np.ndarray, ...], c: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """∇f, g, G, h, A, and the Hessian of the Lagrangian, by hand."""
    x, lam, _ = z
    g = np.array([x @ x - 2, x[0] * x[1] - c[0]])
    G = np.stack([2 * x, np.r_[x[1], x[0], np.zeros(len(x) - 2)]])
    cross = np.zeros((len(x), len(x)))
    cross[0, 1] = cross[1, 0] = 1
    H = cup_hessian(x) + 2 * lam[0] * np.eye(len(x)) + lam[1] * cross
    return cup_slope(x, c), g, G, np.array([x.sum() - c[1]]), np.ones((1, len(x))), H


@pytest.mark.parametrize("alpha", [1.0, 0.4])
@pytest.mark.parametrize("active", [(), (0,), (1,), (0, 1)])
def test_newton_kkt_solves_the_equations_of_the_active_constraints(
    active: tuple[int, ...], alpha: float
) -> None:
    x, c, nu = rand(N), rand(N), rand(1)
    g = constraints(x, c)
    lam = torch.where(torch.tensor([i in active for i in range(2)]), 0.1 - g, -g - 0.1)
    z = x.numpy(), lam.numpy(), nu.numpy()
    held = list(active)
    kept = np.array([z[1][i] if i in active else 0.0 for i in range(2)])  # what counts of λ
    slope, g_, G, h, A, H = numbers((z[0], kept, z[2]), c.numpy())
    J = np.concatenate([G[held], A])
    K = np.block([[H, J.T], [J, np.zeros((len(J), len(J)))]])
    move = np.linalg.solve(K, -np.concatenate([slope, g_[held], h]))
    target = np.zeros(2)
    target[held] = move[N : N + len(held)]
    ends = (z[0] + move[:N], target, move[N + len(held) :])
    found = steps.newton_kkt(cup, constraints, plane, alpha)(PrimalDual(x, lam, nu), c)
    for new, old, end in zip(found, z, ends, strict=True):
        np.testing.assert_allclose(new, old + alpha * (end - old), rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
@pytest.mark.parametrize("name", [name for name in BUILDERS if "sqp" in name])
def test_sqp_solves_the_quadratic_program(name: str, alpha: float) -> None:
    x, lam, nu, c = 0.5 * rand(5, N), rand(5, 2).abs(), rand(5, 1), rand(5, N)
    found = build(name, cup, constraints, plane, alpha)((x, lam, nu), c)
    for sample in range(5):
        z = tuple(part[sample].numpy() for part in (x, lam, nu))
        slope, g, G, h, A, H = numbers(z, c[sample].numpy())
        assert np.linalg.eigvalsh(H)[0] > 0.01
        problem = qpsolvers.Problem(H, slope, G, -g, A, -h)
        solution = qpsolvers.solve_problem(problem, "piqp", eps_abs=1e-12, eps_rel=1e-12)
        d, mu, eta = (np.asarray(part) for part in (solution.x, solution.z, solution.y))
        ends = (z[0] + d, mu, eta)
        for new, old, end in zip(found, z, ends, strict=True):
            wanted = old + alpha * (end - old)
            np.testing.assert_allclose(new[sample], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [tuple, list, PrimalDual])
@pytest.mark.parametrize("name", BUILDERS)
def test_the_state_keeps_its_type(name: str, kind: Any) -> None:
    point = lowest(rand(2, 3), torch.ones(2, dtype=F64))
    z = point if kind is PrimalDual else kind(point)
    step = build(name, linear, ball)
    new = step(z, -point.x, torch.ones(2, dtype=F64))
    assert type(new) is kind
    assert step.solution(z, -point.x, torch.ones(2)) is z[0]


# -- Φ ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", BUILDERS)
def test_phi_is_a_multiple_of_the_identity_at_a_solution(
    name: str, case: str, alpha: float
) -> None:
    program, z = solved(case)
    step = build(name, *functions(program), alpha)
    assert step.newton == (alpha == 1)
    assert_multiple_of_identity(phi(step, z, *program.params), 1 - alpha)
    for new, old in zip(step(z, *program.params), z, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_phi_of_newton_is_a_multiple_of_the_identity_at_every_stationary_point(
    alpha: float,
) -> None:
    """x³/3 − c x has a minimum at √c and a maximum at −√c."""
    c = 1 + torch.rand(3, N, dtype=F64)
    step = steps.newton(lambda x, c: (x**3 / 3 - c * x).sum(), alpha)
    for sign in (1.0, -1.0, torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=F64)):
        x = sign * c.sqrt()
        torch.testing.assert_close(step(x, c), x)
        assert_multiple_of_identity(phi(step, x, c), 1 - alpha)


# -- what a backward pass costs ----------------------------------------------------------------


def spread(x: Tensor, c: Tensor, r: Tensor) -> Tensor:
    return c @ x + 0.1 * (x**4).sum()


def balanced(x: Tensor, c: Tensor, r: Tensor) -> Tensor:
    return x.sum()


def settled(step: steps.Step, point: PrimalDual, *params: Tensor) -> PrimalDual:
    for _ in range(20):
        point = step(point, *params)
    return point


@pytest.mark.parametrize("n", [2, 30, 80])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_backward_pass_takes_two_products(
    name: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = rand(2, n) / n**0.5
    r = torch.ones(2, dtype=F64)
    start = lowest(c - c.mean(-1, keepdim=True), r)
    z = PrimalDual(start.x, start.inequality, torch.zeros(2, 1, dtype=F64))
    z = settled(steps.newton_kkt(spread, ball, balanced), z, c, r)
    step = build(name, spread, ball, balanced)
    c.requires_grad_()
    r.requires_grad_()
    seen = count_products(monkeypatch)
    x, _, _ = fo.fold(step, z, c, r)
    seen.clear()
    (x * rand(2, n)).sum().backward()
    assert seen == ["vjp", "params_vjp"]


def test_a_backward_pass_of_newton_takes_two_products(monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (2, 80):
        c = (1 + torch.rand(2, n, dtype=F64)).requires_grad_()
        seen = count_products(monkeypatch)
        x = fo.fold(steps.newton(lambda x, c: (x.exp() - c * x).sum()), c.detach().log(), c)
        seen.clear()
        x.sum().backward()
        assert seen == ["vjp", "params_vjp"]
        torch.testing.assert_close(c.grad, 1 / c.detach())
