"""The sparse quadratic program layer: failures, guesses, wrong inputs, and what it says of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import FoldError, Status, solvers
from foldopt.nn import QP, QPSolution
from foldopt.nn._qp.sparse import forward
from tests.sparse_programs import (
    F64,
    INF,
    MATRICES,
    dense,
    programs,
    solved,
    sparse,
    tensor,
    wanting,
)

ROWS = tensor([1.0], [-1.0])
TROUBLE = {
    "infeasible": (Status.INFEASIBLE, [1.0], [0.0], [-1.0, -1.0]),
    "unbounded": (Status.UNBOUNDED, [0.0], [1.0], [5.0, INF]),
    "not convex": (Status.FAILED, [-1.0], [0.0], [1.0, 1.0]),
    "nan": (Status.NONFINITE, [1.0], [torch.nan], [1.0, 1.0]),
    "nan in Q": (Status.NONFINITE, [torch.nan], [1.0], [1.0, 1.0]),
}


def pair(kind: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A sound sample, and one that is not."""
    _, Q, p, h = TROUBLE[kind]
    entries = torch.stack([tensor(1.0), tensor(*Q)])
    with_batch = torch.sparse_csr_tensor(tensor([0, 1], [0, 1]).long(), tensor([0], [0]).long(),
                                         entries, (2, 1, 1))  # fmt: skip
    return with_batch, tensor([-3.0], p), sparse(ROWS), tensor([1.0, 1.0], h)


@pytest.mark.parametrize("kind", TROUBLE)
def test_one_bad_sample_of_two(kind: str) -> None:
    blocks = [block.requires_grad_() for block in pair(kind)]
    found = solved(QP(multipliers=True, on_failure="mask"), *blocks)
    assert found.status.tolist() == [0, int(TROUBLE[kind][0])]
    assert float(found.x[0].detach()) == pytest.approx(1.0, abs=1e-12)
    assert found.x[1].isnan().all()
    found.x[0].sum().backward()
    # x = h₁ / G₁₁, whatever Q and p.
    expected = ([[[0.0]], [[0.0]]], [[0.0], [0.0]], [[-1.0], [0.0]], [[1.0, 0.0], [0.0, 0.0]])
    for block, wanted in zip(blocks, expected, strict=True):
        assert block.grad is not None
        torch.testing.assert_close(dense(block.grad), tensor(*wanted), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["infeasible", "unbounded", "not convex"])
def test_a_bad_sample_is_an_error(kind: str) -> None:
    name = TROUBLE[kind][0].name
    with pytest.raises(FoldError, match=f"1 {name} \\(first: sample 1 of 2\\)") as caught:
        QP()(*pair(kind))
    assert caught.value.status is not None
    assert caught.value.status.tolist() == [0, int(TROUBLE[kind][0])]
    if kind == "not convex":
        assert "sample 1: Q is not positive semidefinite" in str(caught.value)


def test_what_is_not_convex_off_the_diagonal() -> None:
    Q = sparse(tensor([1.0, 2.0], [2.0, 1.0]))
    with pytest.raises(FoldError, match="Q is not positive semidefinite"):
        QP()(Q, torch.zeros(2, dtype=F64), lower=-1.0, upper=1.0)


def test_limits_of_the_engines_are_statuses() -> None:
    blocks = programs(20, 40, 0, True, samples=1, flat=20)
    given = {name: sparse(block) if name in MATRICES else block for name, block in blocks.items()}
    engines = solvers.QP("clarabel", max_iterations=1)
    found = QP(multipliers=True, on_failure="mask", engines=engines)(**given)
    assert isinstance(found, QPSolution)
    assert found.status.tolist() == [int(Status.MAX_ITERATIONS)]
    assert found.x.isnan().all()


def test_an_engine_that_finds_nothing_is_followed_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = programs(12, 8, 2, True)
    given = {name: sparse(block) if name in MATRICES else block for name, block in blocks.items()}
    expected = QP()(**given)
    monkeypatch.setattr(forward, "_first", lambda *_: None)
    torch.testing.assert_close(QP()(**given), expected, rtol=1e-10, atol=1e-10)


def test_wrong_guesses_are_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    # A string on an obstacle, where moving rows converges: no other engine is asked.
    n = 40
    Q = 2 * torch.eye(n, dtype=F64) - torch.diag(torch.ones(n - 1, dtype=F64), 1)
    Q = Q - torch.diag(torch.ones(n - 1, dtype=F64), -1)
    p, lower = torch.full((n,), 0.1, dtype=F64), -2 + torch.linspace(-1, 1, n, dtype=F64).square()
    expected = QP()(Q, p, lower=lower)
    guessed = forward.guessed

    def spoilt(scaled: forward.Scaled, point: forward.Point) -> np.ndarray:
        sides = guessed(scaled, point)
        active = np.nonzero(sides)[0]
        sides[active[0]] = 0
        sides[active[-1] + 1] = -1
        return sides

    def never(*_: object) -> None:
        raise AssertionError("the first engine's answer serves")

    monkeypatch.setattr(forward, "guessed", spoilt)
    monkeypatch.setattr(solvers.QP, "__call__", never)
    torch.testing.assert_close(QP()(sparse(Q), p, lower=lower), expected, rtol=1e-9, atol=1e-9)


