"""The quadratic program layer without a solution or a derivative, or with wrong arguments."""

from __future__ import annotations

import pytest
import torch

from foldopt import FoldError, Status, solvers
from foldopt.nn import QP
from tests.dense_programs import F64, programs

BOTH_SIDES = torch.tensor([[1.0], [-1.0]])


def test_what_is_not_unique_has_no_derivative() -> None:
    # Nothing says where x₂ lies between its bounds.
    Q = torch.diag(torch.tensor([1.0, 0.0], dtype=F64))
    p = torch.tensor([-0.5, 0.0], dtype=F64, requires_grad=True)
    x = QP()(Q, p, lower=-1.0, upper=1.0)
    (gradient,) = torch.autograd.grad(x[0], p, retain_graph=True)
    torch.testing.assert_close(gradient, torch.tensor([-1.0, 0.0], dtype=F64))
    with pytest.raises(FoldError, match="BREAKDOWN"):
        torch.autograd.grad(x[1], p)


TROUBLE = {
    "infeasible": (
        Status.INFEASIBLE,
        [torch.eye(1), torch.zeros(1), BOTH_SIDES, torch.tensor([-1.0, -1.0])],
    ),
    "unbounded": (
        Status.UNBOUNDED,
        [
            torch.zeros(1, 1),
            torch.ones(1),
            torch.tensor([[1.0], [-1.0]]),
            torch.tensor([5.0, torch.inf]),
        ],
    ),
    "not convex": (
        Status.FAILED,
        [-torch.eye(1), torch.zeros(1), BOTH_SIDES, torch.ones(2)],
    ),
    "nan": (
        Status.NONFINITE,
        [torch.eye(1), torch.full((1,), torch.nan), BOTH_SIDES, torch.ones(2)],
    ),
}
SOUND = [torch.eye(1), torch.tensor([-3.0]), BOTH_SIDES, torch.ones(2)]


@pytest.mark.parametrize("kind", TROUBLE)
def test_one_bad_sample_of_two(kind: str) -> None:
    status, bad = TROUBLE[kind]
    blocks = [torch.stack(pair).to(F64).requires_grad_() for pair in zip(SOUND, bad, strict=True)]
    layer = QP(multipliers=True, on_failure="mask")
    found = layer(*blocks)
    assert found.status.tolist() == [0, int(status)]
    assert float(found.x[0].detach()) == 1.0
    assert found.x[1].isnan().all()
    found.x[0].sum().backward()
    alone = [block.to(F64).requires_grad_() for block in SOUND]
    QP()(*alone).sum().backward()
    for both, one in zip(blocks, alone, strict=True):
        assert both.grad is not None
        assert one.grad is not None
        torch.testing.assert_close(both.grad[0], one.grad, rtol=1e-12, atol=1e-12)
        assert both.grad[1].eq(0).all()


