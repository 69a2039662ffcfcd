"""Where the regularity that Newton-type steps ask for fails; multipliers; convexified Hessians."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import foldopt as fo
from foldopt import steps
from foldopt.operators import PrimalDual
from foldopt.operators._kkt import kkt_matrix
from foldopt.steps.sqp import convexify
from tests.kkt import BUILDERS, build, functions, leaves_of, linear, lowest, phi, solved
from tests.programs import CASES, F64

# What differentiates an active set needs no independent constraints; ADMM's state is not unique.
DEPENDENT = [name for name in BUILDERS if "ADMM" not in name]


def distance(x: Tensor, c: Tensor, h: Tensor) -> Tensor:
    return 0.5 * ((x - c) ** 2).sum()


# -- weakly active -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in BUILDERS if "qpth" not in name])
def test_weakly_active_constraint_has_a_one_sided_derivative(name: str) -> None:
    """x₀ ≤ h at c₀ = h: ∂x₀/∂c₀ is 1 from below and 0 from above; x₂ ≤ h is strongly active."""
    c = torch.tensor([[1.0, 0.3, 2.0]], dtype=F64, requires_grad=True)
    h = torch.tensor([[1.0]], dtype=F64, requires_grad=True)
    step = build(name, distance, lambda x, c, h: torch.stack([x[0] - h[0], x[2] - h[0]]))
    x = torch.tensor([[1.0, 0.3, 1.0]], dtype=F64)
    z = x, torch.tensor([[0.0, 1.0]], dtype=F64), torch.zeros(1, 0, dtype=F64)
    found = fo.fold(step, z, c, h)[0]
    rows = [torch.autograd.grad(found[0, i], (c, h), retain_graph=True) for i in range(3)]
    J = torch.stack([torch.cat([row[0][0], row[1][0]]) for row in rows])
    free = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=F64)
    held = torch.tensor([[0.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=F64)
    gaps = [float((J - one).abs().max()) for one in (free, held)]
    assert min(gaps) < 1e-12


# -- dependent constraints -----------------------------------------------------------------------


def repeated(*factors: float) -> Any:
    return lambda x, c, r: torch.stack([factor * (x @ x - r**2) for factor in factors])


@pytest.mark.parametrize("n", [2, 30])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, 2.0, 50.0)])
@pytest.mark.parametrize("name", DEPENDENT)
def test_dependent_inequalities(name: str, factors: tuple[float, ...], n: int) -> None:
    c, r = leaves_of((2, n), (2,))
    wanted = lowest(c, r)
    z = steps.multipliers(linear, repeated(*factors))(wanted.x.detach(), c, r)
    assert (z.inequality > 0).all()
    x = fo.fold(build(name, linear, repeated(*factors)), z, c, r)[0]
    weights = torch.randn(2, n, dtype=F64)
    found, exact = (torch.autograd.grad((weights * y).sum(), (c, r)) for y in (x, wanted.x))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-7)


def doubled(x: Tensor, c: Tensor, b: Tensor) -> Tensor:
    return torch.stack([x.sum() - b[0], 2 * x.sum() - 2 * b[0]])


@pytest.mark.parametrize("name", BUILDERS)
def test_redundant_equalities(name: str) -> None:
    c, b = leaves_of((3, 4), (3, 1))
    wanted = c - (c.sum(-1, keepdim=True) - b) / 4
    z = steps.multipliers(distance, None, doubled)(wanted.detach(), c, b)
    x = fo.fold(build(name, distance, None, doubled), z, c, b)[0]
    weights = torch.randn(3, 4, dtype=F64)
    found, exact = (torch.autograd.grad((weights * y).sum(), (c, b)) for y in (x, wanted))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


def test_multipliers_that_are_not_unique_have_no_derivative() -> None:
    c, r = leaves_of((2, 3), (2,))
    z = steps.multipliers(linear, repeated(1, 1))(lowest(c, r).x.detach(), c, r)
    point = fo.fold(steps.newton_kkt(linear, repeated(1, 1)), z, c, r)
    with pytest.raises(fo.FoldError, match="singular to working precision: the solution is not un"):
        point[1][:, 0].sum().backward()


# -- no minimum, or a flat one -------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_maximum_is_differentiated_like_a_minimum(name: str, alpha: float) -> None:
    """On a sphere, the point where cᵀx is largest: the second-order condition fails."""
    c, r = leaves_of((2, 3), (2,))
    wanted = -lowest(c, r).x
    z = steps.multipliers(linear, None, sphere)(wanted.detach(), c, r)
    step = build(name, linear, None, sphere, alpha)
    x = fo.fold(step, z, c, r)[0]
    weights = torch.randn(2, 3, dtype=F64)
    found, exact = (torch.autograd.grad((weights * y).sum(), (c, r)) for y in (x, wanted))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)
    radius = torch.linalg.eigvals(phi(step, z, c.detach(), r.detach())).abs().max()
    assert radius < 2.1  # of SQP: not zero there, and I − Φ well conditioned


def sphere(x: Tensor, c: Tensor, r: Tensor) -> Tensor:
    return (x @ x - r**2).reshape(1)


@pytest.mark.parametrize("name", ["newton", *BUILDERS])
def test_a_flat_direction_is_an_error(name: str) -> None:
    c = torch.randn(2, 3, dtype=F64, requires_grad=True)

    def flat(x: Tensor, c: Tensor) -> Tensor:
        return 0.5 * ((x - c)[:2] ** 2).sum()

    step = steps.newton(flat) if name == "newton" else build(name, flat)
    none = torch.zeros(2, 0, dtype=F64)
    z = c.detach() if name == "newton" else (c.detach(), none, none)
    with pytest.raises(fo.FoldError, match="singular to working precision: the solution is not un"):
        step.solution(fo.fold(step, z, c), c)[:, 2].sum().backward()


# -- multipliers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_multipliers_meet_the_optimality_conditions(name: str) -> None:
    case, z = solved(name)
    f, g, h = functions(case)
    for i in range(len(z.x)):
        x, params = z.x[i], tuple(param[i] for param in case.params)
        slope = torch.func.grad(f)(x, *params)
        G, A = (torch.func.jacrev(part)(x, *params).reshape(-1, case.n) for part in (g, h))
        residual = slope + G.mT @ z.inequality[i] + A.mT @ z.equality[i]
        torch.testing.assert_close(residual, torch.zeros(case.n, dtype=F64), rtol=0, atol=1e-9)
        assert (z.inequality[i] >= 0).all()
        assert (z.inequality[i] * g(x, *params)).abs().max() < 1e-9


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_multipliers_in_closed_form(size: float) -> None:
    """Of the objective times ``size``, and of a constraint whose row is longer by it."""
    c, r = torch.randn(4, 3, dtype=F64), 1 + torch.rand(4, dtype=F64)
    point = lowest(c, r)
    scaled = steps.multipliers(lambda x, c, r: size * linear(x, c, r), repeated(1))(point.x, c, r)
    torch.testing.assert_close(scaled.inequality, size * point.inequality, rtol=1e-9, atol=0)
    longer = steps.multipliers(linear, repeated(size))(point.x, c, r)
    torch.testing.assert_close(longer.inequality, point.inequality / size, rtol=1e-9, atol=0)
    both = steps.multipliers(linear, repeated(1, size))(point.x, c, r).inequality
    torch.testing.assert_close(both[:, :1] + size * both[:, 1:], point.inequality)
    torch.testing.assert_close(both[:, 0], size * both[:, 1])  # rows of one length: evenly


def test_multipliers_of_one_sample_and_of_none() -> None:
    c, r = torch.randn(3, dtype=F64), torch.tensor(1.5, dtype=F64)
    point = lowest(c, r)
    found = steps.multipliers(linear, repeated(1))(point.x, c, r)
    assert isinstance(found, PrimalDual)
    torch.testing.assert_close(found, point)
    bare = steps.multipliers(lambda x, c: (x - c).square().sum())(c, c)
    assert [part.shape for part in bare] == [(3,), (0,), (0,)]


def test_no_gradient_flows_through_multipliers() -> None:
    c, r = leaves_of((2, 3), (2,))
    found = steps.multipliers(linear, repeated(1))(lowest(c, r).x, c, r)
    assert not any(part.requires_grad for part in found)


# -- the convexified Hessian of SQP --------------------------------------------------------------

shapes = st.tuples(st.integers(1, 6), st.integers(0, 3), st.integers(0, 2), st.integers(0, 10**6))


def least(H: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(H)[..., 0]


@settings(deadline=None, max_examples=60)
@given(shapes, st.floats(-6, 6))
def test_convexified_is_definite_and_changes_only_what_it_may(
    drawn: tuple[int, int, int, int], size: float
) -> None:
    n, m, k, seed = drawn
    draw = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=F64, generator=draw)

    H = 10**size * rand(5, n, n)
    H, G, A = H + H.mT, rand(5, m, n), rand(5, k, n)
    active = rand(5, m) > 0
    found, sigma = convexify(H, G, A, active)
    scale = H.abs().amax((-2, -1))
    assert (least(found) >= 0.9e-6 * scale).all()
    J = torch.cat([active.to(F64).unsqueeze(-1) * G, A], -2)
    # What is left beside σ JᵀJ is a multiple of I, and none where H is definite on J's null space.
    rest = found - H - sigma.unsqueeze(-1) * (J.mT @ J)
    tau = rest.diagonal(dim1=-2, dim2=-1).mean(-1)
    gap = (rest - tau[:, None, None] * torch.eye(n, dtype=F64)).abs().amax((-2, -1))
    assert (gap <= 1e-9 * scale).all()
    for i in range(5):
        null = torch.linalg.svd(J[i])[2][torch.linalg.matrix_rank(J[i]) :] if m + k else None
        inside = H[i] if null is None else null @ H[i] @ null.mT
        if null is not None and not len(null):
            continue
        if least(inside) < -1e-6 * scale[i]:
            assert tau[i] > 0
        if least(H[i]) > 1e-5 * scale[i]:
            torch.testing.assert_close(found[i], H[i])
            assert (sigma[i] == 0).all()


@pytest.mark.parametrize("bend", [-3.0, -1e3])
def test_a_definite_reduced_hessian_needs_no_multiple_of_the_identity(bend: float) -> None:
    """H = diag(bend, 1) on x₀ = 0: the solution of the program is that of the KKT system."""
    H = torch.diag(torch.tensor([bend, 1.0], dtype=F64))
    A = torch.tensor([[0.5, 0.0]], dtype=F64)
    none = torch.zeros(0, 2, dtype=F64)
    found, sigma = convexify(H, none, A, none[:, 0].bool())
    torch.testing.assert_close(found, H + sigma * A.mT @ A)
    assert least(found) > 1e-6


def test_sqp_step_with_an_indefinite_hessian_solves_the_kkt_system() -> None:
    """Off the solution too: d and both multipliers are those of the linear system."""
    H = torch.diag(torch.tensor([-2.0, 1.0, 3.0], dtype=F64))
    A = torch.tensor([[1.0, 0.1, 0.0]], dtype=F64)
    G = torch.tensor([[-0.2, 1.0, 0.0]], dtype=F64)
    p, b, h = (torch.randn(4, size, dtype=F64) for size in (3, 1, 1))

    K = kkt_matrix(H, G, A, torch.tensor([True]))
    exact = torch.linalg.solve(K, torch.cat([-p, h, b], -1).mT).mT
    wanted = exact[:, :3], exact[:, 3:4], exact[:, 4:]
    sign = wanted[1].sign()  # ≥ or ≤: the constraint that keeps the solution active
    step = steps.sqp(
        lambda x, p, b, h, s: 0.5 * x @ H @ x + p @ x,
        lambda x, p, b, h, s: s * (G @ x - h),
        lambda x, p, b, h, s: A @ x - b,
    )
    x = wanted[0] + 0.1 * torch.randn(4, 3, dtype=F64)
    z = PrimalDual(x, wanted[1].abs() + 1, wanted[2] + torch.randn(4, 1, dtype=F64))
    found = step(z, p, b, h, sign)
    torch.testing.assert_close(found, PrimalDual(wanted[0], wanted[1].abs(), wanted[2]))
