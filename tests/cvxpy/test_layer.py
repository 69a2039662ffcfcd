"""Solutions, dual variables and derivatives of CVXPY problems, against CVXPY and closed forms."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

cp: Any = pytest.importorskip("cvxpy", minversion="1.9")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import foldopt as fo  # noqa: E402
from foldopt.cvxpy import CvxpyLayer  # noqa: E402
from tests import cvxpy_problems as problems  # noqa: E402
from tests.cvxpy_problems import F64, Case, layer_of, leaves  # noqa: E402


def close(seen: Tensor, right: Any, atol: float = 1e-7) -> bool:
    other = torch.as_tensor(np.asarray(right), dtype=F64)
    return seen.shape == other.shape and torch.allclose(seen.detach(), other, rtol=1e-7, atol=atol)


CASES = {
    **problems.CONES,
    "cones by columns": problems.many_second_order,
    "cones by rows": lambda: problems.many_second_order(1),
    "every cone": problems.every_cone,
}


@pytest.mark.parametrize("name", CASES)
def test_variables_and_duals_are_those_of_cvxpy(name: str) -> None:
    case = CASES[name]()
    values = case.one()
    for seen, right in zip(layer_of(case)(*values), case.by_cvxpy(values), strict=True):
        # Interior points get a flat x to the root of their tolerance.
        assert close(seen, right, 3e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    case = CASES[name]()
    layer = layer_of(case)
    assert torch.autograd.gradcheck(layer, leaves(*case.one()), fast_mode=True)


@pytest.mark.parametrize("name", ["linear", "second-order", "semidefinite", "entropy", "power"])
def test_second_derivatives(name: str) -> None:
    case = CASES[name]()
    values = case.one(1)
    variable = case.variables[:1]
    layer = CvxpyLayer(case.problem, case.parameters, variable)
    assert torch.autograd.gradgradcheck(layer, leaves(*values), atol=1e-4, fast_mode=True)


def test_least_squares_is_that_of_linalg() -> None:
    x, F, g = cp.Variable(4), cp.Parameter((9, 4)), cp.Parameter(9)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(F @ x - g))), [F, g], [x])
    draw = torch.Generator().manual_seed(0)
    both = leaves(problems.normal(draw, 9, 4), problems.normal(draw, 9))
    (seen,) = layer(*both)
    right = torch.linalg.lstsq(both[0], both[1].unsqueeze(-1)).solution.squeeze(-1)
    assert torch.allclose(seen, right, atol=1e-12)
    w = problems.normal(draw, 4)
    for one, other in zip(
        torch.autograd.grad(seen @ w, both), torch.autograd.grad(right @ w, both), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-11)


def test_equality_constraints_have_a_closed_form() -> None:
    # The point of Ax = b next to c is c + Aᵀ(AAᵀ)⁻¹(b − Ac).
    x, A, b, c = cp.Variable(5), cp.Parameter((2, 5)), cp.Parameter(2), cp.Parameter(5)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - c)), [A @ x == b])
    draw = torch.Generator().manual_seed(0)
    values = leaves(*(problems.normal(draw, *shape) for shape in ((2, 5), (2,), (5,))))
    (seen,) = CvxpyLayer(problem, [A, b, c], [x])(*values)
    M, d, e = values
    right = e + M.mT @ torch.linalg.solve(M @ M.mT, d - M @ e)
    assert torch.allclose(seen, right, atol=1e-12)
    w = problems.normal(draw, 5)
    for one, other in zip(
        torch.autograd.grad(seen @ w, values), torch.autograd.grad(right @ w, values), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-11)


def test_maximal_entropy_is_the_softmax() -> None:
    x, c = cp.Variable(4), cp.Parameter(4)
    problem = cp.Problem(cp.Maximize(c @ x + cp.sum(cp.entr(x))), [cp.sum(x) == 1])
    value = problems.normal(torch.Generator().manual_seed(0), 3, 4).requires_grad_()
    (seen,) = CvxpyLayer(problem, [c], [x])(value)
    right = torch.softmax(value, -1)
    assert torch.allclose(seen, right, atol=1e-10)
    w = problems.normal(torch.Generator().manual_seed(1), 3, 4)
    (one,) = torch.autograd.grad((w * seen).sum(), value, retain_graph=True)
    (other,) = torch.autograd.grad((w * right).sum(), value)
    assert torch.allclose(one, other, atol=1e-8)


def test_large_matrices_take_products_instead_of_factors() -> None:
    # Nearest to C: its eigenvalues go to the simplex.
    k = 22
    S, C = cp.Variable((k, k), PSD=True), cp.Parameter((k, k))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(S - C)), [cp.trace(S) == 1])
    value = problems.symmetric(torch.Generator().manual_seed(0), 2, k, k).requires_grad_()
    (seen,) = CvxpyLayer(problem, [C], [S])(value)
    eigen, vectors = torch.linalg.eigh((value + value.mT) / 2)
    right = (vectors * fo.projections.simplex(eigen).unsqueeze(-2)) @ vectors.mT
    assert torch.allclose(seen, right, atol=1e-9)
    w = problems.symmetric(torch.Generator().manual_seed(1), k, k)
    one, other = (torch.autograd.grad((w * part).sum(), value)[0] for part in (seen, right))
    assert torch.allclose((one + one.mT) / 2, other, atol=1e-8)


def test_logistic_regression() -> None:
    draw = torch.Generator().manual_seed(0)
    data = problems.normal(draw, 20, 3)
    beta, y, weight = cp.Variable(3), cp.Parameter(20), cp.Parameter(nonneg=True)
    loss = cp.sum(cp.logistic(-cp.multiply(y, data.numpy() @ beta)))
    problem = cp.Problem(cp.Minimize(loss + weight * cp.sum_squares(beta)))
    layer = CvxpyLayer(problem, [y, weight], [beta])
    values = leaves(problems.normal(draw, 20).sign(), torch.tensor(0.5, dtype=F64))
    (seen,) = layer(*values)
    at = seen.detach().requires_grad_()
    margins = -values[0].detach() * (data @ at)
    total = torch.nn.functional.softplus(margins).sum() + 0.5 * at @ at
    assert float(torch.autograd.grad(total, at)[0].norm()) < 1e-9
    assert torch.autograd.gradcheck(layer, values, fast_mode=True)


def test_limited_multi_label() -> None:
    # x = σ(c + ν) with ν such that the sum is 2.
    x, c = cp.Variable(5), cp.Parameter(5)
    terms = cp.sum(cp.entr(x)) + cp.sum(cp.entr(1 - x))
    layer = CvxpyLayer(cp.Problem(cp.Maximize(c @ x + terms), [cp.sum(x) == 2]), [c], [x])
    value = problems.normal(torch.Generator().manual_seed(0), 5)
    (seen,) = layer(value)
    nu = torch.logit(seen) - value
    assert torch.allclose(nu, nu.mean().expand(5), atol=1e-8)
    assert torch.autograd.gradcheck(layer, leaves(value))


GEOMETRIC = ("minimum", "equality", "exponent", "posynomial")


def geometric(kind: str) -> Case:
    x, y, z = (cp.Variable(pos=True) for _ in range(3))
    a, b, c = cp.Parameter(pos=True), cp.Parameter(pos=True), cp.Parameter()
    objective, rows = 1 / (x * y * z), [a * (x * y + x * z + y * z) <= b]
    if kind == "equality":
        rows.append(x == y**0.7)
    elif kind == "posynomial":
        objective = objective + b * x + y**1.5
    rows.append(x >= y**c if kind == "exponent" else x**c * y <= 3)

    def draw(k: int, g: torch.Generator) -> list[Tensor]:
        return [problems.uniform(g, 1, 3, k), problems.uniform(g, 0.5, 2, k),
                problems.uniform(g, 0.3, 0.7, k)]  # fmt: skip

    return Case(cp.Problem(cp.Minimize(objective), rows), [a, b, c], [x, y, z], draw, gp=True)


@pytest.mark.parametrize("kind", GEOMETRIC)
def test_geometric_programs(kind: str) -> None:
    case = geometric(kind)
    layer, values = layer_of(case), case.one()
    for seen, right in zip(layer(*values), case.by_cvxpy(values), strict=True):
        assert close(seen, right, 1e-4)
    assert torch.autograd.gradcheck(layer, leaves(*values))


def test_a_geometric_program_with_parameters_in_vectors() -> None:
    x, w = cp.Variable(3, pos=True), cp.Parameter(3, pos=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(w @ x), [cp.prod(x) >= 8]), [w], [x], gp=True)
    # All terms wᵢxᵢ are equal.
    value = torch.tensor([[1.0, 2.0, 4.0], [0.5, 1.0, 2.0]], dtype=F64)
    (seen,) = layer(value)
    right = 2 * value.prod(-1, keepdim=True) ** (1 / 3) / value
    assert torch.allclose(seen, right, atol=1e-9)
    assert torch.autograd.gradcheck(layer, leaves(value))


@pytest.mark.parametrize(
    ("sign", "count", "maximize"), list(itertools.product((1, -1), (1, 2), (False, True)))
)
def test_quadratic_forms_of_parameters(sign: int, count: int, maximize: bool) -> None:
    case = problems.quadratic_forms(sign, count, maximize)
    layer, values = layer_of(case), case.one()
    (right,) = case.by_cvxpy(values)
    assert close(layer(*values)[0], right, 1e-7)
    *matrices, q = leaves(*values)

    def of_symmetric(*given: Tensor) -> tuple[Tensor, ...]:
        return layer(*((one + one.mT) / 2 for one in given[:-1]), given[-1])

    assert torch.autograd.gradcheck(of_symmetric, (*matrices, q))
    (gradient,) = torch.autograd.grad(layer(*matrices, q)[0].sum(), matrices[0])
    assert torch.allclose(gradient, gradient.mT, atol=1e-12)


def test_quadratic_forms_stay_quadratic_beside_cones() -> None:
    x, P, q = cp.Variable(3), cp.Parameter((3, 3), PSD=True), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [cp.norm(x) <= 0.5])
    case = Case(problem, [P, q], [x], problems.quadratic_forms(1, 1, False).draw)
    values = case.one()
    layer = layer_of(case)
    assert close(layer(*values)[0], case.by_cvxpy(values)[0], 1e-6)
    assert torch.autograd.gradcheck(layer, leaves(*values))


def test_the_portfolio_at_its_own_scale() -> None:
    # V and γ are 1e-4 and 1e-5; the reference is the layer that was made for it.
    g = torch.Generator().manual_seed(0)
    n = 20
    L = 0.0025 * (2 * torch.rand(n, 4, generator=g, dtype=F64) - 1)
    V = L @ L.mT + 1e-4 * torch.eye(n, dtype=F64)
    gamma = 2.25 * V.mean()
    c = (0.05 + 0.02 * problems.normal(g, 4, n)).requires_grad_()
    x, returns = cp.Variable(n), cp.Parameter(n)
    root = torch.linalg.cholesky(V).mT.numpy()
    w = problems.normal(g, 4, n)
    right = fo.nn.Portfolio()(c, V, gamma)
    (expected,) = torch.autograd.grad((w * right).sum(), c)
    for bound in (
        cp.sum_squares(root @ x) <= float(gamma),
        cp.norm(root @ x) <= float(gamma) ** 0.5,
    ):
        rows = [bound, cp.sum(x) == 1, x >= 0]
        (seen,) = CvxpyLayer(cp.Problem(cp.Maximize(returns @ x), rows), [returns], [x])(c)
        assert float((seen - right).detach().norm() / right.detach().norm()) < 1e-8
        (gradient,) = torch.autograd.grad((w * seen).sum(), c)
        assert float((gradient - expected).norm() / expected.norm()) < 1e-6