def test_what_cannot_be_made_exact_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = programs(12, 8, 2, True, samples=1)
    given = {name: sparse(block) if name in MATRICES else block for name, block in blocks.items()}
    expected = QP()(**given)
    exact = forward.exact
    monkeypatch.setattr(
        forward, "exact", lambda *a: forward.dataclasses.replace(exact(*a), good=False)
    )
    with fo.record() as seen:
        x = QP()(**given)
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    assert "to the engine's accuracy only" in seen[0].messages[0]


def degenerate(seed: int) -> dict[str, Tensor]:
    """Small whole numbers: singular Q, dependent rows and weakly active ones, all by chance."""
    r = np.random.default_rng(seed)
    n = int(r.integers(2, 9))
    m, k = int(r.integers(1, 2 * n)), int(r.integers(1, 3))

    def thin(rows: int, columns: int = n) -> np.ndarray:
        return r.integers(-2, 3, (rows, columns)) * (r.random((rows, columns)) < 0.5)

    R, G, A = thin(n, int(r.integers(1, n + 1))), thin(m), thin(k)
    inside = r.integers(-1, 2, n)
    found = {
        "Q": R @ R.T, "p": r.integers(-2, 3, n), "G": G, "h": G @ inside + r.integers(0, 2, m),
        "A": A, "b": A @ inside, "lower": inside - r.integers(0, 3, n), "upper": inside + 1.5,
    }  # fmt: skip
    return {name: torch.tensor(block, dtype=F64) for name, block in found.items()}


def test_no_silent_difference_from_dense() -> None:
    said = 0
    for seed in range(60):
        blocks = degenerate(seed)
        mine, other = wanting(blocks, "csr"), wanting(blocks)
        with fo.record() as seen:
            x, expected = (
                QP(on_failure="mask")(**at)  # a solution that is not unique has no derivative
                for at in (mine, other)
            )
        assert isinstance(x, Tensor)
        assert isinstance(expected, Tensor)
        weak = any("just active" in text for event in seen for text in event.messages)
        with fo.record() as backward:
            x.sum().backward()
            expected.sum().backward()
        if weak or any(bool(event.status.any()) for event in backward):
            said += 1
            continue
        torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-8)
        for name, block in mine.items():
            gradient, wanted = block.grad, other[name].grad
            assert gradient is not None
            assert wanted is not None
            wanted = torch.where(blocks[name] != 0, wanted, 0) if name in MATRICES else wanted
            torch.testing.assert_close(dense(gradient), wanted, rtol=1e-6, atol=1e-6)
    assert 10 < said < 50


# -- wrong arguments -------------------------------------------------------------------------------

I2, ONES = torch.eye(2), torch.ones(2)
S2 = sparse(I2)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((I2, ONES, S2, ONES), TypeError, "Q is dense and G is sparse: if one of Q, G and A"),
        ((S2, ONES, I2, ONES), TypeError, "G is dense and Q is sparse: if one of Q, G and A"),
        ((None, ONES, S2, ONES), TypeError, "Q must be a sparse tensor .* got NoneType"),
        ((S2, sparse(torch.eye(2))), TypeError, "p is sparse .*: only Q, G and A may be"),
        ((I2.to_sparse_csc(), ONES), TypeError, "neither torch.sparse_csr nor torch.sparse_coo"),
        (
            (torch.stack([I2, I2]).to_sparse(), ONES),
            ValueError,
            r"Q has 3 sparse and 0 dense dimensions, shape \(2, 2, 2\)",
        ),
        ((I2.to_sparse(1), ONES), ValueError, "Q has 1 sparse and 1 dense"),
        ((S2, torch.ones(3)), ValueError, r"Q must have shape \(3, 3\), .*; got \(2, 2\)"),
        ((S2, ONES, S2), ValueError, "G and h go together"),
        ((S2, ONES.double()), TypeError, r"Q is torch\.float32 on cpu, p is torch\.float64"),
        ((S2, torch.ones(2, dtype=torch.int64)), TypeError, r"got torch\.int64"),
        (
            (torch.stack([S2.to_dense()] * 3).to_sparse_csr(), torch.ones(4, 2)),
            ValueError,
            "batch shapes differ: Q has .3,., p",
        ),
        ((S2, torch.tensor([1.0, torch.nan])), ValueError, "p of sample 0 holds nan"),
        ((S2 * torch.nan, ONES), ValueError, "Q holds nan"),
        (
            (S2, ONES, S2, torch.tensor([-torch.inf, 1.0])),
            ValueError,
            "h holds -inf .h may hold inf",
        ),
    ],
)
def test_wrong_data(arguments: tuple, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        QP()(*arguments)


def test_many_cotangents_at_once() -> None:
    blocks = programs(5, 4, 0, False, samples=2)
    given = {name: sparse(block) if name in MATRICES else block for name, block in blocks.items()}

    def of_p(p: Tensor) -> Tensor:
        x = QP()(**{**given, "p": p})
        assert isinstance(x, Tensor)
        return x

    x, pull, *_ = torch.func.vjp(of_p, blocks["p"])
    (rows,) = torch.func.vmap(pull)(torch.stack([torch.ones_like(x), 2 * torch.ones_like(x)]))
    torch.testing.assert_close(rows[1], 2 * rows[0])
