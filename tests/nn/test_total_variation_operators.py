"""The total variation layer with learned and sparse operators, and on images."""

from __future__ import annotations

import functools

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.nn._total_variation import dual, image, interior, newton, sparse
from foldopt.nn.total_variation import TotalVariation
from foldopt.operators import total_variation_2d
from tests.closed_forms import F64, is_limit_of_jacobians, jacobian, leaf
from tests.total_variation import first_differences, layer, optimality, x_and_u

images = TotalVariation(dimensions=2)


def grid_differences(height: int, width: int) -> Tensor:
    """D of images that are flattened, dense."""
    right = torch.kron(torch.eye(height, dtype=F64), first_differences(width))
    down = torch.kron(first_differences(height), torch.eye(width, dtype=F64))
    return torch.cat([right, down])


# -- learned operators -----------------------------------------------------------------------------


@pytest.mark.parametrize("perturbed", [0.0, 0.2, 5.0])
@pytest.mark.parametrize("weight", [0.02, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_solutions_are_exact(perturbed: float, weight: float, kind: str) -> None:
    D = first_differences(40) + perturbed * torch.randn(39, 40, dtype=F64)
    d = 3 * torch.randn(5, 40, dtype=F64)
    x, u = x_and_u(d, weight, D if kind == "dense" else D.to_sparse())
    assert optimality(x, u, d, weight, D) < 1e-11


def test_at_least_as_good_as_a_cone_solver() -> None:
    D, d = torch.randn(12, 9, dtype=F64), torch.randn(9, dtype=F64)
    x = cp.Variable(9)
    norm = cp.norm1(D.numpy() @ x)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - d.numpy()) + 0.3 * norm))
    problem.solve(cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    theirs = torch.as_tensor(x.value)

    def objective(x: Tensor) -> float:
        return float(0.5 * (x - d).square().sum() + 0.3 * (D @ x).abs().sum())

    for operator in (D, D.to_sparse()):
        mine = layer(d, 0.3, operator)
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
        assert objective(mine) <= objective(theirs) + 1e-14


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 2), (0, 3)])
def test_operators_of_few_rows_and_of_many(shape: tuple[int, int]) -> None:
    """With more rows than columns, free rows depend on one another as soon as x is zero there."""
    D, d = torch.randn(shape, dtype=F64), torch.randn(4, shape[1], dtype=F64)
    for weight in (0.1, 10.0):
        for operator in (D, D.to_sparse()):
            x, u = x_and_u(d, weight, operator)
            if shape[0]:
                assert optimality(x, u, d, weight, D) < 1e-11
            else:
                torch.testing.assert_close(x, d)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("kind", ["dense", "sparse", "csr"])
def test_every_row_twice_at_half_the_weight(kind: str) -> None:
    """The same x and gradients; of D's copies the gradients add up to that of the one."""
    D, d, weight = leaf(5, 6), leaf(3, 6), leaf(low=0.4)
    twice = torch.cat([D, D]).detach()
    half, signal = (0.5 * weight).detach().requires_grad_(), d.detach().requires_grad_()
    if kind == "dense":
        twice.requires_grad_()
        x = layer(signal, half, twice)
    else:
        twice = (twice.to_sparse() if kind == "sparse" else twice.to_sparse_csr()).requires_grad_()
        x = layer(signal, half, twice)
    expected = layer(d, weight, D)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)
    cotangent = torch.randn(3, 6, dtype=F64)
    in_D, in_d, in_weight = torch.autograd.grad((expected * cotangent).sum(), (D, d, weight))
    of_twice = torch.autograd.grad((x * cotangent).sum(), (twice, signal, half))
    torch.testing.assert_close(of_twice[1], in_d, rtol=0, atol=1e-10)
    torch.testing.assert_close(0.5 * of_twice[2], in_weight, rtol=0, atol=1e-10)
    slope = of_twice[0].to_dense() if kind != "dense" else of_twice[0]
    torch.testing.assert_close(slope[:5] + slope[5:], in_D, rtol=0, atol=1e-8)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_the_gradient_of_a_sparse_operator_has_its_pattern() -> None:
    D = first_differences(6) * torch.rand(5, 1, dtype=F64)
    d = torch.randn(2, 6, dtype=F64)
    whole = D.clone().requires_grad_()
    layer(d, 0.2, whole).square().sum().backward()
    assert whole.grad is not None
    for given in (D.to_sparse(), D.to_sparse_csr()):
        own = given.requires_grad_()
        (slope,) = torch.autograd.grad(layer(d, 0.2, own).square().sum(), own)
        assert slope.layout == own.layout
        values = slope.coalesce().values() if slope.is_sparse else slope.values()
        assert len(values) == 10
        torch.testing.assert_close(slope.to_dense(), torch.where(D != 0, whole.grad, 0))


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_where_rows_are_only_just_active(kind: str) -> None:
    D = torch.tensor([[1.0, -1, 0], [0, 1, -1], [1, 0, 1]], dtype=F64)
    operator = D if kind == "dense" else D.to_sparse()
    d = torch.tensor([3.0, 2.0, -2.0], dtype=F64)  # whole numbers, and a weight that ties them
    with fo.record() as seen:
        layer(d.expand(2, 3), torch.tensor([0.5, 0.3], dtype=F64), operator)
    assert "only just" in seen[0].messages[0]
    assert seen[0].messages[1] == ""
    assert is_limit_of_jacobians(lambda d: layer(d, 0.5, operator), d, tries=40)


