"""Both ends of a spectrum from a few products."""

from __future__ import annotations

import pytest
import torch

from foldopt.diagnose._lanczos import best_step_size, ends, krylov
from tests.descent import spd
from tests.systems import F64


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_lanczos_is_exact_after_n_products(n: int) -> None:
    A = spd(3, n, 100.0) - 3 * torch.eye(n, dtype=F64)
    start = torch.rand(3, n, dtype=F64) + 0.1
    found = ends(*krylov(lambda v: (A @ v.unsqueeze(-1)).squeeze(-1), start, 20))
    values = torch.linalg.eigvalsh(A)
    torch.testing.assert_close(found.least, values[:, 0])
    torch.testing.assert_close(found.largest, values[:, -1])
    assert float(found.largest_residual.max()) < 1e-9


def test_the_krylov_space_stays_in_the_subspace() -> None:
    """Rounding leads out of it, and dividing by short lengths enlarges that: 1e-12 otherwise."""
    q, _ = torch.linalg.qr(torch.randn(20, 20, dtype=F64))
    T = q[:, :6] @ q[:, :6].T
    u, _ = torch.linalg.qr(torch.randn(20, 20, dtype=F64))
    A = u @ torch.diag(torch.logspace(0, 6, 20, dtype=F64)) @ u.T
    start = (T @ torch.rand(20, dtype=F64)).unsqueeze(0)
    V, _ = krylov(lambda v: v @ A, start, 12, lambda v: v @ T)
    assert float((V - V @ T).abs().max()) < 3e-15
    lengths = torch.linalg.vector_norm(V[0], dim=-1)
    assert lengths.tolist() == pytest.approx([1.0] * 6 + [0.0] * 6)


def test_lanczos_ends_with_the_invariant_space() -> None:
    A = torch.diag(torch.tensor([2.0] * 5 + [7.0] * 5, dtype=F64))
    start = torch.rand(4, 10, dtype=F64) + 0.1
    start[3] = 0
    found = ends(*krylov(lambda v: v @ A, start, 8))
    torch.testing.assert_close(found.least[:3], torch.full((3,), 2.0, dtype=F64))
    torch.testing.assert_close(found.largest[:3], torch.full((3,), 7.0, dtype=F64))
    assert found.largest[3] == 0
    broken = ends(*krylov(lambda v: v @ A * torch.nan, start, 8))
    assert bool(broken.least.isnan().all())
    assert bool(best_step_size(broken).isnan().all())


def test_the_step_size_errs_on_the_small_side() -> None:
    """Too large an α diverges, and Ritz values lie inside the spectrum."""
    for _ in range(20):
        A = spd(1, 150, 1000.0)
        start = torch.rand(1, 150, dtype=F64) + 0.1
        found = ends(*krylov(lambda v: (A @ v.unsqueeze(-1)).squeeze(-1), start, 12))  # noqa: B023
        alpha = float(best_step_size(found))
        largest = float(torch.linalg.eigvalsh(A).max())
        assert 1.7 < alpha * largest < 2
