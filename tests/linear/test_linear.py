"""The adjoint's linear solvers on systems with a prescribed Φ."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from foldopt.linear import CG, GMRES, LFPI, Auto, BiCGSTAB, Dense, LinearOperator, solve
from foldopt.status import Status
from tests.systems import (
    F64,
    exact,
    nilpotent,
    operator,
    random_phi,
    relative,
    step_jacobian,
    symmetric,
)

GENERAL = [LFPI(), GMRES(), GMRES(restart=7), BiCGSTAB(), Dense(), Auto(), Auto(dense_up_to=1)]
EVERY = [*GENERAL, CG()]
NOT_ITERATED = [GMRES(), BiCGSTAB(), Dense(), Auto(), Auto(dense_up_to=1)]


def solved(solver: Any, phi: Tensor, b: Tensor, *, transpose: bool = True) -> Tensor:
    solution = solve(solver, operator(phi, transpose=transpose), b)
    assert not Status.failed(solution.status).any(), solution
    assert solution.solved
    assert float(solution.residual.max()) < 1e-8
    return solution.value


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("n", [1, 2, 10, 70])
@pytest.mark.parametrize("solver", GENERAL, ids=str)
def test_contractive(solver: Any, n: int, transpose: bool) -> None:
    phi, b = random_phi(3, n, 0.6), torch.randn(3, n, dtype=F64)
    v = solved(solver, phi, b, transpose=transpose)
    assert relative(v, exact(phi, b, transpose=transpose)) < 1e-9


@pytest.mark.parametrize("n", [1, 5, 40, 80])
@pytest.mark.parametrize("solver", EVERY, ids=str)
def test_symmetric(solver: Any, n: int) -> None:
    phi, b = symmetric(4, n, -0.7, 0.9), torch.randn(4, n, dtype=F64)
    assert relative(solved(solver, phi, b), exact(phi, b)) < 1e-9


@pytest.mark.parametrize("solver", EVERY, ids=str)
def test_zero_phi_returns_the_cotangent(solver: Any) -> None:
    b = torch.randn(3, 40, dtype=F64)
    assert relative(solved(solver, torch.zeros(3, 40, 40, dtype=F64), b), b) < 1e-15


@pytest.mark.parametrize("n", [2, 12, 70])
@pytest.mark.parametrize("solver", GENERAL, ids=str)
def test_nilpotent(solver: Any, n: int) -> None:
    phi = 0.5 * nilpotent(2, n) / n**0.5
    b = torch.randn(2, n, dtype=F64)
    assert relative(solved(solver, phi, b), exact(phi, b)) < 1e-9


@pytest.mark.parametrize("solver", [LFPI(), GMRES(), Dense(), Auto()], ids=str)
def test_nilpotent_with_a_transient_that_grows_first(solver: Any) -> None:
    # ‖Φᵏ‖ rises to 2¹¹ before it vanishes: growth alone is not divergence.
    phi = torch.diag(torch.full((11,), 2.0, dtype=F64), 1).expand(2, 12, 12)
    b = torch.randn(2, 12, dtype=F64)
    assert relative(solved(solver, phi, b), exact(phi, b)) < 1e-9


@pytest.mark.parametrize("n", [1, 6, 20, 70])
@pytest.mark.parametrize("solver", NOT_ITERATED, ids=str)
def test_spectral_radius_above_one(solver: Any, n: int) -> None:
    phi = 1.5 * torch.eye(n, dtype=F64) + 0.2 * random_phi(3, n, 1.0)
    b = torch.randn(3, n, dtype=F64)
    assert relative(solved(solver, phi, b), exact(phi, b)) < 1e-8


@pytest.mark.parametrize("radius", [1.001, 1.05, 3.0])
def test_lfpi_says_that_it_diverges(radius: float) -> None:
    phi = torch.diag(torch.tensor([radius, 0.2], dtype=F64)).unsqueeze(0)
    solution = solve(LFPI(max_iterations=500), operator(phi), torch.ones(1, 2, dtype=F64))
    assert solution.status.tolist() == [Status.DIVERGED]
    assert not solution.solved


def test_lfpi_in_time_is_not_divergence() -> None:
    phi = torch.tensor([[[0.999]]], dtype=F64)
    solution = solve(LFPI(max_iterations=50), operator(phi), torch.ones(1, 1, dtype=F64))
    assert solution.status.tolist() == [Status.MAX_ITERATIONS]


def test_lfpi_runs_the_asked_number_of_terms() -> None:
    phi = random_phi(2, 4, 0.9)
    b = torch.randn(2, 4, dtype=F64)
    v, term = torch.zeros_like(b), b
    for _ in range(7):  # v = Σ_{i<7} Φᵀⁱ b
        v = v + term
        term = (phi.mT @ term.unsqueeze(-1)).squeeze(-1)
    got = solve(LFPI(max_iterations=7, rtol=0.0), operator(phi), b).value
    assert relative(got, v) < 1e-14


@pytest.mark.parametrize("solver", EVERY, ids=str)
def test_zero_cotangent(solver: Any) -> None:
    b = torch.zeros(2, 40, dtype=F64)
    b[1] = 1.0  # one zero sample beside one that is not
    phi = symmetric(2, 40, 0.1, 0.5)
    v = solved(solver, phi, b)
    assert torch.equal(v[0], b[0])
    assert relative(v, exact(phi, b)) < 1e-9


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("solver", EVERY, ids=str)
def test_nothing_to_solve(solver: Any, shape: tuple[int, int]) -> None:
    samples, n = shape
    solution = solve(
        solver, operator(torch.zeros(samples, n, n, dtype=F64)), torch.zeros(shape, dtype=F64)
    )
    assert solution.value.shape == shape
    assert solution.solved


@pytest.mark.parametrize("solver", [GMRES(), BiCGSTAB(), CG()], ids=str)
def test_happy_breakdown(solver: Any) -> None:
    # A = ½ I: the Krylov space has one dimension, and the first iteration is exact.
    phi, b = 0.5 * torch.eye(50, dtype=F64).expand(2, 50, 50), torch.randn(2, 50, dtype=F64)
    solution = solve(solver, operator(phi), b)
    assert relative(solution.value, 2 * b) < 1e-13
    assert int(solution.iterations.max()) == 1


def test_gmres_needs_no_more_products_than_distinct_eigenvalues() -> None:
    values = torch.tensor([0.1, 0.4, 0.8], dtype=F64).repeat(30)
    q, _ = torch.linalg.qr(torch.randn(90, 90, dtype=F64))
    phi = (q @ torch.diag(values) @ q.mT).unsqueeze(0)
    solution = solve(GMRES(), operator(phi), torch.randn(1, 90, dtype=F64))
    assert int(solution.iterations.max()) == 3


@pytest.mark.parametrize("solver", EVERY, ids=str)
def test_a_batch_of_one_equals_its_row(solver: Any) -> None:
    phi = torch.cat([symmetric(1, 33, -0.3, 0.3), symmetric(1, 33, 0.0, 0.97)])
    b = torch.randn(2, 33, dtype=F64)
    both = solve(solver, operator(phi), b)
    for i in range(2):
        alone = solve(solver, operator(phi[i : i + 1]), b[i : i + 1])
        assert relative(both.value[i : i + 1], alone.value) < 1e-12
        assert both.iterations[i] == alone.iterations[0] or isinstance(solver, (Dense, Auto))


def test_zero_rows_are_left_out_of_the_dense_solve() -> None:
    live = torch.zeros(3, 60, dtype=torch.bool)
    live[0, :7], live[1, 20:25] = True, True  # and none in the third sample
    phi = random_phi(3, 60, 0.8) * live.unsqueeze(-1)
    jacobian = step_jacobian(phi)
    probe = jacobian.probe()
    assert probe is not None
    assert torch.equal(probe != 0, live)
    for transpose in (True, False):
        b = torch.randn(4, 3, 60, dtype=F64)
        solution = solve(Dense(), LinearOperator(jacobian, transpose), b)
        assert int(solution.iterations.max()) == 7
        assert relative(solution.value, exact(phi, b, transpose=transpose)) < 1e-12


@pytest.mark.parametrize("solver", EVERY, ids=str)
def test_several_right_hand_sides(solver: Any) -> None:
    phi, b = symmetric(3, 9, -0.5, 0.5), torch.randn(2, 5, 3, 9, dtype=F64)
    assert relative(solved(solver, phi, b), exact(phi, b)) < 1e-9


@pytest.mark.parametrize("solver", EVERY, ids=str)
def test_float32_stays_float32(solver: Any) -> None:
    phi, b = symmetric(2, 40, -0.5, 0.8).float(), torch.randn(2, 40)
    solution = solve(solver, operator(phi), b)
    assert solution.solved
    assert solution.value.dtype == torch.float32
    assert relative(solution.value, exact(phi.double(), b.double()).float()) < 1e-3


def test_auto_chooses() -> None:
    def choice(phi: Tensor, **options: Any) -> str:
        b = torch.ones(phi.shape[:-1], dtype=F64)
        auto = Auto(**options)
        return solve(auto, operator(phi, symmetric=options == {}), b).method

    assert choice(torch.zeros(2, 30, 30, dtype=F64)) == "Auto: identity"
    assert choice(random_phi(2, 30, 0.9)) == "Auto: Dense"
    assert choice(symmetric(2, 200, -0.1, 0.1)) == "Auto: CG"
    assert choice(symmetric(2, 200, -0.1, 0.1), max_iterations=999) == "Auto: LFPI"
    assert choice(symmetric(2, 80, 0.9, 0.99)) == "Auto: Dense"
    assert choice(symmetric(2, 80, 0.9, 0.99), dense_up_to=10) == "Auto: GMRES"


def test_auto_falls_back_when_a_krylov_method_fails() -> None:
    phi = symmetric(1, 100, -0.99, 0.999)
    b = torch.randn(1, 100, dtype=F64)
    solution = solve(Auto(dense_up_to=10, max_iterations=5), operator(phi), b)
    assert solution.method == "Auto: Dense"
    assert relative(solution.value, exact(phi, b)) < 1e-9


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1, 5),
    n=st.integers(1, 40),
    radius=st.floats(0.0, 0.9),
    seed=st.integers(0, 2**20),
    which=st.sampled_from(GENERAL),
)
def test_any_shape(samples: int, n: int, radius: float, seed: int, which: Any) -> None:
    torch.manual_seed(seed)
    phi, b = random_phi(samples, n, radius), torch.randn(samples, n, dtype=F64)
    solution = solve(which, operator(phi), b)
    # A random Φ is far from normal, and a solver may give up: but then it says so.
    for i in range(samples):
        if not Status.failed(solution.status)[i]:
            assert relative(solution.value[i : i + 1], exact(phi, b)[i : i + 1]) < 1e-7
    if isinstance(which, (Dense, Auto, GMRES)):
        assert solution.solved


@pytest.mark.gpu
def test_devices_agree(device: torch.device) -> None:
    phi, b = symmetric(3, 70, -0.5, 0.9).to(device), torch.randn(3, 70, dtype=F64).to(device)
    for solver in EVERY:
        assert relative(solved(solver, phi, b), exact(phi, b)) < 1e-9