def test_whole_numbers_tie_and_are_solved() -> None:
    for _ in range(8):
        D = torch.randint(-2, 3, (7, 5)).double()
        d, weight = torch.randint(-4, 5, (6, 5)).double(), torch.randint(0, 3, (6, 7)).double()
        for operator in (D, D.to_sparse()):
            x, u = x_and_u(d, weight, operator)
            assert optimality(x, u, d, weight, D) < 1e-10


@pytest.mark.parametrize("kind", ["dense", "sparse", "image"])
def test_no_gradient_is_wrong_in_silence(kind: str) -> None:
    """Random programs, also with repeated and dependent rows, beside finite differences."""
    looked_at = 0
    for trial in range(25):
        n, m = int(torch.randint(2, 8, ())), int(torch.randint(1, 12, ()))
        D = torch.randn(m, n, dtype=F64) if trial % 2 else torch.randint(-2, 3, (m, n)).double()
        D[-1] = 2 * D[0] if trial % 3 == 0 and m > 1 else D[-1]
        d = torch.randn(3, 4, dtype=F64) if kind == "image" else torch.randn(n, dtype=F64)
        operator = D if kind == "dense" else D.to_sparse()
        function = images if kind == "image" else functools.partial(layer, operator=operator)
        weight = (2 * torch.rand((), dtype=F64)).requires_grad_()
        d.requires_grad_()
        with fo.record() as seen:
            x = function(d, weight)
        cotangent = torch.randn_like(x)
        slopes = torch.autograd.grad((x * cotangent).sum(), (d, weight))
        if seen[0].messages:
            continue
        looked_at += 1
        with torch.no_grad():
            along, step = torch.randn_like(d), 1e-7
            by_d = function(d + step * along, weight) - function(d - step * along, weight)
            by_weight = function(d, weight + step) - function(d, weight - step)
        found = torch.stack([(slopes[0] * along).sum(), slopes[1]])
        expected = torch.stack([(by * cotangent).sum() for by in (by_d, by_weight)]) / (2 * step)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert looked_at > 15


