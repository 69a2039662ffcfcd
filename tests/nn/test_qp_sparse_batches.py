"""The sparse quadratic program layer: batches, dtypes, layouts, transforms, and its record."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.nn import QP, QPSolution
from tests.sparse_programs import (
    F64,
    LAYOUTS,
    MATRICES,
    Layout,
    dense,
    kept,
    programs,
    sparse,
    wanting,
)


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
