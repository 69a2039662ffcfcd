"""Every engine of solvers.QP on programs with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from foldopt.solvers.qp import QP
from foldopt.status import Status
from tests.engines import ALL, KNOWN, NAMES, Known, kkt, random_blocks, tensors

EVERY = ("auto", *ALL)
INSTANCE = {"deadline": None, "derandomize": True, "database": None}


def agrees(found: Any, wanted: list[float] | None, atol: float) -> None:
    if wanted is not None:
        assert found.tolist() == pytest.approx(wanted, abs=atol)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("engine", EVERY)
def test_known_answers(engine: str, name: str) -> None:
    known = KNOWN[name]
    solution = QP(engine)(**tensors(known.blocks))
    assert Status(int(solution.status)) == known.status, solution.messages
    if known.x is None:
        assert torch.isnan(solution.x).all()
        assert all(torch.isnan(part).all() for part in solution.multipliers)
        return
    # A weakly active row is the worst case of an interior point: √tolerance.
    atol = 1e-4 if name in ("weakly active", "dependent rows") else 1e-7
    agrees(solution.x, known.x, atol)
    for part in ("inequality", "equality", "bounds"):
        agrees(getattr(solution.multipliers, part), getattr(known, part), atol)
    assert kkt(known.blocks, solution) < atol
    assert float(solution.gap) < 1e-7
    assert solution.messages == ("",)


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("rank", [None, 3, 0], ids=["strong", "semidefinite", "linear"])
def test_random_programs_and_their_sparse_twins(engine: str, rank: int | None) -> None:
    blocks = random_blocks(12, 15, 3, seed=4, rank=rank)
    dense = QP(engine)(**tensors(blocks))
    assert Status(int(dense.status)) == Status.CONVERGED, dense.messages
    assert kkt(blocks, dense) < 1e-6
    matrices = {
        name: block if block is None else sparse.coo_matrix(block)
        for name, block in blocks.items()
        if name in ("Q", "G", "A")
    }
    thin = QP(engine)(**tensors(blocks | matrices))
    torch_sparse = {
        name: block if block is None else torch.tensor(blocks[name]).to_sparse()
        for name, block in matrices.items()
    }
    other = QP(engine)(**tensors(blocks | matrices) | torch_sparse)
    for found in (thin, other):
        assert Status(int(found.status)) == Status.CONVERGED, found.messages
        torch.testing.assert_close(found.x, dense.x, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("engine", ALL)
@given(n=st.integers(2, 60), seed=st.integers(0, 1000), strong=st.booleans())
@settings(max_examples=5, **INSTANCE)
def test_random_sizes(engine: str, n: int, seed: int, strong: bool) -> None:
    blocks = random_blocks(n, n, n // 5, seed, rank=None if strong else max(1, n // 2))
    solution = QP(engine)(**tensors(blocks))
    assert Status(int(solution.status)) == Status.CONVERGED, solution.messages
    assert kkt(blocks, solution) < 1e-5
    # Of a program that is not strongly convex only the optimal value is unique.
    reference = QP("daqp")(**tensors(blocks))
    Q, p = torch.tensor(blocks["Q"]), torch.tensor(blocks["p"])
    values = [0.5 * s.x @ Q @ s.x + p @ s.x for s in (solution, reference)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ALL)
@given(n=st.integers(60, 500), seed=st.integers(0, 1000))
@settings(max_examples=4, **INSTANCE)
def test_large_sizes(engine: str, n: int, seed: int) -> None:
    # HiGHS is for linear programs; its method for quadratic ones gives up on many of this size.
    blocks = random_blocks(n, n // 2, n // 10, seed, rank=0 if engine == "highs" else None)
    solution = QP(engine)(**tensors(blocks))
    assert Status(int(solution.status)) == Status.CONVERGED, solution.messages
    assert kkt(blocks, solution) < 1e-5


@given(n=st.integers(2, 500), seed=st.integers(0, 1000), kind=st.sampled_from([None, 5, 0]))
@settings(max_examples=6, **INSTANCE)
def test_auto_on_random_sizes(n: int, seed: int, kind: int | None) -> None:
    blocks = random_blocks(n, n // 2, n // 10, seed, rank=kind)
    solution = QP()(**tensors(blocks))
    assert Status(int(solution.status)) == Status.CONVERGED, solution.messages
    # Row by row and absolute: an interior point leaves √gap on constraints that are weakly active.
    assert kkt(blocks, solution) < 1e-4


@pytest.mark.parametrize("engine", EVERY)
def test_float32_in_float32_out(engine: str) -> None:
    blocks = tensors(random_blocks(5, 6, 1, seed=2), torch.float32)
    solution = QP(engine)(**blocks)
    assert solution.x.dtype == torch.float32
    assert all(part.dtype == torch.float32 for part in solution.multipliers)
    # Solved in float64: the answer is that of the float64 program, to float32's own rounding.
    exact = QP("daqp")(**{name: block.double() for name, block in blocks.items()})
    torch.testing.assert_close(solution.x, exact.x.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", EVERY)
def test_badly_scaled_programs_are_solved_or_said_not_to_be(engine: str) -> None:
    r = np.random.default_rng(0)
    scale = 10.0 ** r.integers(-4, 5, size=8)
    blocks = random_blocks(8, 10, 2, seed=5)
    blocks["G"] = blocks["G"] * scale
    blocks["h"] = blocks["G"] @ ((blocks["lower"] + blocks["upper"]) / 2) + 1
    solution = QP(engine)(**tensors(blocks))
    if int(solution.status) == Status.CONVERGED:
        reference = QP("daqp")(**tensors(blocks))
        Q, p = torch.tensor(blocks["Q"]), torch.tensor(blocks["p"])
        values = [0.5 * s.x @ Q @ s.x + p @ s.x for s in (solution, reference)]
        torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    else:
        assert solution.messages[0]


HARD = random_blocks(60, 80, 5, seed=1)


@pytest.mark.parametrize("engine", ALL)
def test_an_iteration_limit_is_a_status(engine: str) -> None:
    blocks = HARD | ({"Q": None} if engine == "highs" else {})
    solution = QP(engine, max_iterations=2)(**tensors(blocks))
    assert Status(int(solution.status)) == Status.MAX_ITERATIONS
    assert solution.messages[0].startswith(f"{engine}: ")


@pytest.mark.parametrize("engine", ["osqp", "clarabel", "highs", "scs", "daqp", "moreau"])
def test_a_time_limit_is_a_status(engine: str) -> None:
    blocks = random_blocks(250, 300, 10, seed=1)
    solution = QP(engine, time_limit=1e-4)(**tensors(blocks))
    assert Status(int(solution.status)) == Status.TIME_LIMIT


@pytest.mark.parametrize("engine", ALL)
def test_tolerances_reach_the_engine(engine: str) -> None:
    if engine in ("daqp", "highs"):
        solution = QP(engine, atol=1e-8)(**tensors(HARD))
    else:
        loose = QP(engine, rtol=1e-2, atol=1e-2)(**tensors(HARD))
        assert int(loose.status) == Status.CONVERGED
        assert kkt(HARD, loose) > 1e-7  # else nothing was loosened
        solution = QP(engine, rtol=1e-8, atol=1e-8)(**tensors(HARD))
    assert int(solution.status) == Status.CONVERGED
    assert kkt(HARD, solution) < 1e-6


def test_the_cases_cover_every_block() -> None:
    used = {name for known in KNOWN.values() for name in known.blocks}
    assert used == set(NAMES)
    assert {known.status for known in KNOWN.values()} == {
        Status.CONVERGED, Status.INFEASIBLE, Status.UNBOUNDED,
    }  # fmt: skip
    assert all(isinstance(known, Known) for known in KNOWN.values())


@pytest.mark.parametrize("engine", ["auto", "piqp", "clarabel", "osqp", "moreau"])
def test_a_polish_does_not_spoil_what_was_solved(engine: str) -> None:
    # Banded, with a thousand variables: many rows are nearly active, and a guess with clearer pairs
    # of slack and multiplier may leave a gradient of 1e-6 behind.
    n, r = 1000, np.random.default_rng(0)
    x0, k = r.normal(size=n), n // 10

    def banded(rows: int) -> sparse.csc_matrix:
        near = np.arange(rows)[:, None] * (n // rows) + r.integers(0, 20, size=(rows, 4))
        where = (np.repeat(np.arange(rows), 4), near.ravel() % n)
        return sparse.csc_matrix((r.normal(size=4 * rows), where), shape=(rows, n))

    G, A = banded(n), banded(k)
    D = sparse.diags([np.ones(n), -np.ones(n - 1)], [0, 1])  # type: ignore[arg-type]
    Q = sparse.csc_matrix(D.T @ D + 0.1 * sparse.eye(n))
    p, h = r.normal(size=n), G @ x0 + r.random(n)
    solution = QP(engine)(Q, p, G, h, A, A @ x0, x0 - 1, x0 + 1)
    assert Status(int(solution.status)) == Status.CONVERGED, solution.messages
    slope = Q @ solution.x.numpy() + p + G.T @ solution.multipliers.inequality.numpy()
    slope += A.T @ solution.multipliers.equality.numpy() + solution.multipliers.bounds.numpy()
    assert np.abs(slope).max() < 1e-8