def test_a_bad_guess_of_the_free_rows_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    D, d = torch.randn(8, 9, dtype=F64), torch.randn(3, 9, dtype=F64)
    expected = layer(d, 0.4, D.to_sparse())
    monkeypatch.setattr(interior, "_ITERATIONS", 2)
    torch.testing.assert_close(layer(d, 0.4, D.to_sparse()), expected, rtol=0, atol=1e-12)
    monkeypatch.setattr(sparse, "_CORRECTIONS", 0)
    with pytest.raises(fo.FoldError, match=r"3 MAX_ITERATIONS \(first: sample 0 of 3"):
        layer(d, 0.4, D.to_sparse())


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_does_not_matter(scale: float) -> None:
    D, d = torch.randn(8, 9, dtype=F64), torch.randn(3, 9, dtype=F64)
    for operator in (D, D.to_sparse()):
        expected = layer(d, 0.4, operator)
        for found in (
            layer(scale * d, 0.4 * scale, operator) / scale,
            layer(d, 0.4 / scale, scale * operator),
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_descent_takes_over_where_newton_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    D, d = torch.randn(8, 9, dtype=F64), torch.randn(3, 9, dtype=F64)
    expected = layer(d, 0.4, D)
    calls = []

    def at_first_not(program: newton.Dual, signs: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        w, rests = newton.newton(program, signs)
        return (torch.zeros_like(w), rests & False) if len(calls) == 1 else (w, rests)

    monkeypatch.setattr(dual, "newton", at_first_not)
    torch.testing.assert_close(layer(d, 0.4, D), expected, rtol=0, atol=1e-12)
    assert len(calls) == 2


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (4, 5), (16, 16)])
@pytest.mark.parametrize("whole", [False, True])
def test_images_agree_with_the_operator(shape: tuple[int, int], whole: bool) -> None:
    y = torch.randn(3, *shape, dtype=F64)
    y = (2 * y).round() if whole else y
    weight = torch.tensor([0.1, 0.5, 2.0], dtype=F64)
    mine, theirs = leaf(*y.shape), leaf(*y.shape)
    mine.data[:], theirs.data[:] = y, y
    x, expected = images(mine, weight), total_variation_2d(theirs, weight)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6 if whole else 1e-12)
    if not whole:
        cotangent = torch.randn_like(y)
        (slope,) = torch.autograd.grad((x * cotangent).sum(), mine)
        (other,) = torch.autograd.grad((expected * cotangent).sum(), theirs)
        torch.testing.assert_close(slope, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_an_image_is_a_signal_with_an_operator(kind: str) -> None:
    """Where x is constant on a square, its four rows depend on one another."""
    y = torch.randn(2, 5, 4, dtype=F64)
    y[:, :3, :3] = 0.1 * y[:, :3, :3]
    D, weight = grid_differences(5, 4), torch.tensor(0.3, dtype=F64)
    operator = D if kind == "dense" else D.to_sparse()
    x, u = x_and_u(y.flatten(1), weight, operator)
    assert optimality(x, u, y.flatten(1), weight, D) < 1e-11
    torch.testing.assert_close(x.reshape(y.shape), images(y, weight), rtol=0, atol=1e-12)
    assert len(torch.unique(images(y, weight))) < 30
    one = y[0].flatten()
    for of in (0, 1):
        by_rows = jacobian(lambda y, w: layer(y, w, operator), one, weight, of=of)
        by_parts = jacobian(lambda y, w: images(y.view(5, 4), w).flatten(), one, weight, of=of)
        torch.testing.assert_close(by_rows, by_parts, rtol=0, atol=1e-10)


def test_derivatives_of_images() -> None:
    y, weight = leaf(2, 2, 3), leaf(2, low=0.1)
    assert torch.autograd.gradcheck(images, (y, weight), atol=1e-6)
    assert torch.autograd.gradgradcheck(images, (y, weight), atol=1e-6)


def test_without_scipy_images_are_solved_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.randn(2, 2, 6, 5, dtype=F64)
    expected = images(y, 0.4)
    monkeypatch.setattr(image, "has_scipy", lambda: False)
    torch.testing.assert_close(images(y, 0.4), expected, rtol=0, atol=1e-12)


def test_where_two_parts_of_an_image_nearly_meet() -> None:
    y = torch.tensor([[[0.0, 1.0 + 1e-11]]], dtype=F64)
    with fo.record() as seen:
        images(y, 0.5)
    assert "only just" in seen[0].messages[0]


def test_a_weight_above_all_and_none() -> None:
    y = torch.randn(2, 4, 4, dtype=F64)
    x = images(y, torch.tensor([0.0, 1e9], dtype=F64))
    torch.testing.assert_close(x[0], y[0], rtol=0, atol=1e-15)
    torch.testing.assert_close(x[1], y[1].mean().expand(4, 4), rtol=0, atol=1e-14)


def test_bad_images() -> None:
    with pytest.raises(ValueError, match=r"\(\*batch, H, W\) .*dimensions=2; got \(3,\)"):
        images(torch.ones(3), 1.0)
    with pytest.raises(ValueError, match="an operator acts on signals"):
        images(torch.ones(3, 3), 1.0, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"weight must have shape \(\), \(2,\) beside"):
        images(torch.ones(2, 3, 3), torch.ones(3))
    with pytest.raises(ValueError, match="signal of sample 0 holds nan"):
        images(torch.full((2, 2), torch.nan), 1.0)


def test_interior_points_see_what_is_free() -> None:
    import scipy.sparse

    D = scipy.sparse.csr_matrix(first_differences(4).numpy())
    u, free = interior.interior_point(np.array([1.0, 0.0, 5.0, 6.0]), np.full(3, 0.75), D)
    assert free.tolist() == [True, False, False]
    np.testing.assert_allclose(u, [-0.125, 0.75, 0.75], atol=1e-6)
