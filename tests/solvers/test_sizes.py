"""Every solver beside QP on programs of any size whose solutions have a formula."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from foldopt import projections, solvers

F64 = torch.float64
sized = hypothesis.settings(deadline=None, derandomize=True, database=None, max_examples=5)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, wanted: Tensor, atol: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("engine", ["clarabel", "scs"])
@hypothesis.given(n=st.integers(2, 500), seed=st.integers(0, 99))
@sized
def test_cone(engine: Any, n: int, seed: int) -> None:
    # min cᵀx on the unit ball: −c/‖c‖, with the dual z = (‖c‖, c).
    c = randn(n, seed=seed)
    A = torch.cat([torch.zeros(1, n, dtype=F64), -torch.eye(n, dtype=F64)])
    b = torch.zeros(n + 1, dtype=F64)
    b[0] = 1
    found = solvers.Conic(solvers.Cones(second_order=(n + 1,)), engine)(None, c, A, b)
    assert int(found.status) == 0, found.messages
    close(found.x, -c / c.norm(), 1e-6)
    close(found.multipliers.dual, torch.cat([c.norm()[None], c]), 1e-6 * float(c.norm()))


@pytest.mark.parametrize("engine", ["clarabel", "scs"])
@hypothesis.given(n=st.integers(2, 200), seed=st.integers(0, 99))
@sized
def test_ball_as_a_quadratic_constraint(engine: Any, n: int, seed: int) -> None:
    c = randn(n, seed=seed)
    found = solvers.QCQP(engine)(
        None,
        c,
        torch.eye(n, dtype=F64)[None],
        torch.zeros(1, n, dtype=F64),
        torch.tensor([0.5]).to(F64),
    )
    assert int(found.status) == 0, found.messages
    close(found.x, -c / c.norm(), 1e-9)
    close(found.multipliers.inequality, c.norm()[None], 1e-8 * float(c.norm()))


@pytest.mark.parametrize("engine", ["scip", "gurobi"])
@hypothesis.given(n=st.integers(1, 100), seed=st.integers(0, 99))
@sized
def test_concave_and_separable(engine: Any, n: int, seed: int) -> None:
    # Each variable on its own: the better end of [−1, 1] for −½x² + cx.
    if engine == "gurobi":
        pytest.importorskip("gurobipy")
    c = randn(n, seed=seed)
    found = solvers.GlobalQP(engine)(-torch.eye(n, dtype=F64), c, lower=-1.0, upper=1.0)
    assert int(found.status) == 0, found.messages
    close(found.x, -c.sign(), 1e-12)
    close(found.multipliers.bounds, -(found.x * -1 + c), 1e-12)


def warped(x: Tensor, c: Tensor) -> Tensor:
    """Convex and smooth, least where sinh x = c."""
    return x.cosh().sum() - c @ x


SMOOTH: dict[str, Any] = {
    "Ipopt": lambda n: solvers.Ipopt(warped, n=n),
    "SQP": lambda n: solvers.SQP(warped, n=n),
}


@pytest.mark.parametrize("name", SMOOTH)
@hypothesis.given(n=st.integers(1, 120), seed=st.integers(0, 99))
@sized
def test_smooth(name: str, n: int, seed: int) -> None:
    c = randn(2, n, seed=seed)
    found = SMOOTH[name](n)(c)
    assert found.status.tolist() == [0, 0], found.messages
    close(found.x, c.asinh(), 1e-8)


@hypothesis.given(n=st.integers(2, 500), seed=st.integers(0, 99))
@sized
def test_first_order(n: int, seed: int) -> None:
    c = randn(3, n, seed=seed)

    def distance(x: Tensor, c: Tensor) -> Tensor:
        return 0.5 * (x - c).square().sum(-1)

    nearest = projections.simplex(c)
    start = torch.zeros(3, n, dtype=F64)
    by_projection = solvers.ProjectedGradient(distance, projections.simplex, start, restarts=1)(c)
    by_prox = solvers.FISTA(distance, lambda x, *_: projections.simplex(x), start)(c)
    eye, ones = torch.eye(n, dtype=F64), torch.ones(1, n, dtype=F64)
    by_admm = solvers.ADMM()(eye, -c, A=ones, b=torch.ones(1, dtype=F64), lower=0.0)
    for found in (by_projection, by_prox, by_admm):
        assert found.status.tolist() == [0, 0, 0]
        close(found.x, nearest, 1e-7)
