"""The denoising study's layers: the dual Newton method, the fold, qpth, images, the data."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.experiments.denoising.convolution import (
    HuberVariation,
    differences,
    largest,
    respond,
    respond_back,
)
from foldopt.experiments.denoising.data import draw, first_differences, signals, split
from foldopt.experiments.denoising.layers import Denoiser, denoised, folded_layer, qpth_layer
from foldopt.experiments.denoising.plan import Case
from foldopt.experiments.denoising.speed import exact_gradient
from foldopt.nn._total_variation import dual
from foldopt.nn._total_variation.dual import dual_residual, solve_dual


def instance(perturbed: float, batch: int = 6, n: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy and clean signals, and an operator near first differences."""
    random = torch.Generator().manual_seed(3)
    clean = signals(batch, n, random)
    d = clean + 5 * torch.randn(clean.shape, generator=random, dtype=clean.dtype)
    D = first_differences(n)
    return d, clean, D + perturbed * torch.randn(D.shape, generator=random, dtype=D.dtype)


def by_cvxpy(d: Tensor, D: Tensor, weight: float | np.ndarray) -> np.ndarray:
    x = cvxpy.Variable(len(d))
    penalty = cvxpy.sum(cvxpy.multiply(weight, cvxpy.abs(D.numpy() @ x)))
    problem = cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.sum_squares(x - d.numpy()) + penalty))
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    assert x.value is not None
    return x.value


@pytest.mark.parametrize("perturbed", [0.0, 0.3])
@pytest.mark.parametrize("weight", [0.3, 6.0, 40.0])
def test_newton_solves_what_cvxpy_solves(perturbed: float, weight: float) -> None:
    d, _, D = instance(perturbed)
    found = solve_dual(d, D, weight)
    assert (found.status == fo.Status.CONVERGED).all()
    assert dual_residual(found.x, d, D, weight).max() < 1e-12
    x = d + found.x @ D
    for index in (0, 4):
        np.testing.assert_allclose(x[index], by_cvxpy(d[index], D, weight), atol=2e-4)


def test_a_weight_for_each_row_and_an_operator_for_each_sample() -> None:
    d, _, D = instance(0.1, batch=3, n=12)
    many = torch.stack([D, 2 * D, D.flip(0)])
    weight = torch.linspace(1, 8, 11).double()
    w = solve_dual(d, many, weight).x
    assert dual_residual(w, d, many, weight).max() < 1e-12
    for i in range(3):
        expected = by_cvxpy(d[i], many[i], weight.numpy())
        np.testing.assert_allclose(d[i] + w[i] @ many[i], expected, atol=2e-4)


def test_dependent_rows_and_no_batch() -> None:
    d, _, D = instance(0.0, batch=1, n=10)
    twice = torch.cat([D, D])
    found = solve_dual(d[0], twice, 2.0)
    assert found.status == fo.Status.CONVERGED
    np.testing.assert_allclose(d[0] + found.x @ twice, by_cvxpy(d[0], D, 4.0), atol=1e-5)


