"""What the fuzzer has found and what has been mended since, each as a test of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

import foldopt as fo
from foldopt.operators._inverse import matvec
from tests.fuzz import functions as f
from tests.fuzz.doubles import DOUBLE, double


def test_where_k_is_n_top_k_has_no_derivative_in_the_scores() -> None:
    """x is 1 throughout; a tie of all scores used to look like a softmax of entries still free."""
    for scores in ([2.0, 2.0], [2.0, 1.0], [0.0, 0.0, 0.0]):
        c = torch.tensor(scores, dtype=DOUBLE, requires_grad=True)
        for k in (None, torch.tensor(float(len(scores)), dtype=DOUBLE)):
            x = fo.nn.SmoothTopK(len(scores))(c, k=k)
            assert isinstance(x, torch.Tensor)
            assert torch.equal(x, torch.ones_like(x))
            (gradient,) = torch.autograd.grad(x @ torch.arange(len(c), dtype=DOUBLE), c)
            assert torch.equal(gradient, torch.zeros_like(c))


def test_top_k_needs_tensors_in_the_call() -> None:
    with pytest.raises(TypeError, match="temperature must be a tensor here, got str"):
        fo.nn.SmoothTopK(1)(double(3), temperature="text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "operator",
    [
        fo.prox.l1, fo.prox.l2, fo.prox.linf, fo.prox.squared_l2, fo.prox.nuclear,
        fo.prox.total_variation, fo.prox.conjugate(fo.prox.l1), fo.projections.simplex,
        fo.projections.ball, fo.projections.l1_ball, fo.projections.linf_ball,
        fo.projections.capped_simplex, fo.projections.isotonic, fo.projections.nonnegative,
        fo.projections.positive_semidefinite, fo.projections.second_order_cone,
    ],
)  # fmt: skip
def test_operators_take_dense_tensors(operator: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"y must be dense, got torch.sparse_coo: pass .to_dense"):
        operator(double(2, 2).to_sparse())


def test_a_weight_is_dense_and_a_float_can_hold_it() -> None:
    with pytest.raises(TypeError, match="weight must be dense"):
        fo.prox.l1(double(2), double(2).to_sparse())
    with pytest.raises(ValueError, match="weight must be a number that a float can hold"):
        fo.prox.l1(double(2), 10**400)


@pytest.mark.parametrize("given", [None, "text", [1.0]])
def test_a_quadratic_program_needs_a_Q(given: Any) -> None:
    with pytest.raises(TypeError, match="quadratic_program: Q must be a tensor, got <class"):
        fo.operators.quadratic_program(given, double(2))
    with pytest.raises(TypeError, match="Q must be"):
        fo.solvers.ADMM()(given, double(2))


def test_a_quadratic_program_is_dense() -> None:
    with pytest.raises(TypeError, match="quadratic_program: Q must be dense"):
        fo.operators.quadratic_program(torch.eye(2).to_sparse(), torch.ones(2))


def test_mirror_descent_needs_an_entry() -> None:
    step, none = fo.steps.mirror_descent(f.bowl, 0.1), double(0)
    with pytest.raises(ValueError, match=r"x must have shape \(\*batch, n\), n at least 1"):
        fo.unroll(step, none, none, iterations=1)


def test_fdpg_needs_one_dtype_and_dense_data() -> None:
    layer = fo.nn.f_fdpg()
    with pytest.raises(TypeError, match=r"one floating dtype, got torch.float32 and torch.float64"):
        layer(double(2).float(), double(1, 2), 1.0)
    with pytest.raises(TypeError, match="d and D must be dense"):
        layer(double(2, 2).to_sparse(), double(1, 2), 1.0)
    with pytest.raises(ValueError, match="D must have shape"):
        layer(double(), double(1, 1), 1.0)


# -- an empty batch -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["risk-bound", "mean-variance"])
def test_no_portfolios_are_an_empty_answer(form: Literal["risk-bound", "mean-variance"]) -> None:
    c, V = double(0, 3).requires_grad_(), torch.eye(3, dtype=DOUBLE).requires_grad_()
    risk = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    found = fo.nn.Portfolio(form=form, multipliers=True)(c, V, risk)
    assert isinstance(found, fo.nn.PortfolioSolution)
    assert (found.x.shape, found.bounds.shape) == ((0, 3), (0, 3))
    assert (found.budget.shape, found.status.shape) == ((0,), (0,))
    gradients = torch.autograd.grad(found.x.sum() + found.bounds.sum(), (c, V, risk))
    for given, gradient in zip((c, V, risk), gradients, strict=True):
        assert torch.equal(gradient, torch.zeros_like(given))


def test_a_batch_of_operators_without_rows_changes_nothing() -> None:
    for batch in (1, 2, 0):
        signal = torch.arange(3.0 * batch, dtype=DOUBLE).reshape(batch, 3).requires_grad_()
        x = fo.nn.TotalVariation()(signal, 1.0, double(batch, 0, 3))
        assert isinstance(x, torch.Tensor)
        assert torch.equal(x, signal)
        (gradient,) = torch.autograd.grad(x.square().sum(), signal)
        assert torch.equal(gradient, 2 * signal)


@pytest.mark.parametrize("name", ["quadratic", "cone"])
def test_an_empty_batch_of_a_cvxpy_problem_has_an_empty_answer(name: str) -> None:
    pytest.importorskip("cvxpy")
    batched, shared = double(0, 3).requires_grad_(), double(2, 3).requires_grad_()
    (x,) = f.cvxpy_layer(name)(batched, shared)
    assert x.shape == (0, 3)
    x.sum().backward()
    assert batched.grad is not None
    assert batched.grad.shape == (0, 3)
    assert shared.grad is not None
    assert not shared.grad.any()


def test_cvxpy_problems_are_real() -> None:
    pytest.importorskip("cvxpy")
    with pytest.raises(TypeError, match=r"parameter 0 is torch\.complex128, and programs here are"):
        f.cvxpy_layer("quadratic")(1j * double(3), double(2, 3))


def test_the_dual_step_refuses_what_is_not_finite() -> None:
    D = double(2, 3)
    D[0, 0] = torch.nan
    with pytest.raises(fo.FoldError, match="NONFINITE"):
        fo.nn.f_fdpg()(double(4, 3), D, 0.1)


@pytest.mark.parametrize("large", [1e300, float("inf")])
def test_products_that_overflow_say_nothing(large: float) -> None:
    with torch.no_grad():
        found = matvec(
            torch.full((2, 1, 2), large, dtype=DOUBLE), torch.full((2, 2), large, dtype=DOUBLE)
        )
    assert found.isinf().all()


# -- portfolios out of all scale ------------------------------------------------------------------


def test_a_portfolio_out_of_all_scale_is_refused() -> None:
    """An engine for quadratic programs used to look for it for ever."""
    c, V = torch.tensor([1.0, 2.0, 2.0], dtype=DOUBLE), torch.eye(3, dtype=DOUBLE)
    layer = fo.nn.Portfolio(form="mean-variance")
    with pytest.raises(ValueError, match=r"risk of sample 0 is too large beside .* 1.0e\+300"):
        layer(1e-300 * c, V, 1.0)
    with pytest.raises(ValueError, match="risk of sample 0 holds NaN or inf, or is too large"):
        layer(1e-300 * c, 1e300 * V, 1.0)
    with pytest.raises(ValueError, match=r"covariance is too large beside the unit of risk"):
        fo.nn.Portfolio()(c, 1e300 * V, 1.0)
    masked = fo.nn.Portfolio(form="mean-variance", on_failure="mask", multipliers=True)
    found = masked(torch.stack([c, 1e-300 * c]), V, 1.0)
    assert isinstance(found, fo.nn.PortfolioSolution)
    assert found.status.tolist() == [fo.Status.CONVERGED, fo.Status.NONFINITE]
    torch.testing.assert_close(found.x[0], torch.tensor([0.0, 0.5, 0.5], dtype=DOUBLE))
    assert bool(found.x[1].isnan().all())


def test_a_risk_that_no_float_can_hold() -> None:
    with pytest.raises(ValueError, match="risk must be a number that a float can hold"):
        fo.nn.Portfolio()(double(2), torch.eye(2, dtype=DOUBLE), 10**400)


def test_a_large_aversion_to_risk_ends() -> None:
    c = torch.tensor([1.0, 2.0, 2.0], dtype=DOUBLE)
    layer = fo.nn.Portfolio(form="mean-variance", on_failure="mask")
    x = layer(c, torch.eye(3, dtype=DOUBLE), 1e60)
    assert isinstance(x, torch.Tensor)
    assert bool(x.isnan().all()) or torch.allclose(x, double(3) / 3)


def test_nonlinear_programs_and_newton_take_dense_tensors() -> None:
    with pytest.raises(TypeError, match=r"nn\.NLP: param 0 must be dense, got torch\.sparse_coo"):
        fo.nn.NLP(f.bowl, n=1, batch_dims=0)(torch.ones(2, 2).to_sparse())
    with pytest.raises(TypeError, match=r"steps\.newton: x must be one tensor, got list"):
        fo.jacobian(fo.steps.newton(f.bowl), [1.0], double(1), batch_dims=0)
