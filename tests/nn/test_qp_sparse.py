"""The quadratic program layer on sparse matrices: the same answers as on dense ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import solvers
from foldopt.nn import QP, QPSolution

F64 = torch.float64
NAMES = ("Q", "p", "G", "h", "A", "b", "lower", "upper")
MATRICES = ("Q", "G", "A")
Layout = Literal["csr", "coo"]
LAYOUTS: tuple[Layout, ...] = ("csr", "coo")
Blocks = dict[str, Tensor]


def sparse(dense: Tensor, layout: Layout = "csr") -> Tensor:
    """The entries of a matrix that are not zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch: that sparse tensors are young
        found = dense.to_sparse() if layout == "coo" else dense.to_sparse_csr()
        # Torch warns once of a check that it leaves out: when a tensor is made of parts.
        torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (1, 1))
    return found


def programs(
    n: int, m: int, k: int, bounds: bool, *, samples: int = 3, flat: int = 0, seed: int = 0
) -> Blocks:
    """One pattern and one set of matrices, with p, h, b and the bounds of each sample.

    The last ``flat`` variables have no curvature, and are held between bounds.
    """
    g = torch.Generator().manual_seed(seed)

    def thin(rows: int) -> Tensor:
        kept = torch.rand(rows, n, generator=g) < 3 / n
        kept[torch.arange(rows), torch.randint(n, (rows,), generator=g)] = True
        return torch.where(kept, torch.randn(rows, n, generator=g, dtype=F64), 0)

    R = thin(n)
    Q = R @ R.mT + 0.1 * torch.eye(n, dtype=F64)
    Q[n - flat :], Q[:, n - flat :] = 0, 0
    G, A = thin(m), thin(k)
    inside = torch.randn(samples, n, generator=g, dtype=F64)
    width = 0.1 + torch.rand(2, samples, n, generator=g, dtype=F64)
    found = {"Q": Q, "p": 2 * torch.randn(samples, n, generator=g, dtype=F64)}
    if m:
        found |= {"G": G, "h": inside @ G.mT + torch.rand(samples, m, generator=g, dtype=F64)}
    if k:
        found |= {"A": A, "b": inside @ A.mT}
    if bounds:
        found |= {"lower": inside - width[0], "upper": inside + width[1]}
    return found


def wanting(blocks: Blocks, layout: Layout | None = None) -> Blocks:
    return {
        name: (
            sparse(block, layout) if layout and name in MATRICES else block.clone()
        ).requires_grad_()
        for name, block in blocks.items()
    }


def dense(block: Tensor) -> Tensor:
    return block.to_dense() if block.layout != torch.strided else block


def kept(pattern: Tensor, gradient: Tensor) -> Tensor:
    """A gradient on the pattern of a matrix only."""
    return torch.where(pattern != 0, gradient, 0)


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


def test_each_sample_its_own_matrices() -> None:
    one, two = programs(6, 5, 2, True, samples=2), programs(6, 5, 2, True, samples=2, seed=0)
    scale = torch.tensor([1.0, 1.7], dtype=F64)[:, None, None]
    both = {name: block * scale if name in MATRICES else block for name, block in one.items()}
    mine = wanting(both, "csr")
    other = wanting(both)
    x, expected = QP()(**mine), QP()(**other)
    assert isinstance(x, Tensor)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)
    x.square().sum().backward()
    expected.square().sum().backward()
    for name, block in mine.items():
        gradient, wanted = block.grad, other[name].grad
        assert gradient is not None
        assert wanted is not None
        wanted = kept(both[name], wanted) if name in MATRICES else wanted
        torch.testing.assert_close(dense(gradient), wanted, rtol=1e-7, atol=1e-8)
    # The patterns may differ, as long as they have the same number of entries.
    two["G"] = torch.stack([one["G"], one["G"].flip(-1)])
    two["h"] = two["h"].abs() + 1
    del two["A"], two["b"], two["lower"], two["upper"]
    given = {name: sparse(block) if name in MATRICES else block for name, block in two.items()}
    torch.testing.assert_close(QP()(**given), QP()(**two), rtol=1e-9, atol=1e-9)