def test_infinite_limits_beside_a_failed_sample() -> None:
    # min ½‖x − c‖², x₁ ≤ 1 and x₂ ≤ ∞; the second sample asks for x₁ ≤ −1 and −x₁ ≤ −1 as well.
    G = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64).expand(2, 2, 2).clone()
    h = torch.tensor([[1.0, torch.inf], [-1.0, -1.0]], dtype=F64)
    p = torch.tensor([[-3.0, -5.0], [0.0, 0.0]], dtype=F64)
    G.requires_grad_()
    p.requires_grad_()
    x = QP(on_failure="mask")(torch.eye(2, dtype=F64), p, G, h)
    torch.testing.assert_close(x[0].detach(), torch.tensor([1.0, 5.0], dtype=F64))
    by_G, by_p = torch.autograd.grad(x[0].sum(), (G, p))
    # x₁ = (1 − G₁₂ x₂) / G₁₁ near here, and λ = 2: x₂ = 5 − 2 G₁₂.
    torch.testing.assert_close(
        by_G[0], torch.tensor([[-1.0, -5.0 - 2.0], [0, 0]], dtype=F64), rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(by_p[0], torch.tensor([0.0, -1.0], dtype=F64))
    assert by_G[1].eq(0).all()
    assert by_p[1].eq(0).all()


@pytest.mark.parametrize("kind", ["infeasible", "unbounded", "not convex"])
def test_a_bad_sample_is_an_error(kind: str) -> None:
    status, bad = TROUBLE[kind]
    blocks = [torch.stack(pair).to(F64) for pair in zip(SOUND, bad, strict=True)]
    with pytest.raises(FoldError, match=f"1 {status.name} \\(first: sample 1 of 2\\)") as caught:
        QP()(*blocks)
    assert caught.value.status is not None
    assert caught.value.status.tolist() == [0, int(status)]
    if kind == "not convex":
        assert "sample 1: Q is not positive semidefinite" in str(caught.value)


def test_an_error_quotes_the_sample_that_failed() -> None:
    # What is said of the first, that it is only just active, is no reason to fail.
    p = torch.tensor([[0.0], [-1.0]], dtype=F64)
    Q = torch.tensor([[[1.0]], [[-1.0]]], dtype=F64)
    with pytest.raises(FoldError, match="says of sample 1: Q is not positive semidefinite"):
        QP()(Q, p, upper=0.0)


def test_limits_of_the_engines_are_statuses() -> None:
    blocks = programs(1, 20, 40, 0)
    engines = solvers.QP("clarabel", max_iterations=1)
    layer = QP(multipliers=True, on_failure="mask", engines=engines)
    zero = torch.zeros(20, 20, dtype=F64)
    found = layer(zero, *blocks[1:4], lower=-50.0, upper=50.0)
    assert found.status.tolist() == [int(Status.MAX_ITERATIONS)]
    assert found.x.isnan().all()


# -- wrong arguments -------------------------------------------------------------------------------

I2, ONES = torch.eye(2), torch.ones(2)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((I2, [1.0, 2.0]), TypeError, "p must be a tensor of float32 or float64, got list"),
        ((I2, torch.ones(2, dtype=torch.int64)), TypeError, r"got torch\.int64"),
        ((I2, torch.ones(())), ValueError, r"p must have shape \(\*batch, n\)"),
        ((torch.eye(3), ONES), ValueError, r"Q must have shape \(2, 2\), .*; got \(3, 3\)"),
        ((I2, ONES.to_sparse()), TypeError, r"p must be dense, got torch\.sparse_coo"),
        ((I2, ONES, *[None] * 4, 10**400), ValueError, "lower is an integer too large for a float"),
        ((None, ONES), TypeError, "Q must be a tensor or None, got NoneType"),
        ((I2, ONES, I2), ValueError, "G and h go together"),
        ((I2, ONES, None, None, I2), ValueError, "A and b go together"),
        ((I2, ONES, I2, [1.0]), TypeError, "h must be a tensor or None, got list"),
        ((I2, ONES, torch.ones(3, 3), torch.ones(3)), ValueError, r"G must have shape \(3, 2\)"),
        ((I2.double(), ONES), TypeError, r"Q is torch\.float64 on cpu, p is torch\.float32"),
        ((torch.ones(3, 2, 2), torch.ones(4, 2)), ValueError, "batch shapes differ: Q has .3,., p"),
        ((I2, torch.tensor([1.0, torch.nan])), ValueError, "p of sample 0 holds nan"),
        ((I2, torch.tensor([[1.0, 2.0], [1.0, torch.inf]])), ValueError, "p of sample 1 holds inf"),
        (
            (I2, ONES, I2, torch.tensor([-torch.inf, 1.0])),
            ValueError,
            "h holds -inf .h may hold inf",
        ),
        ((I2.to_sparse(), ONES, I2, ONES), TypeError, "G is dense and Q is sparse"),
    ],
)
def test_wrong_data(arguments: tuple, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        QP()(*arguments)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="regularization must be 0 or more, got -1"):
        QP(regularization=-1)
    with pytest.raises(TypeError, match=r"engines must be a foldopt\.solvers\.QP, got str"):
        QP(engines="piqp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_failure must be one of"):
        QP(on_failure="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="p of sample 0 holds nan"):  # shared: no sample is left
        QP(on_failure="mask")(I2, torch.tensor([1.0, torch.nan]))
