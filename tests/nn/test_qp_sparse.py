"""The quadratic program layer on sparse matrices: the same answers as on dense ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from foldopt import solvers
from foldopt.nn import QP, QPSolution
from tests.sparse_programs import (
    F64,
    LAYOUTS,
    MATRICES,
    Blocks,
    Layout,
    dense,
    kept,
    programs,
    sparse,
    wanting,
)

SHAPES = [
    (6, 0, 0, False, 0),
    (8, 6, 0, False, 0),
    (8, 0, 3, False, 0),
    (10, 8, 3, True, 0),
    (10, 14, 2, True, 4),
    (30, 40, 5, True, 10),
    (9, 0, 0, True, 9),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_as_dense(shape: tuple[int, int, int, bool, int], layout: Layout) -> None:
    *sizes, flat = shape
    blocks = programs(*sizes, flat=flat)  # type: ignore[arg-type]
    mine, other = wanting(blocks, layout), wanting(blocks)
    found, expected = QP(multipliers=True)(**mine), QP(multipliers=True)(**other)
    assert isinstance(found, QPSolution)
    assert isinstance(expected, QPSolution)
    torch.testing.assert_close(found.x, expected.x, rtol=1e-9, atol=1e-9)
    for part, wanted in zip(found.multipliers, expected.multipliers, strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-8, atol=1e-8)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(part.shape, generator=g, dtype=F64) for part in (found.x, *found[1])]
    for solution in (found, expected):
        parts = (solution.x, *solution.multipliers)
        loss = sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
        assert isinstance(loss, Tensor)
        loss.backward()
    for name, block in mine.items():
        gradient, wanted = block.grad, other[name].grad
        assert gradient is not None
        assert wanted is not None
        assert gradient.layout == block.layout
        assert gradient.dtype == block.dtype
        if name in MATRICES:
            assert gradient._nnz() == block._nnz()
            wanted = kept(blocks[name], wanted)
        torch.testing.assert_close(dense(gradient), wanted, rtol=1e-7, atol=1e-8)


def on_values(layer: QP, blocks: Blocks, layout: Layout) -> Callable[..., tuple[Tensor, ...]]:
    """The layer as a function of the matrices' values and of the vectors."""
    skeleton = {name: sparse(blocks[name], layout) for name in MATRICES if name in blocks}

    def solve(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(blocks, values, strict=True))
        for name, matrix in skeleton.items():
            if layout == "coo":
                matrix = matrix.coalesce()
                given[name] = torch.sparse_coo_tensor(matrix.indices(), given[name], matrix.shape)
            else:
                given[name] = torch.sparse_csr_tensor(
                    matrix.crow_indices(), matrix.col_indices(), given[name], matrix.shape
                )
        found = layer(**given)
        assert isinstance(found, QPSolution)
        return tuple(part for part in (found.x, *found.multipliers) if part.numel())

    return solve