def test_shared_vectors_one_program_and_several_batch_dimensions() -> None:
    blocks = programs(6, 5, 2, True, samples=6)
    given = {name: sparse(block) if name in MATRICES else block for name, block in blocks.items()}
    flat = QP(multipliers=True)(**given)
    shaped = {
        name: block if name in MATRICES else block.reshape(2, 3, -1)
        for name, block in given.items()
    }
    grid = QP(multipliers=True)(**shaped)
    alone = QP(multipliers=True)(
        **{name: block if name in MATRICES else block[4] for name, block in given.items()}
    )
    assert isinstance(flat, QPSolution)
    assert isinstance(grid, QPSolution)
    assert isinstance(alone, QPSolution)
    assert grid.x.shape == (2, 3, 6)
    assert grid.status.shape == (2, 3)
    assert alone.status.shape == ()
    torch.testing.assert_close(grid.x.reshape(6, 6), flat.x, rtol=0, atol=0)
    torch.testing.assert_close(alone.x, flat.x[4], rtol=1e-12, atol=1e-12)
    # A vector that all samples share gets the sum of the gradients.
    h = blocks["h"][4].clone().requires_grad_()
    many = h.detach().expand(6, -1).clone().requires_grad_()
    for limit in (h, many):
        x = QP()(**{**given, "h": limit + 1.0, "A": None, "b": None, "lower": -9, "upper": 9})
        assert isinstance(x, Tensor)
        x.square().sum().backward()
    assert h.grad is not None
    assert many.grad is not None
    assert h.grad.abs().sum() > 0
    torch.testing.assert_close(h.grad, many.grad.sum(0), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_single_precision(layout: Layout) -> None:
    blocks = programs(6, 5, 2, True)
    small = wanting({name: block.float() for name, block in blocks.items()}, layout)
    large = wanting(blocks, layout)
    x, y = QP()(**small), QP()(**large)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-4)
    x.sum().backward()
    y.sum().backward()
    for name, block in small.items():
        gradient, wanted = block.grad, large[name].grad
        assert gradient is not None
        assert wanted is not None
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(dense(gradient).double(), dense(wanted), rtol=1e-2, atol=1e-3)


def test_entries_in_one_place_are_added_up() -> None:
    where = torch.tensor([[0, 0, 1], [0, 0, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Q = torch.sparse_coo_tensor(where, torch.tensor([0.5, 1.5, 4.0]), (2, 2))
    Q.requires_grad_()
    x = QP()(Q, torch.tensor([2.0, 2.0]))
    assert isinstance(x, Tensor)
    torch.testing.assert_close(x.detach(), torch.tensor([-1.0, -0.5]))
    x.sum().backward()
    assert Q.grad is not None
    # ∂x/∂Qᵢᵢ = −xᵢ / Qᵢᵢ
    torch.testing.assert_close(Q.grad.to_dense(), torch.diag(torch.tensor([0.5, 0.125])))


def test_transforms() -> None:
    blocks = programs(5, 4, 1, True, samples=2)
    given = {name: sparse(block) if name in MATRICES else block for name, block in blocks.items()}

    def of_p(p: Tensor) -> Tensor:
        found = QP()(**{**given, "p": p})
        assert isinstance(found, Tensor)
        return found

    p = blocks["p"]
    reverse = torch.func.jacrev(of_p)(p)
    torch.testing.assert_close(torch.func.jacfwd(of_p)(p), reverse, rtol=1e-9, atol=1e-10)
    several = torch.stack([p, 1.5 * p, -p])
    mapped = torch.func.vmap(of_p)(several)
    torch.testing.assert_close(mapped[1], of_p(1.5 * p), rtol=1e-12, atol=1e-12)
    gradient = torch.func.vmap(torch.func.grad(lambda p: of_p(p).square().sum()))(several)
    (expected,) = torch.autograd.grad(of_p(q := (1.5 * p).requires_grad_()).square().sum(), q)
    torch.testing.assert_close(gradient[1], expected, rtol=1e-9, atol=1e-10)


def test_compiled() -> None:
    blocks = programs(5, 4, 1, True, samples=2)
    given = {name: sparse(block) if name in MATRICES else block for name, block in blocks.items()}
    layer = QP()

    def of_p(p: Tensor) -> Tensor:
        x = layer(**{**given, "p": 2 * p})
        assert isinstance(x, Tensor)
        return 3 * x

    compiled = torch.compile(of_p, backend="eager")
    p, q = (blocks["p"].clone().requires_grad_() for _ in range(2))
    torch.testing.assert_close(compiled(p), of_p(q), rtol=0, atol=0)
    compiled(p).square().sum().backward()
    of_p(q).square().sum().backward()
    torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=0)


def test_the_record_holds_both_passes() -> None:
    blocks = wanting(programs(6, 5, 2, True), "csr")
    with fo.record() as seen:
        QP()(**blocks).sum().backward()  # type: ignore[union-attr]
    assert [event.kind for event in seen] == ["forward", "adjoint"]
    assert seen[1].method == "sparse KKT"
    assert seen[0].messages == ()
    assert all(float(event.residual.max()) < 1e-10 for event in seen)


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
