"""Total variation of images: exactness, the promised accuracy, derivatives, failures."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt import prox
from foldopt.operators import total_variation_2d
from foldopt.operators._grid import differences as grid_differences
from foldopt.operators._grid import parts, transposed
from foldopt.operators._variation_dual import on_pieces
from tests.closed_forms import F64, assert_derivative_of_a_projection, differences, jacobian, leaf

SMOOTH: list[dict[str, Any]] = [
    {"smoothing": 0.3},
    {"smoothing": 0.3, "isotropic": True},
]


def objective(
    x: Tensor, y: Tensor, w: float, smoothing: float = 0, isotropic: bool = False
) -> float:
    """½‖x − y‖² + w Σ h(Dx), written from the definition, pixel by pixel."""
    total = 0.5 * float(((x - y) ** 2).sum())
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            right = float(x[i, j + 1] - x[i, j]) if j + 1 < x.shape[1] else 0.0
            down = float(x[i + 1, j] - x[i, j]) if i + 1 < x.shape[0] else 0.0
            for d in [np.hypot(right, down)] if isotropic else [abs(right), abs(down)]:
                bend = d * d / (2 * smoothing) if smoothing else 0
                total += w * (d - smoothing / 2 if d > smoothing else bend)
    return total


def by_a_cone_solver(y: Tensor, w: float, smoothing: float = 0, isotropic: bool = False) -> Tensor:
    H, W = y.shape
    x = cp.Variable((H, W))
    right = cp.hstack([cp.diff(x, axis=1), np.zeros((H, 1))])
    down = cp.vstack([cp.diff(x, axis=0), np.zeros((1, W))])
    both = cp.vstack([cp.vec(right, order="C"), cp.vec(down, order="C")])
    size = cp.norm(both, 2, axis=0) if isotropic else cp.abs(both)
    bend: Any = smoothing  # cvxpy declares a whole number
    total = cp.sum(cp.huber(size, bend)) / (2 * smoothing) if smoothing else cp.sum(size)
    accuracy = 1e-9 if isotropic else 1e-11  # beyond it, the solver reports doubts
    tight = {f"tol_{what}": accuracy for what in ("gap_abs", "gap_rel", "feas")}
    problem = cp.Problem(cp.Minimize(w * total + 0.5 * cp.sum_squares(x - y.numpy())))
    problem.solve(cp.CLARABEL, **tight)
    return torch.as_tensor(x.value)


# -- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("whole", [False, True])
def test_is_at_least_as_good_as_a_cone_solver(w: float, whole: bool) -> None:
    """Also for whole numbers, where differences tie and dual variables lie on their bounds."""
    for shape in ((4, 5), (2, 2)):
        y = torch.randn(shape, dtype=F64)
        y = (2 * y).round() if whole else y
        x, theirs = total_variation_2d(y, w), by_a_cone_solver(y, w)
        torch.testing.assert_close(x, theirs, rtol=0, atol=1e-5)
        assert objective(x, y, w) <= objective(theirs, y, w) + 1e-13


@pytest.mark.parametrize("kind", ["whole", "binary", "squares"])
@pytest.mark.parametrize("w", [0.25, 1 / 3, 1.0])
def test_ends_however_the_differences_tie(kind: str, w: float) -> None:
    """Dual variables then lie on their bounds inside of a part, which still is found."""
    y = torch.randint(-2, 3, (40, 8, 8)).double()
    if kind == "binary":
        y = (torch.rand(120, 16, 16) < 0.5).double()
    elif kind == "squares":
        y = torch.randn(40, 2, 2, dtype=F64).repeat_interleave(4, 1).repeat_interleave(4, 2)
    x = total_variation_2d(y, w, max_iterations=3000)
    spread = torch.linalg.vector_norm(y - y.mean((-2, -1), keepdim=True), dim=(-2, -1))
    astray = torch.linalg.vector_norm(on_pieces(x, y, torch.tensor([w])) - x, dim=(-2, -1))
    assert (astray <= 2e-7 * spread).all()


@pytest.mark.parametrize("options", SMOOTH)
def test_smooth_forms_agree_with_a_cone_solver(options: dict[str, Any]) -> None:
    y = torch.randn(4, 5, dtype=F64)
    x, theirs = total_variation_2d(y, 0.5, **options), by_a_cone_solver(y, 0.5, **options)
    torch.testing.assert_close(x, theirs, rtol=0, atol=1e-5)
    assert objective(x, y, 0.5, **options) <= objective(theirs, y, 0.5, **options) + 1e-12


@pytest.mark.parametrize("shape", [(1, 12), (12, 1)])
def test_of_one_row_or_column_it_is_that_of_a_sequence(shape: tuple[int, int]) -> None:
    y, w = torch.randn(3, 12, dtype=F64), torch.rand(3, dtype=F64)
    x = total_variation_2d(y.reshape(3, *shape), w)
    torch.testing.assert_close(x.reshape(3, 12), prox.total_variation(y, w), rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", [{}, *SMOOTH])
@pytest.mark.parametrize("rtol", [1e-2, 1e-5])
def test_as_accurate_as_promised(options: dict[str, Any], rtol: float) -> None:
    y = torch.randn(2, 12, 12, dtype=F64)
    exact = total_variation_2d(y, 1.0, rtol=1e-10, **options)
    x = total_variation_2d(y, 1.0, rtol=rtol, on_failure="mask", **options)
    spread = torch.linalg.vector_norm(y - y.mean((-2, -1), keepdim=True), dim=(-2, -1))
    assert (torch.linalg.vector_norm(x - exact, dim=(-2, -1)) <= rtol * spread).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_larger_image_is_exact_beside_a_large_common_part(dtype: torch.dtype) -> None:
    """The pieces are exactly constant, and each is where the optimality of its sum puts it."""
    image = torch.zeros(1, 24, 24, dtype=F64)
    image[:, 5:12, 5:20], image[:, 12:, 12:] = 1, 0.5
    y = (image + 0.2 * torch.randn(1, 24, 24, dtype=F64)).to(dtype)
    x = total_variation_2d(y, 0.3)
    pieces = len(torch.unique(x))
    assert 3 < pieces < 60
    shifted = total_variation_2d(y + 1000, 0.3) - 1000
    tolerance = 1e-3 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(shifted, x, rtol=0, atol=tolerance)
    torch.testing.assert_close(x.mean(), y.mean())


def test_no_weight_and_infinite_weight() -> None:
    y = torch.tensor([[1.0, 1.0], [2.0, 1.0]], dtype=F64)
    w = torch.tensor([0.0, torch.inf], dtype=F64)
    x = total_variation_2d(y.expand(2, 2, 2), w)
    torch.testing.assert_close(x[0], y, rtol=0, atol=0)
    torch.testing.assert_close(x[1], torch.full((2, 2), 1.25, dtype=F64))
    nearly = y + 1e-12 * torch.randn(2, 2, dtype=F64)
    torch.testing.assert_close(total_variation_2d(nearly, 0.0), nearly, rtol=0, atol=1e-15)
    J = jacobian(lambda y: total_variation_2d(y, 0.0), y).reshape(4, 4)
    torch.testing.assert_close(J, torch.eye(4, dtype=F64))


@pytest.mark.parametrize("options", [{}, *SMOOTH])
def test_constant_images_and_no_images(options: dict[str, Any]) -> None:
    y = torch.full((2, 3, 3), 0.1, dtype=F64)
    torch.testing.assert_close(total_variation_2d(y, 1.0, **options), y, rtol=0, atol=0)
    for shape in ((0, 3, 3), (2, 0, 3)):
        assert total_variation_2d(torch.ones(shape), 1.0, **options).shape == shape


@pytest.mark.parametrize("options", [{}, *SMOOTH])
def test_images_are_alone_on_every_device(options: dict[str, Any], device: torch.device) -> None:
    """Also in when they end, which shows where the accuracy is low."""
    y = torch.randn(2, 2, 5, 4, dtype=F64, device=device)
    w = torch.tensor([[0.0, 0.1], [1.0, 30.0]], dtype=F64, device=device)
    options = {"rtol": 1e-2, **options}
    x = total_variation_2d(y, w, **options)
    assert (x.shape, x.dtype, x.device) == (y.shape, y.dtype, y.device)
    for i, j in np.ndindex(2, 2):
        alone = total_variation_2d(y[i, j], w[i, j], **options)
        torch.testing.assert_close(x[i, j], alone, rtol=0, atol=1e-13)


# -- the grid ------------------------------------------------------------------------------------


def test_transposed_differences() -> None:
    x, p = torch.randn(2, 3, 4, dtype=F64), torch.randn(2, 2, 3, 4, dtype=F64)
    p[:, 0, :, -1] = p[:, 1, -1] = 0
    torch.testing.assert_close((grid_differences(x) * p).sum(), (x * transposed(p)).sum())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_parts_are_those_of_a_flood(share: float) -> None:
    joined = torch.rand(3, 2, 9, 7) < share
    found = parts(joined)
    for mask, numbers in zip(joined.tolist(), found.tolist(), strict=True):
        seen: dict[int, int] = {}
        for start in range(63):
            edge = [start] if start not in seen else []
            while edge:
                pixel = edge.pop()
                seen[pixel] = start
                i, j = divmod(pixel, 7)
                steps = [pixel + 1] if j < 6 and mask[0][i][j] else []
                steps += [pixel - 1] if j and mask[0][i][j - 1] else []
                steps += [pixel + 7] if i < 8 and mask[1][i][j] else []
                steps += [pixel - 7] if i and mask[1][i - 1][j] else []
                edge += [step for step in steps if step not in seen]
        assert numbers == [seen[pixel] for pixel in range(63)]


# -- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, *SMOOTH])
def test_first_and_second_derivatives(options: dict[str, Any]) -> None:
    def operator(y: Tensor, w: Tensor) -> Tensor:
        return total_variation_2d(y, w, rtol=1e-12, **options)

    y, w = leaf(1, 3, 2), leaf(1, low=0.1)
    assert gradcheck(operator, (y, w), check_forward_ad=True, check_undefined_grad=False)
    assert gradgradcheck(operator, (y, w))
    y, w = y.detach()[0], w.detach()[0]
    assert_derivative_of_a_projection(jacobian(operator, y, w).reshape(6, 6))
    found = differences(operator, y, w, of=1)
    torch.testing.assert_close(jacobian(operator, y, w, of=1), found, rtol=0, atol=1e-7)


def test_jacobian_averages_over_the_parts() -> None:
    y = torch.tensor([[1.0, 0.0, 4.0], [0.0, 1.0, 6.0]], dtype=F64)
    J = jacobian(total_variation_2d, y, 0.5).reshape(6, 6)
    part = torch.tensor([1.0, 1, 0, 1, 1, 0], dtype=F64)
    documented = torch.outer(part, part) / 4 + torch.diag(1 - part)
    torch.testing.assert_close(J, documented)
    in_w = jacobian(total_variation_2d, y, torch.tensor(0.5, dtype=F64), of=1)
    expected = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, -2]], dtype=F64)
    torch.testing.assert_close(in_w, expected)


def test_needs_one_product_on_parts_and_few_where_smooth() -> None:
    y = torch.randn(1, 16, 16, dtype=F64, requires_grad=True)
    for options, most in [({}, 1), *((options, 120) for options in SMOOTH)]:
        with fo.record() as seen:
            total_variation_2d(y, 0.5, **options).square().sum().backward()
        assert int(seen[1].iterations.max()) <= most


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, *SMOOTH])
def test_not_converged_is_an_error_or_masked(options: dict[str, Any]) -> None:
    y = torch.stack([torch.randn(9, 9, dtype=F64), torch.ones(9, 9, dtype=F64)]).requires_grad_()
    with pytest.raises(fo.FoldError, match=r"1 MAX_ITERATIONS \(first: sample 0 of 2"):
        total_variation_2d(y, 5.0, max_iterations=3, **options)
    x = total_variation_2d(y, 5.0, max_iterations=3, on_failure="mask", **options)
    (slope,) = torch.autograd.grad(x.sum(), y)
    assert (slope[0] == 0).all()
    torch.testing.assert_close(slope[1], torch.ones(9, 9, dtype=F64))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_named(bad: float) -> None:
    y = torch.randn(2, 3, 3)
    y[1, 0, 0] = bad
    with pytest.raises(fo.FoldError, match=r"1 NONFINITE \(first: sample 1 of 2"):
        total_variation_2d(y)
    w = torch.tensor([1.0, -1.0])
    with pytest.raises(fo.FoldError, match=r"1 NONFINITE \(first: sample 1 of 2"):
        total_variation_2d(torch.randn(2, 3, 3), w)


Y = torch.ones(2, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: total_variation_2d(torch.ones(3)), ValueError, r"y must have shape .* got \(3,\)"),
        (lambda: total_variation_2d(Y.bfloat16()), TypeError, "float32 or float64.*bfloat16"),
        (lambda: total_variation_2d(Y, -1.0), ValueError, "weight must be 0 or more"),
        (lambda: total_variation_2d(Y, torch.ones(3)), ValueError, r"weight of shape \(3,\)"),
        (lambda: total_variation_2d(Y, isotropic=True), ValueError, "isotropic form needs a smoot"),
        (lambda: total_variation_2d(Y, smoothing=-1.0), ValueError, "smoothing must be a finite"),
        (lambda: total_variation_2d(Y, smoothing=torch.inf), ValueError, "got inf"),
        (lambda: total_variation_2d(Y, rtol=0.0), ValueError, "rtol must be above 0, got 0.0"),
        (lambda: total_variation_2d(Y, max_iterations=0), ValueError, "max_iterations must be 1"),
        (lambda: total_variation_2d(Y, on_failure="no"), ValueError, "on_failure must"),  # type: ignore
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()
