"""Operators on eigenvalues and singular values, above all where these repeat or vanish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import foldopt as fo
from foldopt import prox
from foldopt.projections import positive_semidefinite
from tests.closed_forms import (
    F64,
    Operator,
    check_derivatives,
    differences,
    entries,
    is_limit_of_jacobians,
    jacobian,
)


def matrices(rows: int, columns: int) -> st.SearchStrategy[Tensor]:
    drawn = st.lists(entries, min_size=rows * columns, max_size=rows * columns)
    return drawn.map(lambda values: torch.tensor(values, dtype=F64).reshape(rows, columns))


def rotation(n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=F64))[0]


def with_eigenvalues(*values: float) -> Tensor:
    V = rotation(len(values))
    return V @ torch.tensor(values, dtype=F64).diag() @ V.T


def with_singular_values(columns: int, *values: float) -> Tensor:
    middle = torch.zeros(len(values), columns, dtype=F64)
    middle[:, : len(values)] = torch.tensor(values, dtype=F64).diag()
    return rotation(len(values)) @ middle @ rotation(columns)


# -- values --------------------------------------------------------------------------------------


@given(y=matrices(4, 4))
@settings(deadline=None)
def test_positive_semidefinite_splits_into_the_cone_and_its_polar(y: Tensor) -> None:
    """X ⪰ 0, X − S ⪰ 0 and ⟨X, X − S⟩ = 0, for the symmetric part S of y."""
    x, scale = positive_semidefinite(y), 1 + float(y.abs().max())
    rest = x - 0.5 * (y + y.T)
    torch.testing.assert_close(x, x.T, rtol=0, atol=0)
    for part in (x, rest):
        assert torch.linalg.eigvalsh(part).min() >= -1e-13 * scale
    assert abs((x * rest).sum()) <= 1e-13 * scale**2


@given(y=matrices(3, 4), w=st.floats(0, 30))
@settings(deadline=None)
def test_nuclear_leaves_a_subgradient_of_the_norm(y: Tensor, w: float) -> None:
    """G = Y − X has no singular value above w, and ⟨G, X⟩ = w ‖X‖₊."""
    x, scale = prox.nuclear(y, w), 1 + float(y.abs().max()) + w
    gap = y - x
    assert torch.linalg.svdvals(gap).max() <= w + 1e-13 * scale
    assert abs(w * torch.linalg.svdvals(x).sum() - (gap * x).sum()) <= 1e-12 * scale**2


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 3), (3, 1), (1, 1)])
def test_nuclear_thresholds_the_singular_values(shape: tuple[int, int]) -> None:
    y, w = torch.randn(7, *shape, dtype=F64), torch.rand(7, dtype=F64)
    U, sigma, Vh = torch.linalg.svd(y, full_matrices=False)
    expected = U @ torch.diag_embed((sigma - w[:, None]).clamp_min(0)) @ Vh
    torch.testing.assert_close(prox.nuclear(y, w), expected, rtol=0, atol=1e-13)


def test_both_agree_with_a_cone_solver() -> None:
    y = torch.randn(3, 3, dtype=F64)
    tight = {f"tol_{what}": 1e-9 for what in ("gap_abs", "gap_rel", "feas")}
    X = cp.Variable((3, 3), PSD=True)
    cp.Problem(cp.Minimize(cp.sum_squares(X - y.numpy()))).solve(cp.CLARABEL, **tight)
    expected = torch.as_tensor(X.value)
    torch.testing.assert_close(positive_semidefinite(y), expected, rtol=0, atol=1e-5)
    X = cp.Variable((3, 3))
    objective = 0.7 * cp.normNuc(X) + 0.5 * cp.sum_squares(X - y.numpy())
    cp.Problem(cp.Minimize(objective)).solve(cp.CLARABEL, **tight)
    expected = torch.as_tensor(X.value)
    torch.testing.assert_close(prox.nuclear(y, 0.7), expected, rtol=0, atol=1e-5)


def test_rank_is_exact() -> None:
    """What is cut off is zero to rounding of the large parts, and zero itself where all is cut."""
    x = prox.nuclear(with_singular_values(5, 3.0, 1.0, 0.5), 0.8)
    assert (torch.linalg.svdvals(x) > 1e-14).tolist() == [True, True, False]
    assert (prox.nuclear(torch.randn(3, 4, dtype=F64), 1e3) == 0).all()
    assert (positive_semidefinite(with_eigenvalues(-1, -2, -2)) == 0).all()


def test_infinite_weight_gives_zero_with_a_finite_derivative() -> None:
    y, w = torch.randn(2, 3, dtype=F64), torch.tensor(torch.inf, dtype=F64)
    assert (prox.nuclear(y, w) == 0).all()
    torch.testing.assert_close(jacobian(prox.nuclear, y, w), torch.zeros(2, 3, 2, 3, dtype=F64))
    torch.testing.assert_close(jacobian(prox.nuclear, y, w, of=1), torch.zeros(2, 3, dtype=F64))


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        (positive_semidefinite, (0, 0)),
        (positive_semidefinite, (0, 3, 3)),
        (prox.nuclear, (0, 3)),
        (prox.nuclear, (2, 3, 0)),
    ],
)
def test_nothing_gives_nothing(operator: Operator, shape: tuple[int, ...]) -> None:
    assert operator(torch.ones(shape)).shape == shape


# -- derivatives where eigenvalues repeat --------------------------------------------------------

# A point where every derivative exists, however the eigenvalues or singular values tie.
SMOOTH: dict[str, tuple[Operator, Callable[[], Tensor]]] = {
    "identity": (positive_semidefinite, lambda: torch.eye(2, dtype=F64)),
    "minus identity": (positive_semidefinite, lambda: -torch.eye(2, dtype=F64)),
    "a pair below": (positive_semidefinite, lambda: with_eigenvalues(2, -1, -1)),
    "opposite": (positive_semidefinite, lambda: with_eigenvalues(1, -1)),
    "very different": (positive_semidefinite, lambda: with_eigenvalues(50, 50, -0.5)),
    "repeated": (lambda y: prox.nuclear(y, 1.0), lambda: with_singular_values(3, 3, 3)),
    "zero and repeated": (lambda y: prox.nuclear(y, 1.0), lambda: with_singular_values(3, 2, 2, 0)),
    "below and zero": (lambda y: prox.nuclear(y, 1.0), lambda: with_singular_values(3, 0.5, 0.5)),
    "zero": (lambda y: prox.nuclear(y, 1.0), lambda: torch.zeros(2, 3, dtype=F64)),
    "one above": (lambda y: prox.nuclear(y, 1.0), lambda: with_singular_values(2, 2.5, 0)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_where_eigenvalues_repeat(name: str) -> None:
    """Of first and second order by gradcheck, of second and third by differences."""
    operator, point = SMOOTH[name]
    y = point()
    check_derivatives(operator, y.clone().requires_grad_())
    weights = torch.randn(y.shape, dtype=F64)

    def f(y: Tensor) -> Tensor:
        return (operator(y) ** 2 * weights).sum()

    hessian = torch.func.hessian(f)(y)
    expected = differences(torch.func.grad(f), y)
    torch.testing.assert_close(hessian, expected, rtol=0, atol=1e-6 * (1 + float(y.abs().max())))
    third = torch.func.jacrev(torch.func.hessian(f))(y)
    expected = differences(torch.func.hessian(f), y)
    torch.testing.assert_close(
        third, expected, rtol=0, atol=1e-6 * (1 + float(expected.abs().max()))
    )


def test_jacobian_is_as_documented() -> None:
    y = with_eigenvalues(3, 1, -0.5, -2)
    values, V = torch.linalg.eigh(y)
    over = (values[:, None].clamp_min(0) + values.clamp_min(0)) / (
        values[:, None].abs() + values.abs()
    )
    H = torch.randn(4, 4, dtype=F64)
    H = H + H.T
    documented = V @ (over * (V.T @ H @ V)) @ V.T
    found = torch.func.jvp(positive_semidefinite, (y,), (H,))[1]
    torch.testing.assert_close(found, documented)


def test_derivative_of_nuclear_in_the_weight() -> None:
    """−U Vᵀ of the singular vectors above w, also for equal singular values and for w = 0."""
    for sigma, w in [((3.0, 3.0), 1.0), ((3.0, 0.5), 1.0), ((2.0, 2.0), 0.0)]:
        y, weight = with_singular_values(3, *sigma), torch.tensor(w, dtype=F64)
        U, s, Vh = torch.linalg.svd(y, full_matrices=False)
        expected = -(U * (s > w)) @ Vh
        torch.testing.assert_close(jacobian(prox.nuclear, y, weight, of=1), expected)
        if w:
            found = differences(prox.nuclear, y, weight, of=1)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


# -- kinks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "y"),
    [
        (positive_semidefinite, torch.zeros(2, 2, dtype=F64)),
        (positive_semidefinite, torch.tensor([1.0, 0, 0], dtype=F64).diag()),
        (positive_semidefinite, torch.tensor([1.0, 0, -1], dtype=F64).diag()),
        (lambda y: prox.nuclear(y, 1.0), torch.tensor([1.0, 0], dtype=F64).diag()),
        (lambda y: prox.nuclear(y, 1.0), torch.tensor([3.0, 1], dtype=F64).diag()),
        (lambda y: prox.nuclear(y, 1.0), torch.tensor([1.0, 1], dtype=F64).diag()),
    ],
)
def test_derivative_at_a_kink_is_one_of_those_around(operator: Operator, y: Tensor) -> None:
    # Around a double zero eigenvalue the slopes are a continuum: only its two ends repeat.
    def flat(z: Tensor) -> Tensor:
        return operator(z.reshape(y.shape)).flatten()

    J = jacobian(flat, y.flatten())
    if torch.linalg.matrix_rank(y) >= len(y) - 1 and not torch.equal(y, torch.eye(2, dtype=F64)):
        assert is_limit_of_jacobians(flat, y.flatten())
    else:
        assert any_definite_side(flat, y, J)
    second = torch.func.hessian(lambda z: (flat(z) ** 2).sum())(y.flatten())
    assert torch.isfinite(second).all()


def any_definite_side(flat: Operator, y: Tensor, J: Tensor) -> bool:
    """Whether J is the derivative at y + ε I or at y − ε I."""
    near = [y.flatten() + sign * 1e-9 * torch.eye(len(y), dtype=F64).flatten() for sign in (1, -1)]
    return any(torch.allclose(torch.func.jacrev(flat)(point), J, atol=1e-6) for point in near)


def test_no_weight_is_the_identity_and_so_is_its_jacobian() -> None:
    """Whatever the rank, where singular values that are zero meet the kink at w = 0."""
    zero = torch.tensor(0.0, dtype=F64)
    for y in (
        torch.zeros(2, 3, dtype=F64),
        with_singular_values(3, 2, 0),
        with_singular_values(2, 2, 1),
    ):
        torch.testing.assert_close(prox.nuclear(y, zero), y)
        J = jacobian(prox.nuclear, y, zero).reshape(y.numel(), y.numel())
        torch.testing.assert_close(J, torch.eye(y.numel(), dtype=F64))
        hessian = torch.func.hessian(lambda y: (prox.nuclear(y, zero) ** 3).sum())(y)
        expected = torch.func.hessian(lambda y: (y**3).sum())(y)
        torch.testing.assert_close(hessian, expected, rtol=0, atol=1e-11)


# -- what does not work says so ------------------------------------------------------------------


@pytest.mark.parametrize("operator", [positive_semidefinite, prox.nuclear])
def test_forward_mode_in_forward_mode_raises(operator: Operator) -> None:
    y = torch.eye(2, dtype=F64)
    with pytest.raises(fo.FoldError, match=r"nuclear\): forward mode inside forward mode.*hessian"):
        torch.func.jacfwd(torch.func.jacfwd(operator))(y)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: positive_semidefinite(torch.ones(3)),
            ValueError,
            r"\(\*batch, n, n\), got \(3,\)",
        ),
        (lambda: positive_semidefinite(torch.ones(2, 3)), ValueError, r"n, n\), got \(2, 3\)"),
        (
            lambda: positive_semidefinite(torch.ones(2, 2).bfloat16()),
            TypeError,
            "got torch.bfloat16",
        ),
        (
            lambda: prox.nuclear(torch.ones(3)),
            ValueError,
            r"nuclear.*\(\*batch, m, n\), got \(3,\)",
        ),
        (lambda: prox.nuclear(torch.ones(2, 2), -1.0), ValueError, "weight must be 0 or more"),
        (
            lambda: prox.nuclear(torch.ones(4, 2, 2), torch.ones(2)),
            ValueError,
            r"weight of shape \(2,",
        ),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()
