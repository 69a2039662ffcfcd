"""The KKT matrices of the nonlinear program layer, dense and sparse, by plain linear algebra."""

from __future__ import annotations

import pytest
import torch
from scipy import sparse
from torch import Tensor

from foldopt.nn._nlp.dense import DenseFactor, DenseLocal
from foldopt.nn._nlp.sparse import SparseFactor, SparseLocal

F64 = torch.float64
N, M, K = 6, 3, 2


def blocks(seed: int, shift: float) -> tuple[Tensor, Tensor, Tensor]:
    """H, J and which rows are held: of (g, h) and of the bounds."""
    generator = torch.Generator().manual_seed(seed)
    H = torch.randn(N, N, generator=generator, dtype=F64)
    J = torch.randn(M + K, N, generator=generator, dtype=F64)
    held = torch.rand(M + K + N, generator=generator) < 0.3
    held[:M] = torch.tensor([True, False, False])
    held[M : M + K] = True
    held[M + K :] = torch.arange(N) == seed % N
    return H + H.mT + shift * torch.eye(N, dtype=F64), J, held


def factors(H: Tensor, J: Tensor, held: Tensor) -> tuple[DenseFactor, SparseFactor]:
    none = torch.zeros(1, 0, dtype=F64)
    value, gradient = torch.zeros(1, dtype=F64), torch.zeros(1, N, dtype=F64)
    dense = DenseLocal(value, gradient, none, none, J[None], H[None], True)
    thin = SparseLocal(
        value,
        gradient,
        none,
        none,
        sparse.csr_matrix(J.numpy()),
        sparse.csr_matrix(H.numpy()),
        True,
    )
    return dense.factor(held[None]), thin.factor(held[None])


def rows_of(J: Tensor, held: Tensor) -> Tensor:
    return torch.cat([J, torch.eye(N, dtype=F64)])[held]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shift", [-8.0, 0.0, 8.0])
def test_signs_and_solutions(seed: int, shift: float) -> None:
    H, J, held = blocks(seed, shift)
    W = rows_of(J, held)
    r = len(W)
    matrix = torch.cat([torch.cat([H, W.mT], 1), torch.cat([W, torch.zeros(r, r, dtype=F64)], 1)])
    null = torch.linalg.svd(W)[2][r:]
    minimum = bool((torch.linalg.eigvalsh(null @ H @ null.mT) > 0).all())
    right = torch.linspace(-1, 1, 4 * (N + M + K + N), dtype=F64).reshape(4, 1, -1).sin()
    packed = torch.cat([right[:, 0, :N], right[:, 0, N:][:, held]], -1)
    exact = torch.linalg.solve(matrix, packed.mT).mT
    for factor in factors(H, J, held):
        assert factor.singular.tolist() == [False]
        assert factor.minimum.tolist() == [minimum]
        u, mu = factor.solve(right[..., :N], right[..., N:])
        assert torch.allclose(u[:, 0], exact[:, :N], atol=1e-9)
        assert torch.allclose(mu[:, 0, held], exact[:, N:], atol=1e-9)
        assert (mu[:, 0, ~held] == 0).all()
        a, c = factor.product(u, mu)
        assert torch.allclose(a, right[..., :N], atol=1e-9)
        assert torch.allclose(c[:, 0, held], right[:, 0, N:][:, held], atol=1e-9)
        assert torch.equal(factor.held(right[..., N:])[0, 0], held)
        mine = factor.one(0)
        assert torch.equal(mine[0], H)
        assert torch.equal(mine[1], W)


def test_what_is_singular() -> None:
    H, J, held = blocks(0, 8.0)
    J[M] = 2 * J[0]  # two rows that are held, one direction
    assert all(factor.singular.tolist() == [True] for factor in factors(H, J, held))
    H, J, held = blocks(0, 8.0)
    flat = torch.linalg.svd(rows_of(J, held))[2][-1]  # no curvature in a direction that is free
    P = torch.eye(N, dtype=F64) - torch.outer(flat, flat)
    assert all(factor.singular.tolist() == [True] for factor in factors(P @ H @ P, J, held))


def test_scales_do_not_count() -> None:
    """H of 1e8 beside rows of 1e-5, and variables in units of their own."""
    H, J, held = blocks(3, 8.0)
    units = torch.logspace(-4, 4, N, dtype=F64)
    H, J = 1e8 * H * units * units[:, None], 1e-5 * J * units
    for factor, base in zip(factors(H, J, held), factors(*blocks(3, 8.0)), strict=True):
        assert factor.singular.tolist() == [False]
        assert factor.minimum.tolist() == base.minimum.tolist()