def values(blocks: Blocks, layout: Layout) -> tuple[Tensor, ...]:
    return tuple(
        (sparse(block, layout).coalesce() if layout == "coo" else sparse(block, layout))
        .values()
        .clone()
        .requires_grad_()
        if name in MATRICES
        else block.clone().requires_grad_()
        for name, block in blocks.items()
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 3, 0, False, 0), (4, 3, 1, True, 2), (4, 0, 2, False, 0)])
def test_both_derivatives(shape: tuple[int, int, int, bool, int], layout: Layout) -> None:
    *sizes, flat = shape
    blocks = programs(*sizes, flat=flat, samples=1)  # type: ignore[arg-type]
    solve = on_values(QP(multipliers=True), blocks, layout)
    at = values(blocks, layout)
    assert torch.autograd.gradcheck(solve, at, atol=1e-6)
    if layout == "coo":  # torch cannot differentiate its own CSR constructor twice (2.13)
        assert torch.autograd.gradgradcheck(solve, at, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_of_a_gradient_on_the_pattern(layout: Layout) -> None:
    blocks = programs(5, 4, 1, True)
    mine, other = wanting(blocks, layout), wanting(blocks)
    second = []
    for at in (mine, other):
        loss = QP()(**at).square().sum()  # type: ignore[union-attr]
        (first,) = torch.autograd.grad(loss, at["Q"], create_graph=True)
        entries = kept(blocks["Q"], dense(first)).square().sum()
        second.append(torch.autograd.grad(entries, (at["Q"], at["p"], at["G"])))
    for (name, gradient), wanted in zip(zip("QpG", second[0], strict=True), second[1], strict=True):
        if name in MATRICES:
            assert gradient.layout == mine[name].layout
            wanted = kept(blocks[name], wanted)
        torch.testing.assert_close(dense(gradient), wanted, rtol=1e-6, atol=1e-8)


# -- a program of some size ------------------------------------------------------------------------


def denoising(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """½‖x − d‖² + λ Σ|xᵢ₊₁ − xᵢ| by tᵢ ≥ |xᵢ₊₁ − xᵢ|, variables (x, t): Q, G, d, λ."""
    g = np.random.default_rng(seed)
    d = np.repeat(g.normal(0, 3, n // 20 + 1), 20)[:n] + g.normal(size=n)
    rows, k = torch.arange(n - 1), n - 1
    one = torch.ones(k, dtype=F64)
    places = [(0, 0, -1), (0, 1, 1), (0, n, -1), (k, 0, 1), (k, 1, -1), (k, n, -1)]
    index = torch.cat([torch.stack([rows + row, rows + column]) for row, column, _ in places], 1)
    entries = torch.cat([sign * one for *_, sign in places])
    diagonal = torch.arange(n).expand(2, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Q = torch.sparse_coo_tensor(diagonal, torch.ones(n, dtype=F64), (n + k, n + k))
        G = torch.sparse_coo_tensor(index, entries, (2 * k, n + k)).to_sparse_csr()
        Q = Q.to_sparse_csr()
    return Q, G, torch.from_numpy(d).requires_grad_(), torch.ones((), dtype=F64).requires_grad_()


def test_total_variation() -> None:
    n = 3000
    Q, G, d, weight = denoising(n)
    p = torch.cat([-d, weight.expand(n - 1)])
    found = QP(multipliers=True)(Q, p, G, torch.zeros(2 * (n - 1), dtype=F64))
    assert isinstance(found, QPSolution)
    x = found.x[:n]
    # Optimal: the running sum s of d − x stays within ±λ, is ±λ at each jump, and ends at zero.
    sums, jump = torch.cumsum(d - x, 0).detach(), x.detach().diff()
    assert float(sums[-1].abs()) < 1e-10
    assert float(sums.abs().max()) < 1 + 1e-10
    at_jumps = sums[:-1][jump.abs() > 1e-9] + jump[jump.abs() > 1e-9].sign()
    assert len(at_jumps) > 50
    assert float(at_jumps.abs().max()) < 1e-10
    # On each piece x is the mean of d there, and a little more or less for λ.
    piece = torch.cumsum(torch.cat([torch.zeros(1), (jump.abs() > 1e-9).double()]), 0).long()
    w = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=F64)
    by_d, by_weight = torch.autograd.grad((x * w).sum(), (d, weight))
    means = torch.zeros(n, dtype=F64).index_add(0, piece, w) / torch.bincount(piece, minlength=n)
    torch.testing.assert_close(by_d, means[piece], rtol=1e-10, atol=1e-10)
    expected = (weight_slope(jump, n, piece) * w).sum()
    torch.testing.assert_close(by_weight, expected, rtol=1e-9, atol=1e-9)


def weight_slope(jump: Tensor, n: int, piece: Tensor) -> Tensor:
    """∂x/∂λ: each piece moves towards its neighbours by the signs of its jumps over its length."""
    signs = torch.where(jump.abs() > 1e-9, jump.sign(), 0)
    push = torch.cat([signs, torch.zeros(1, dtype=F64)]) - torch.cat(
        [torch.zeros(1, dtype=F64), signs]
    )
    total = torch.zeros(n, dtype=F64).index_add(0, piece, push)
    return (total / torch.bincount(piece, minlength=n))[piece]


def test_engines_find_the_same() -> None:
    blocks = programs(60, 80, 10, True, flat=20, samples=1)
    given = {name: sparse(block) if name in MATRICES else block for name, block in blocks.items()}
    x = QP()(**given)
    for engine in ("clarabel", "piqp", "osqp"):
        other = QP(engines=solvers.QP(engine))(**given)
        torch.testing.assert_close(other, x, rtol=1e-9, atol=1e-9)
