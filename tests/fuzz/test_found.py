"""What the fuzzer has found and what has been mended since, each as a test of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import foldopt as fo
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
