"""What the fuzzer has found and what has been mended since, each as a test of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch

import foldopt as fo
from foldopt.operators._inverse import matvec
from tests.fuzz import functions as f

DOUBLE = torch.float64


def double(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=DOUBLE)


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


# -- starts and dtypes ----------------------------------------------------------------------------

STARTS: list[tuple[Any, type[Exception], str]] = [
    (double().squeeze(), ValueError, r"x0 must have shape \(n,\) or \(B, n\), got \(\)"),
    (double(0), ValueError, r"x0 must have shape .* with n of 1 or more, got \(0,\)"),
    (double(2, 0), ValueError, r"x0 must have shape .* with n of 1 or more, got \(2, 0\)"),
    (double(1, 2, 3), ValueError, r"x0 must have shape .* got \(1, 2, 3\)"),
    (1j * double(2, 3), TypeError, r"x0 must be a real floating-point tensor, got .*complex128"),
    (double(2, 3).long(), TypeError, r"x0 must be a real floating-point tensor, got torch.int64"),
    (double(2, 3).float(), TypeError, "x0 is torch.float32, the params are torch.float64"),
    (double(2, 3).to_sparse(), TypeError, "x0 must be dense, got torch.sparse_coo"),
    (np.array(["a"]), TypeError, "x0 must hold real numbers, got an array of <U1"),
]


@pytest.mark.parametrize("name", ["f_pgd_a", "f_pgd_b", "f_sqp"])
@pytest.mark.parametrize(("x0", "kind", "words"), STARTS)
def test_a_start_is_looked_at(name: str, x0: Any, kind: type[Exception], words: str) -> None:
    layer = getattr(fo.nn, name)(f.bowl, f.below)
    with pytest.raises(kind, match=f"{name}: {words}"):
        layer(double(2, 3), x0=x0)


@pytest.mark.parametrize("name", ["f_pgd_a", "f_sqp"])
def test_a_start_that_is_not_finite_is_a_sample_that_fails(name: str) -> None:
    x0 = torch.tensor([[0.0, 0.0], [0.0, torch.nan]], dtype=DOUBLE)
    make = getattr(fo.nn, name)
    with pytest.raises(fo.FoldError, match=r"1 NONFINITE .first: sample 1 of 2"):
        make(f.bowl, f.below)(0.5 * double(2, 2), x0=x0)
    layer = make(f.bowl, f.below, options=fo.nn.Options(on_failure="mask"))
    x = layer(0.5 * double(2, 2), x0=x0)
    torch.testing.assert_close(x[0], 0.5 * double(2))
    assert bool(x[1].isnan().any())


def test_folded_optimizers_are_real() -> None:
    with pytest.raises(TypeError, match="param 0 is 1j, and x is real"):
        fo.nn.f_sqp(f.bowl)(1j, x0=double(2, 3))
    with pytest.raises(TypeError, match=r"f_pgd_a: param 0 is torch\.complex128 of shape"):
        fo.nn.f_pgd_a(f.bowl)(1j * double(2, 3), x0=double(2, 3))
    with pytest.raises(TypeError, match=r"f_sqp: x is torch\.float16 of shape"):
        fo.nn.f_sqp(f.bowl)(double(2, 3).half(), x0=double(2, 3).half())


WEIGHTS: list[tuple[Any, type[Exception], str]] = [
    ("text", TypeError, "weight must be a number or a tensor, got str"),
    (None, TypeError, "weight must be a number or a tensor, got NoneType"),
    (True, TypeError, "weight must be a number or a tensor, got bool"),
    (-1.0, ValueError, "weight must be 0 or more, and finite; got -1.0"),
    (10**400, ValueError, "weight must be 0 or more, and finite; got 1000"),
    (double(7), ValueError, r"weight must broadcast to \(2, 1\), .* got \(7,\)"),
    (double(2, 1).to_sparse(), TypeError, "weight must be dense, got torch.sparse_coo"),
]


@pytest.mark.parametrize("layer", [fo.nn.f_fdpg(), fo.solvers.FDPG()])
@pytest.mark.parametrize(("weight", "kind", "words"), WEIGHTS)
def test_a_weight_of_fdpg_is_looked_at(
    layer: Any, weight: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        layer(double(2, 3), double(1, 3), weight)


def test_fdpg_needs_one_weight_and_enough_digits() -> None:
    with pytest.raises(TypeError, match=r"call it as \(d, D, weight\); got 0 arguments after D"):
        fo.nn.f_fdpg()(double(2, 3), double(1, 3))
    with pytest.raises(TypeError, match=r"f_fdpg: d is torch\.float16 of shape"):
        fo.nn.f_fdpg()(double(2, 3).half(), double(1, 3).half(), 1.0)
    with pytest.raises(
        ValueError, match="f_fdpg: there is no solver, and so a call needs a tensor"
    ):
        fo.nn.f_fdpg()(double(2, 3), double(1, 3), 1.0, x0="text")  # type: ignore[arg-type]


START = double(2, 3)
DESCENTS: dict[str, Callable[..., Any]] = {
    "FISTA": fo.solvers.FISTA(f.bowl, f.prox, start=START),
    "ProjectedGradient": fo.solvers.ProjectedGradient(f.bowl, f.onto, start=START),
    "SQP": fo.solvers.SQP(f.bowl, f.below, n=3),
}


@pytest.mark.parametrize("name", DESCENTS)
def test_descent_is_real_and_has_enough_digits(name: str) -> None:
    with pytest.raises(TypeError, match=f"solvers.{name}: param 0 is torch.complex128 of shape"):
        DESCENTS[name](1j * double(2, 3))
    with pytest.raises(TypeError, match=r"param 0 is 1j, and x is real"):
        DESCENTS[name](1j)
    refused = {"ProjectedGradient": (torch.float16,), "SQP": (torch.float16, torch.bfloat16)}
    for dtype in (torch.float16, torch.bfloat16):
        if dtype in refused.get(name, ()):
            with pytest.raises(TypeError, match=f"solvers.{name}: param 0 is {dtype} of shape"):
                DESCENTS[name](double(2, 3).to(dtype))
        else:
            assert DESCENTS[name](double(2, 3).to(dtype)).x.dtype == dtype


def test_starts_of_solvers_are_real_and_dense() -> None:
    with pytest.raises(TypeError, match=r"solvers\.FISTA: start is torch\.complex128 of shape"):
        fo.solvers.FISTA(f.bowl, f.prox, start=1j * START)(START)
    with pytest.raises(TypeError, match=r"solvers\.FISTA: start must be dense"):
        fo.solvers.FISTA(f.bowl, f.prox, start=START.to_sparse())(START)
    with pytest.raises(TypeError, match=r"solvers\.ADMM: p is torch\.float16 of shape"):
        fo.solvers.ADMM()(torch.eye(3).half(), START.half())


# -- Ipopt ----------------------------------------------------------------------------------------


def test_ipopt_is_real() -> None:
    pytest.importorskip("casadi")
    with pytest.raises(TypeError, match=r"solvers\.Ipopt: param 0 is torch\.complex128 of shape"):
        fo.solvers.Ipopt(f.bowl, n=3)(1j * START)


def test_what_a_constraint_raises_within_casadi_is_said_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """casadi used to print a traceback for each of its calls."""
    pytest.importorskip("casadi")
    calls = []

    def growing(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return x[:1] - 1 if len(calls) < 3 else x - 1

    def flat(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return ((x - c) ** 4).sum()

    found = fo.solvers.Ipopt(flat, growing, n=2, engine="casadi", executor=None)(double(1, 2))
    assert found.status.tolist() == [fo.Status.FAILED]
    assert found.messages is not None
    assert "gave 2 numbers (g) at a later x, and 1 at the start" in found.messages[0]
    assert "Traceback" not in "".join(capfd.readouterr())


def test_one_number_alone_is_a_solution() -> None:
    c = torch.tensor(4.0, dtype=DOUBLE, requires_grad=True)
    x = fo.fold(lambda x, c: (x + c / x) / 2, c.detach().sqrt(), c, batch_dims=0)
    assert x.shape == ()
    (gradient,) = torch.autograd.grad(x, c)
    assert float(gradient) == pytest.approx(0.25)


def test_a_solution_is_dense() -> None:
    with pytest.raises(TypeError, match=r"x_star must be dense, got torch\.sparse_coo"):
        fo.fold(lambda x: x, torch.ones(2, 2).to_sparse(), batch_dims=0)
