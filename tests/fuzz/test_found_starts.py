"""What the fuzzer has found of starts, dtypes and Ipopt, and what has been mended since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import foldopt as fo
from tests.fuzz import functions as f
from tests.fuzz.doubles import DOUBLE, double

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


def test_sqp_takes_dense_params() -> None:
    with pytest.raises(TypeError, match=r"solvers\.SQP: param 0 must be dense, got"):
        fo.solvers.SQP(f.bowl, f.below, n=1)(torch.ones(2, 2).to_sparse())
