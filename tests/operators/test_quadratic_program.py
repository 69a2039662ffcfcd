"""Quadratic programs: solutions of drawn ones, and what is said where there is none."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import linprog
from torch import Tensor

import foldopt as fo
from foldopt.operators import PrimalDual, quadratic_program
from tests.quadratic import CLARABEL, F64, Blocks, apply, random_program, solve

METHODS = ["active_set", "admm", "qpth"]
NONE = torch.zeros(0, 2, dtype=F64), torch.zeros(0, dtype=F64)


def violations(blocks: Blocks, point: PrimalDual) -> Tensor:
    """How far each optimality condition is from holding, relative to its terms."""
    Q, p, G, h, A, b = blocks
    x, lam, nu = point
    forces = torch.stack([apply(Q, x), p, apply(G.mT, lam), apply(A.mT, nu)])
    # Every condition in the units of its own row.
    rows = [torch.linalg.vector_norm(J, dim=-1).clamp_min(1e-300) for J in (G, A)]
    slack = (h - apply(G, x)) / rows[0]
    size, reach = forces.abs().max() + 1e-300, 1 + x.abs().max()
    inactive = (slack > 1e-7 * reach) & torch.isfinite(slack)
    return torch.stack([
        forces.sum(0).abs().max() / size,
        (-slack / reach).clamp_min(0).sum(),
        ((apply(A, x) - b) / rows[1] / reach).abs().sum(),
        (-lam * rows[0] / size).clamp_min(0).sum(),
        (lam * rows[0] * inactive / size).abs().sum(),
    ])  # fmt: skip


# -- solutions -----------------------------------------------------------------------------------

KINDS = ["plain", "repeated", "redundant", "weak", "linear", "scaled", "scaled rows"]


def drawn(kind: str, n: int, m: int, k: int, seed: int) -> Blocks:
    """A program with a solution, of a kind that is hard in its own way."""
    draw = torch.Generator().manual_seed(seed)
    Q, p, G, h, A, b = random_program(n=n, m=m, k=min(k, n), generator=draw)
    if kind == "repeated":
        G, h = torch.cat([G, 2 * G[:2], G[:1]]), torch.cat([h, 2 * h[:2], h[:1]])
    elif kind == "redundant":
        A, b = torch.cat([A, 3 * A[:1]]), torch.cat([b, 3 * b[:1]])
    elif kind == "weak":  # a constraint that the solution touches without leaning on it
        x = solve(Q, p, G, h, A, b).x
        row = torch.randn(1, n, dtype=F64, generator=draw)
        G, h = torch.cat([G, row]), torch.cat([h, row @ x])
    elif kind == "linear":
        eye, room = torch.eye(n, dtype=F64), torch.rand(2 * n, dtype=F64, generator=draw)
        Q, G, h = 0 * Q, torch.cat([G, eye, -eye]), torch.cat([h, 5 + room])
    elif kind == "scaled":
        size = 10 ** float(12 * torch.rand((), generator=draw) - 6)
        Q, p = size * Q, size * p
    elif kind == "scaled rows":
        size = 10 ** (12 * torch.rand(m, dtype=F64, generator=draw) - 6)
        G, h = size.unsqueeze(-1) * G, size * h
    return Q, p, G, h, A, b


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 8),
    st.integers(0, 10),
    st.integers(0, 3),
    st.integers(0, 10**6),
)
def test_drawn_programs_are_solved(kind: str, n: int, m: int, k: int, seed: int) -> None:
    try:
        blocks = drawn(kind, n, m, k, seed)
    except AssertionError:  # the other solver gave no weakly active constraint
        return
    point = quadratic_program(*blocks)
    assert violations(blocks, point).max() < 1e-9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Clarabel, of its own progress
        try:
            wanted = solve(*blocks, options=CLARABEL).x
        except AssertionError:  # it ends short of a solution on some that are badly scaled
            return
    size = 1 + wanted.abs().max()
    torch.testing.assert_close(point.x / size, wanted / size, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_solution_and_its_multipliers(method: Any) -> None:
    importlib.import_module("qpth") if method != "qpth" else pytest.importorskip("qpth")
    blocks = random_program(4)
    found, wanted = quadratic_program(*blocks, method=method), solve(*blocks)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)
    assert (found.inequality > -1e-12).all()
    assert (found.inequality > 1e-3).any()


def test_a_hundred_variables() -> None:
    blocks = random_program(2, n=100, m=120, k=10)
    torch.testing.assert_close(quadratic_program(*blocks), solve(*blocks), rtol=0, atol=1e-7)


def test_dependent_constraints_share_their_multiplier_by_length() -> None:
    """Least norm, each in the unit in which its row has length one."""
    Q, p = torch.eye(2, dtype=F64), torch.tensor([-3.0, 0.0], dtype=F64)
    G = torch.tensor([[1.0, 0], [1, 0], [4, 0]], dtype=F64)
    for method in ("active_set", "admm"):
        found = quadratic_program(Q, p, G, G[:, 0], method=method)
        torch.testing.assert_close(found.x, torch.tensor([1.0, 0], dtype=F64))
        wanted = torch.tensor([2 / 3, 2 / 3, 1 / 6], dtype=F64)
        torch.testing.assert_close(found.inequality, wanted)


def test_more_active_constraints_than_variables() -> None:
    """At a vertex of three lines the multipliers of least norm may be negative, others are not."""
    negative = 0
    for seed in range(40):
        blocks = drawn("weak", 2, 4, 1, seed)
        point = quadratic_program(*blocks)
        assert violations(blocks, point).max() < 1e-9
        held = (blocks[3] - apply(blocks[2], point.x)).abs() < 1e-9
        J = torch.cat([blocks[2][held], blocks[4]])
        J = J / torch.linalg.vector_norm(J, dim=-1, keepdim=True)
        least = -torch.linalg.pinv(J.mT) @ (blocks[0] @ point.x + blocks[1])
        negative += bool((least[:-1] < -1e-3).any())
    assert negative


def test_a_bound_that_is_infinite_is_none() -> None:
    Q, p, G, h, A, b = random_program(3)
    wide = torch.cat([G, torch.randn(3, 2, 4, dtype=F64)], -2)
    loose = torch.cat([h, torch.full((3, 2), torch.inf, dtype=F64)], -1)
    for method in ("active_set", "admm"):
        found = quadratic_program(Q, p, wide, loose, A, b, method=method)
        torch.testing.assert_close(found.x, solve(Q, p, G, h, A, b).x, rtol=0, atol=1e-9)
        assert (found.inequality[:, -2:] == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_no_samples_and_no_variables(method: Any) -> None:
    blocks = [block.requires_grad_() for block in random_program(0)]
    point = quadratic_program(*blocks, method=method)
    assert [part.shape for part in point] == [(0, 4), (0, 6), (0, 1)]
    assert torch.autograd.grad(point.x.sum(), blocks[1])[0].shape == (0, 4)
    none = quadratic_program(torch.zeros(2, 0, 0), torch.zeros(2, 0), method=method)
    assert none.x.shape == (2, 0)


@pytest.mark.parametrize("method", METHODS)
def test_float32_stays_float32(method: Any) -> None:
    blocks = random_program(4)
    found = quadratic_program(*(block.float() for block in blocks), method=method)
    assert all(part.dtype == torch.float32 for part in found)
    wanted = solve(*blocks)
    torch.testing.assert_close(found.x.double(), wanted.x, rtol=0, atol=1e-3)


# -- no solution ---------------------------------------------------------------------------------

EYE, ONE = torch.eye(2, dtype=F64), torch.ones(2, dtype=F64)
BETWEEN = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64)
NAN = torch.tensor(torch.nan, dtype=F64)
INFEASIBLE, UNBOUNDED = fo.Status.INFEASIBLE, fo.Status.UNBOUNDED
UNSOLVED: dict[str, tuple[fo.Status, Blocks]] = {
    "apart": (INFEASIBLE, (EYE, ONE, BETWEEN, -ONE, *NONE)),
    "equalities": (INFEASIBLE, (EYE, ONE, *NONE, BETWEEN, ONE)),
    "an empty row": (INFEASIBLE, (EYE, ONE, 0 * EYE, ONE - 2 * EYE[0], *NONE)),
    "no constraint": (UNBOUNDED, (0 * EYE, ONE, *NONE, *NONE)),
    "between walls": (UNBOUNDED, (0 * EYE, ONE, BETWEEN, ONE, *NONE)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", UNSOLVED)
def test_no_solution_is_an_error_with_its_status(kind: str, method: Any) -> None:
    """Of that sample: the other one is solved."""
    wanted, bad = UNSOLVED[kind]
    m, k = len(bad[3]), len(bad[5])
    good = EYE, ONE, 0 * BETWEEN[:m], ONE[:m], BETWEEN[:k], torch.tensor([1.0, -1.0])[:k].to(F64)
    blocks = [torch.stack(pair) for pair in zip(good, bad, strict=True)]
    with pytest.raises(fo.FoldError) as caught:
        quadratic_program(*blocks, method=method)
    status = caught.value.status
    assert status is not None
    assert fo.Status.failed(status)[1]
    if method != "qpth":  # which proves nothing, and may fail of the whole batch
        assert status.tolist() == [fo.Status.CONVERGED, wanted]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 10), st.integers(0, 2), st.integers(0, 10**6))
def test_what_is_proved_is_true(n: int, m: int, k: int, seed: int) -> None:
    """Of random programs, by a linear program solver."""
    draw = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=F64, generator=draw)

    R = rand(n, int(torch.randint(0, n + 1, (), generator=draw)))
    blocks = Q, p, G, h, A, b = R @ R.mT, rand(n), rand(m, n), rand(m), rand(k, n), rand(k)
    status = outcome(blocks)
    if status == fo.Status.MAX_ITERATIONS:
        return
    limits: dict[str, Any] = {"A_eq": A.numpy(), "b_eq": b.numpy()} if k else {}
    found = linprog(np.zeros(n), G.numpy(), h.numpy(), bounds=(None, None), **limits)
    feasible = found.status != 2
    assert (status == INFEASIBLE) != feasible
    if status == UNBOUNDED:
        fixed = torch.cat([A, Q]).numpy()
        ray = linprog(p.numpy(), G.numpy(), np.zeros(m), fixed, np.zeros(k + n), bounds=(-1, 1))
        assert ray.fun < -1e-7


def outcome(blocks: Blocks) -> int:
    try:
        point = quadratic_program(*blocks, max_iterations=1000)
    except fo.FoldError as error:
        return -1 if error.status is None else int(error.status)
    assert violations(blocks, point).max() < 1e-9
    return 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", range(6))
def test_nan_is_reported_as_such(block: int, method: Any) -> None:
    blocks = [part.clone() for part in random_program(3)]
    blocks[block][1].view(-1)[0] = torch.nan
    with pytest.raises(fo.FoldError, match="1 NONFINITE") as caught:
        quadratic_program(*blocks, method=method)
    assert caught.value.status is not None
    assert caught.value.status.tolist() == [0, fo.Status.NONFINITE, 0]


@pytest.mark.parametrize("method", METHODS)
def test_a_program_that_is_not_convex(method: Any) -> None:
    Q, *rest = random_program(3)
    Q = Q.clone()
    Q[0] = torch.nan  # hides nothing of the next sample
    Q[2] -= 5 * torch.eye(4, dtype=F64)
    with pytest.raises(ValueError, match=r"Q of sample 2 is not positive semidefinite.*f_sqp"):
        quadratic_program(Q, *rest, method=method)


@pytest.mark.parametrize("method", ["active_set", "admm"])
def test_semidefinite_to_rounding_is_convex(method: Any) -> None:
    _, _, G, h, A, b = random_program()
    R = torch.randn(4, 2, dtype=F64)
    blocks = (R @ R.mT, R @ torch.randn(2, dtype=F64), G, h, A, b)  # bounded from below
    assert violations(blocks, quadratic_program(*blocks, method=method)).max() < 1e-9


def test_qpth_that_stops_short_is_not_believed() -> None:
    """It does where a constraint is weakly active, and returns its first iterate in silence."""
    pytest.importorskip("qpth")
    p = torch.tensor([0.0, -1.0], dtype=F64)
    with pytest.raises(fo.FoldError, match="qpth did not solve the program: 1 MAX_ITERATIONS"):
        quadratic_program(EYE, p, EYE, 0 * ONE, method="qpth")
    torch.testing.assert_close(quadratic_program(EYE, p, EYE, 0 * ONE).x, 0 * ONE)


def test_qpth_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"needs the package qpth \(No .*pip install qpth"):
        quadratic_program(EYE, ONE, method="qpth")
    torch.testing.assert_close(quadratic_program(EYE, ONE).x, -ONE)
