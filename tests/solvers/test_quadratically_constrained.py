"""Convex programs with quadratic constraints, by cones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from foldopt.solvers.quadratically_constrained import ENGINES, QCQP
from foldopt.status import Solution, Status
from tests import kkt, quadratic
from tests.conic_programs import F64, randn, tensor

INF = float("inf")


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(ENGINES[request.param]["package"])
    return request.param


def risky(scale: float, n: int = 12, samples: int = 3) -> dict[str, Tensor]:
    """max cᵀx, xᵀVx ≤ γ, 1ᵀx = 1, x ≥ 0, with V and γ of a size."""
    L = 0.25 * randn(n, 4)
    V = scale * (L @ L.T + 0.1 * torch.eye(n, dtype=F64))
    even = torch.full((n,), 1 / n, dtype=F64)
    return {
        "p": -0.1 * randn(samples, n, seed=1),
        "Qs": 2 * V[None],
        "rs": 2.25 * (even @ V @ even)[None],
        "A": torch.ones(1, n, dtype=F64),
        "b": torch.ones(1, dtype=F64),
        "lower": torch.zeros(n, dtype=F64),
    }


def constrained(seed: int, n: int = 6) -> dict[str, Tensor]:
    """Three quadratic constraints, of ranks 1, 3 and n, with linear parts; 0 is feasible."""
    R, factors = randn(n, n, seed=seed), randn(3, n, n, seed=seed + 100)
    factors[0, :, 1:] = factors[1, :, 3:] = 0
    return {
        "Q": R @ R.T,
        "p": 5 * randn(n, seed=seed + 200),
        "Qs": factors @ factors.mT,
        "ps": randn(3, n, seed=seed + 300),
        "rs": 0.1 + randn(3, seed=seed + 400).abs(),
        "G": randn(2, n, seed=seed + 500),
        "h": randn(2, seed=seed + 600).abs(),
        "lower": torch.full((n,), -0.5, dtype=F64),
        "upper": torch.full((n,), 0.7, dtype=F64),
    }


def assert_kkt(solution: Solution, blocks: dict[str, Tensor], atol: float = 1e-12) -> None:
    """The optimality conditions of one program, relative to the sizes in it."""
    x, (lam, nu, mu) = solution.x, solution.multipliers
    assert solution.status == Status.CONVERGED, solution.messages
    rs, p = blocks["rs"], blocks["p"]
    curved = blocks["Qs"] @ x
    linear = blocks.get("ps", torch.zeros_like(curved))
    slack = rs - 0.5 * curved @ x - linear @ x
    gradient = p + (curved + linear).T @ lam[: len(rs)] + mu
    sizes = [rs.abs()]
    if "Q" in blocks:
        gradient = gradient + blocks["Q"] @ x
    if "G" in blocks:
        gradient = gradient + blocks["G"].T @ lam[len(rs) :]
        slack = torch.cat([slack, blocks["h"] - blocks["G"] @ x])
        sizes.append(torch.ones_like(blocks["h"]))
    if "A" in blocks:
        gradient = gradient + blocks["A"].T @ nu
        assert (blocks["A"] @ x - blocks["b"]).abs().max() < atol
    assert gradient.abs().max() < atol * p.abs().max()
    assert lam.min() >= 0
    assert (slack / torch.cat(sizes)).min() > -atol
    assert (lam * slack).abs().max() < atol * p.abs().max()
    low, high = blocks.get("lower", tensor(-INF)), blocks.get("upper", tensor(INF))
    assert (x - low).min() >= -atol
    assert (high - x).min() >= -atol
    assert (mu.clamp_min(0) * (high - x).clamp_max(1)).abs().max() < atol
    assert (mu.clamp_max(0) * (x - low).clamp_max(1)).abs().max() < atol


def row(solution: Solution, i: int) -> Solution:
    multipliers = type(solution.multipliers)(*(part[i] for part in solution.multipliers))
    return Solution(solution.x[i], solution.status[i], multipliers, None, solution.messages[i])


@pytest.mark.parametrize("seed", range(4))
def test_optimality_conditions(engine: Any, seed: int) -> None:
    blocks = constrained(seed)
    solution = QCQP(engine)(**{"Q": None, **blocks})
    assert_kkt(solution, blocks)
    assert (solution.multipliers.inequality[:3] > 0.1).any()


def test_optimality_conditions_hold_for_a_constraint_that_is_not_active() -> None:
    blocks = {**constrained(0), "rs": tensor(1e3, 1e3, 1e3)}
    solution = QCQP()(**blocks)
    assert_kkt(solution, blocks)
    assert (solution.multipliers.inequality[:3] == 0).all()
    plain = QCQP()(**{**blocks, "Qs": torch.zeros(3, 6, 6, dtype=F64)})
    torch.testing.assert_close(solution.x, plain.x, rtol=0, atol=1e-12)


def test_linear_rows_in_the_place_of_quadratic_ones(engine: Any) -> None:
    # Qᵢ = 0: the constraint is pᵢᵀx ≤ rᵢ, as if it were a row of G.
    blocks = constrained(1)
    rows = {"Qs": torch.zeros_like(blocks["Qs"]), "ps": blocks["ps"], "rs": blocks["rs"]}
    solution = QCQP(engine)(**{**blocks, **rows})
    assert_kkt(solution, {**blocks, **rows})
    G, h = torch.cat([blocks["ps"], blocks["G"]]), torch.cat([blocks["rs"], blocks["h"]])
    eye = torch.eye(6, dtype=F64)
    exact = quadratic.solve(
        blocks["Q"], blocks["p"], torch.cat([G, eye, -eye]),
        torch.cat([h, blocks["upper"], -blocks["lower"]]),
        torch.zeros(0, 6, dtype=F64), torch.zeros(0, dtype=F64),
    )  # fmt: skip
    torch.testing.assert_close(solution.x, exact.x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-10, 1e6])
def test_portfolio_at_any_scale_of_the_risk_against_cvxpy(engine: Any, scale: float) -> None:
    cp = pytest.importorskip("cvxpy")
    blocks = risky(scale)
    solution = QCQP(engine)(None, **blocks)
    one = risky(1.0)
    for i, p in enumerate(blocks["p"]):
        assert_kkt(row(solution, i), {**blocks, "p": p})
        x = cp.Variable(12)
        V = cp.psd_wrap(0.5 * one["Qs"][0].numpy())
        limits = [cp.quad_form(x, V) <= one["rs"].item(), cp.sum(x) == 1, x >= 0]
        tight = {"tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}
        cp.Problem(cp.Minimize(p.numpy() @ x), limits).solve(solver="CLARABEL", **tight)
        torch.testing.assert_close(solution.x[i], torch.tensor(x.value), rtol=0, atol=1e-5)
        # λ grows as the risk shrinks.
        lam = solution.multipliers.inequality[i] * scale
        torch.testing.assert_close(lam, tensor(limits[0].dual_value.item()), rtol=1e-4, atol=0)


def test_lowest_point_of_a_ball_and_its_multiplier(engine: Any) -> None:
    # kkt.lowest: min cᵀx, xᵀx ≤ r². The constraint is ½xᵀ(2I)x ≤ r², its multiplier the same.
    c = randn(4, 3)
    r = tensor(1e-3, 0.5, 2.0, 1e4)
    Qs = 2 * torch.eye(3, dtype=F64)[None]
    solution = QCQP(engine)(None, c, Qs, None, (r**2)[:, None])
    exact = kkt.lowest(c, r)
    assert solution.status.tolist() == [Status.CONVERGED] * 4
    torch.testing.assert_close(solution.x, exact.x, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        solution.multipliers.inequality, exact.inequality, rtol=1e-11, atol=0
    )


def test_shifted_ball(engine: Any) -> None:
    # ‖x − a‖ ≤ r as ½xᵀIx − aᵀx ≤ ½(r² − aᵀa), far from the origin.
    a, c, r = 30 * randn(3), randn(5, 3, seed=1), 0.5
    eye = torch.eye(3, dtype=F64)[None]
    solution = QCQP(engine)(None, c, eye, -a[None], 0.5 * (r**2 - a @ a)[None])
    nearest = a - r * c / c.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(solution.x, nearest, rtol=0, atol=1e-11)


def test_rows_that_do_not_count(engine: Any) -> None:
    blocks = constrained(0)
    blocks["h"] = tensor(INF, blocks["h"][1].item())
    solution = QCQP(engine)(**blocks)
    assert solution.multipliers.inequality[3] == 0
    assert_kkt(solution, {**blocks, "h": tensor(1e3, blocks["h"][1].item())})


def test_float32_in_float32_out(engine: Any) -> None:
    blocks = {name: block.float() for name, block in risky(1e-6).items()}
    solution = QCQP(engine)(None, **blocks)
    assert {t.dtype for t in (solution.x, *solution.multipliers)} == {torch.float32}
    exact = QCQP(engine)(None, **risky(1e-6))
    torch.testing.assert_close(solution.x, exact.x.float(), rtol=0, atol=1e-4)


def test_numpy_and_shared_sparse_matrices(engine: Any) -> None:
    blocks: dict[str, Any] = {name: block.numpy() for name, block in risky(1.0).items()}
    blocks["A"] = sparse.csr_matrix(blocks["A"])
    solution = QCQP(engine)(None, **blocks)
    torch.testing.assert_close(solution.x, QCQP(engine)(None, **risky(1.0)).x, rtol=0, atol=1e-12)


def test_random_ones_against_scipy() -> None:
    from scipy.optimize import minimize

    blocks = {name: block.numpy() for name, block in constrained(7).items()}
    found = minimize(
        lambda x: 0.5 * x @ blocks["Q"] @ x + blocks["p"] @ x,
        np.zeros(6),
        bounds=list(zip(blocks["lower"], blocks["upper"], strict=True)),
        constraints=[
            {"type": "ineq", "fun": lambda x: blocks["h"] - blocks["G"] @ x},
            {
                "type": "ineq",
                "fun": lambda x: blocks["rs"] - 0.5 * (blocks["Qs"] @ x) @ x - blocks["ps"] @ x,
            },
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    solution = QCQP()(**constrained(7))
    torch.testing.assert_close(solution.x, torch.tensor(found.x), rtol=0, atol=1e-6)


def test_multipliers_follow_from_the_cones_already(monkeypatch: pytest.MonkeyPatch) -> None:
    # Newton steps would find them also from wrong ones: here there are none.
    from foldopt.solvers._conic import quadratic_cones

    # The engine may call a solution nearly solved, as its rounding errors are on this machine: that
    # the point is accepted leaves the judgement to what is asserted.
    monkeypatch.setattr(quadratic_cones, "newton", lambda _, x, held: (x, held, 0.0))
    for seed in range(4):
        blocks = constrained(seed)
        solution = QCQP()(**blocks)
        assert_kkt(solution, blocks, atol=1e-4)
    # All of Qᵢ along p: no square to complete.
    flat = {"Q": None, "p": tensor(-1.0, -2.0), "Qs": torch.diag(tensor(1.0, 0.0))[None]}
    flat |= {"ps": tensor([0.0, 3.0]), "rs": tensor(2.0)}
    solution = QCQP()(**flat)
    # ½x₀² + 3x₁ ≤ 2: λ = ⅔ from x₁, and x₀ = 1/λ.
    torch.testing.assert_close(solution.multipliers.inequality, tensor(2 / 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(solution.x, tensor(1.5, (2 - 1.125) / 3), rtol=0, atol=1e-5)