def test_descent_takes_over_where_newton_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    d, _, D = instance(0.2)
    expected = solve_dual(d, D, 4.0).x

    def never(_dual: object, signs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(signs, torch.nan), torch.zeros(len(signs), dtype=torch.bool)

    monkeypatch.setattr(dual, "newton", never)
    found = solve_dual(d, D, 4.0, rtol=1e-7)
    assert (found.status == fo.Status.CONVERGED).all()
    torch.testing.assert_close(found.x, expected, rtol=0, atol=1e-3)
    short = solve_dual(d, D, 4.0, max_iterations=2)
    assert (short.status == fo.Status.MAX_ITERATIONS).all()


def test_what_is_not_finite_is_said() -> None:
    d, _, D = instance(0.0, batch=3)
    d[1, 2] = torch.nan
    found = solve_dual(d, D, 2.0)
    ok, lost = int(fo.Status.CONVERGED), int(fo.Status.NONFINITE)
    assert found.status.tolist() == [ok, lost, ok]
    assert found.x[1].isnan().all()
    assert (solve_dual(d, D * torch.nan, 2.0).status == fo.Status.NONFINITE).all()
    with pytest.raises(fo.FoldError, match="dual program was not solved"):
        denoised(d, D, 2.0)


def test_arguments_that_do_not_fit() -> None:
    d, _, D = instance(0.0)
    with pytest.raises(ValueError, match=r"D must have shape .* got D \(29, 29\) and d \(6, 30\)"):
        solve_dual(d, D[:, :-1], 1.0)
    with pytest.raises(ValueError, match="weight must not be below 0"):
        solve_dual(d, D, -1.0)
    with pytest.raises(ValueError, match="smoothing must be above 0"):
        HuberVariation(smoothing=0.0)


def slope_by_differences(
    D: Tensor, d: Tensor, clean: Tensor, weight: float, along: Tensor
) -> float:
    step = 1e-6
    ends = [
        0.5 * (denoised(d, D + sign * step * along, weight) - clean).square().sum()
        for sign in (1, -1)
    ]
    return float(ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("perturbed", [0.0, 0.2])
@pytest.mark.parametrize("weight", [2.0, 8.0])
def test_the_gradient_is_right(perturbed: float, weight: float) -> None:
    d, clean, D = instance(perturbed)
    own = D.clone().requires_grad_()
    (0.5 * (folded_layer()(d, own, weight) - clean).square().sum()).backward()
    assert own.grad is not None
    # Written out, without a fold.
    _, exact = exact_gradient(d, clean, D, Case(5.0, weight))
    torch.testing.assert_close(own.grad, exact, rtol=1e-8, atol=1e-8)
    # And by finite differences.
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        along = torch.randn(D.shape, generator=random, dtype=D.dtype)
        numeric = slope_by_differences(D, d, clean, weight, along)
        assert float((own.grad * along).sum()) == pytest.approx(numeric, rel=1e-4)


def test_qpth_agrees_once_its_mean_is_a_sum() -> None:
    pytest.importorskip("qpth")
    d, clean, D = instance(0.1, batch=4, n=12)
    gradients = []
    for layer in (folded_layer(), qpth_layer(smoothing=1e-7), qpth_layer(1e-12, 1e-7, False)):
        own = D.clone().requires_grad_()
        x = layer(d, own, 3.0)
        torch.testing.assert_close(x.detach(), denoised(d, D, 3.0), rtol=0, atol=1e-4)
        (x - clean).square().sum().backward()
        assert own.grad is not None
        gradients.append(own.grad)
    ours, summed, averaged = gradients
    torch.testing.assert_close(summed, ours, rtol=1e-3, atol=1e-3 * float(ours.abs().max()))
    torch.testing.assert_close(averaged, ours / 4, rtol=1e-3, atol=1e-3 * float(ours.abs().max()))


def test_a_centred_operator_stays_so() -> None:
    model = Denoiser(4.0, folded_layer(), centred=True, length=30)
    d, clean, _ = instance(0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        (model(d) - clean).square().mean().backward()
        optimizer.step()
    assert (model.operator - first_differences(30)).abs().max() > 0.01
    assert model.operator.sum(-1).abs().max() < 1e-12


def test_signals_are_pieces_of_whole_heights() -> None:
    x = signals(400, 60, torch.Generator().manual_seed(0))
    assert torch.equal(x, x.round())
    assert x.min() >= 10
    assert x.max() <= 99
    jumps = (x.diff(dim=-1) != 0).sum(-1)
    assert sorted(set(jumps.tolist())) == list(range(9))
    noisy = draw(0, 400, 10.0)
    assert torch.equal(draw(0, 400, 1.0).truth, noisy.truth)
    assert (noisy.features - noisy.truth).std().item() == pytest.approx(10.0, rel=0.02)
    assert [len(part) for part in split(noisy)] == [320, 40, 40]


def patches(count: int, size: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    clean = 20.0 * (torch.arange(size) // 3).double() * torch.ones(count, size, size).double()
    return clean + 5 * torch.randn(clean.shape, generator=random, dtype=clean.dtype), clean


def test_the_image_layer_solves_what_cvxpy_solves() -> None:
    d, _ = patches(1, 7)
    kernels = differences(4) + 0.1 * torch.sin(torch.arange(36).double()).view(4, 3, 3)
    x = HuberVariation(smoothing=1.0, rtol=1e-11)(d, kernels, 4.0)
    K = torch.func.jacrev(lambda y: respond(y, kernels))(d).reshape(-1, 49).numpy()
    y = cvxpy.Variable(49)
    # cvxpy's Huber function is 2 δ h, and δ = 1.
    penalty = 0.5 * cvxpy.sum(cvxpy.huber(K @ y, 1))
    problem = cvxpy.Problem(
        cvxpy.Minimize(0.5 * cvxpy.sum_squares(y - d.numpy().ravel()) + 4.0 * penalty)
    )
    problem.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    assert y.value is not None
    np.testing.assert_allclose(x.detach().numpy().ravel(), y.value, atol=1e-4)


def test_the_transposed_responses_and_their_largest_size() -> None:
    random = torch.Generator().manual_seed(0)
    kernels = torch.randn(3, 3, 3, generator=random, dtype=torch.float64)
    x = torch.randn(1, 9, 8, generator=random, dtype=torch.float64)
    w = torch.randn(1, 3, 7, 6, generator=random, dtype=torch.float64)
    left, right = (respond(x, kernels) * w).sum(), (x * respond_back(w, kernels)).sum()
    torch.testing.assert_close(left, right)
    big = torch.func.jacrev(lambda y: respond(y, kernels))(x.new_zeros(1, 20, 20))
    norm = torch.linalg.matrix_norm(big.reshape(-1, 400), 2).square()
    assert norm <= largest(kernels) <= 1.2 * norm


def test_the_gradient_in_the_kernels_is_right() -> None:
    d, clean = patches(2, 9)
    layer = HuberVariation(smoothing=1.0, rtol=1e-12)
    kernels = differences(4).requires_grad_()

    def loss(K: Tensor) -> Tensor:
        return (layer(d, K, 4.0) - clean).square().sum()

    loss(kernels).backward()
    assert kernels.grad is not None
    along = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        ends = [float(loss(kernels + sign * step * along)) for sign in (1, -1)]
    numeric = (ends[0] - ends[1]) / (2 * step)
    assert float((kernels.grad * along).sum()) == pytest.approx(numeric, rel=1e-4)
