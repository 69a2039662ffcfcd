"""The projection on a polyhedron: what makes it a projection, its Jacobian, misuse."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import foldopt as fo
from foldopt.operators import polyhedron, quadratic_program
from tests.closed_forms import jacobian
from tests.quadratic import F64, apply, random_program, solve

METHODS = ["active_set", "admm", "qpth"]
SETS = st.tuples(st.integers(1, 6), st.integers(0, 7), st.integers(0, 2), st.integers(0, 10**6))


def drawn(n: int, m: int, k: int, seed: int) -> tuple[Tensor, ...]:
    """(G, h, A, b) of a set that is not empty, sometimes with a row twice."""
    draw = torch.Generator().manual_seed(seed)
    _, _, G, h, A, b = random_program(n=n, m=m, k=min(k, n - 1), generator=draw)
    if seed % 3 == 0:
        G, h = torch.cat([G, 2 * G[:1]]), torch.cat([h, 2 * h[:1]])
    return G, h, A, b


@settings(deadline=None, max_examples=40)
@given(SETS, st.floats(-2, 2))
def test_it_is_a_projection(sizes: tuple[int, int, int, int], exponent: float) -> None:
    G, h, A, b = rows = drawn(*sizes)
    draw = torch.Generator().manual_seed(sizes[-1])
    y = 10**exponent * torch.randn(6, sizes[0], dtype=F64, generator=draw)
    x = polyhedron(y, *rows)
    size = 1 + y.abs().max() + x.abs().max()
    assert (apply(G, x) - h).max() < 1e-9 * size if len(h) else True
    assert (apply(A, x) - b).abs().max() < 1e-9 * size if len(b) else True
    torch.testing.assert_close(polyhedron(x, *rows), x, rtol=0, atol=float(1e-9 * size))
    # (y − x)ᵀ(z − x) ≤ 0 for every z of the set, and so for the other projections.
    products = torch.einsum("in,ijn->ij", y - x, x.unsqueeze(0) - x.unsqueeze(1))
    assert products.max() < 1e-8 * size**2
    # And therefore no longer apart than before.
    assert (torch.cdist(x, x) <= torch.cdist(y, y) + 1e-7 * size).all()


@settings(deadline=None, max_examples=25)
@given(SETS)
def test_its_jacobian_projects_on_the_null_space_of_the_active_rows(
    sizes: tuple[int, int, int, int],
) -> None:
    rows = drawn(*sizes)
    n = sizes[0]
    y = 3 * torch.randn(n, dtype=F64, generator=torch.Generator().manual_seed(sizes[-1]))
    point = quadratic_program(torch.eye(n, dtype=F64), -y, *rows)
    held = point.inequality > 1e-9
    J = torch.cat([rows[0][held], rows[2]])
    wanted = torch.eye(n, dtype=F64) - torch.linalg.pinv(J) @ J
    found = torch.func.jacrev(lambda y: polyhedron(y, *rows))(y)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: Any) -> None:
    if method == "qpth":
        pytest.importorskip("qpth")
    _, _, G, h, A, b = (block.requires_grad_() for block in random_program(3))
    y = (2 * torch.randn(3, 4, dtype=F64)).requires_grad_()
    x = polyhedron(y, G, h, A, b, method=method)
    eye = torch.eye(4, dtype=F64)
    torch.testing.assert_close(x, solve(eye, -y, G, h, A, b).x, rtol=0, atol=1e-7)
    weights, leaves = torch.randn_like(y), (y, G, h, A, b)
    found = torch.autograd.grad((weights * x).sum(), leaves)
    exact = torch.autograd.grad((weights * polyhedron(y, G, h, A, b)).sum(), leaves)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5 if method == "qpth" else 1e-9)


@pytest.mark.parametrize("method", ["active_set", "admm"])
def test_all_derivatives(method: Any) -> None:
    G = torch.tensor([[[1.0, 1.0, 0.2]]], dtype=F64, requires_grad=True)
    h = torch.tensor([[1.0]], dtype=F64, requires_grad=True)
    y = torch.tensor([[2.0, 1.0, 0.5]], dtype=F64, requires_grad=True)

    def project(*leaves: Tensor) -> Tensor:
        return polyhedron(*leaves, method=method)

    assert gradcheck(project, (y, G, h), check_forward_ad=True)
    assert gradgradcheck(project, (y, G, h))


def test_known_sets() -> None:
    y = 2 * torch.randn(5, 4, dtype=F64)
    eye, one = torch.eye(4, dtype=F64), torch.ones(4, dtype=F64)
    simplex = polyhedron(y, -eye, 0 * one, one[None], one[:1])
    torch.testing.assert_close(simplex, fo.projections.simplex(y), rtol=0, atol=1e-9)
    box = polyhedron(y, torch.cat([eye, -eye]), torch.cat([one, one]))
    torch.testing.assert_close(box, y.clamp(-1, 1), rtol=0, atol=1e-9)
    torch.testing.assert_close(polyhedron(y), y)
    J = jacobian(lambda y: polyhedron(y, -eye, 0 * one, one[None], one[:1]), y[0])
    torch.testing.assert_close(J, jacobian(fo.projections.simplex, y[0]), rtol=0, atol=1e-9)


def test_options_reach_the_program() -> None:
    _, _, G, h, A, b = random_program(3, m=8)
    y = 3 * torch.randn(3, 4, dtype=F64)
    x = polyhedron(y, G, h, A, b)
    with pytest.raises(fo.FoldError, match="MAX_ITERATIONS"):
        polyhedron(y, G, h, A, b, max_iterations=0)
    near = polyhedron(y, G, h, A, b, max_iterations=0, start=x)
    torch.testing.assert_close(near, x, rtol=0, atol=1e-9)
    with pytest.raises(fo.FoldError, match="must return"):
        polyhedron(y, G, h, A, b, solver=lambda *blocks: blocks[1])


@pytest.mark.parametrize("y", [1.0, torch.tensor(1.0), torch.ones(2, dtype=torch.int64)])
def test_a_point_of_another_kind(y: Any) -> None:
    with pytest.raises(TypeError, match="polyhedron: y must be a floating-point tensor"):
        polyhedron(y)


def test_an_empty_set() -> None:
    G, h = torch.tensor([[1.0], [-1.0]]), torch.tensor([-1.0, -1.0])
    with pytest.raises(fo.FoldError, match="1 INFEASIBLE"):
        polyhedron(torch.zeros(1), G, h)
