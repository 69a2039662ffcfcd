"""The full Jacobian ∂x*/∂c, by Φ, Ψ and (DFP)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from tests.problems import F64, contraction, iterate, network_step

B, N, P = 3, 4, 5


def blocks(full: Tensor) -> Tensor:
    """The diagonal blocks ``(B, n, p)`` of a Jacobian ``(B, n, B, p)``."""
    return torch.stack([full[i, :, i] for i in range(len(full))])


def test_batched_and_shared_params_against_jacrev() -> None:
    step = network_step(contraction(N))
    solver = iterate(step, N)
    c, w = torch.randn(B, P, dtype=F64), torch.randn(P, N, dtype=F64)
    by_c, by_w = fo.jacobian(step, solver(c, w), c, w)
    full_c, full_w = torch.func.jacrev(solver, argnums=(0, 1))(c, w)
    torch.testing.assert_close(by_c, blocks(full_c), rtol=0, atol=1e-10)
    torch.testing.assert_close(by_w, full_w, rtol=0, atol=1e-10)


def test_a_shared_param_as_long_as_the_batch() -> None:
    # M has B rows, but each sample uses all of them.
    m = torch.randn(B, B, dtype=F64)
    c = torch.randn(B, B, dtype=F64)
    got = fo.jacobian(lambda x, m: 0.5 * x + 0.5 * c @ m, c @ m, m)
    wanted = torch.einsum("bi,jk->bjik", c, torch.eye(B, dtype=F64))  # ∂(cM)_j/∂M_ik = c_i δ_jk
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_nested_structures_and_other_leaves() -> None:
    def step(x: dict[str, Tensor], data: tuple[Tensor, Tensor], scale: float) -> dict[str, Tensor]:
        p, i = data
        return {"a": 0.5 * x["a"] + p[:, i], "b": 0.25 * x["b"] + scale * x["a"][:, :1]}

    p, i = torch.randn(2, 3, dtype=F64), torch.arange(3)
    a = 2 * p
    got = fo.jacobian(step, {"a": a, "b": 1.5 * a[:, :1] / 0.75}, (p, i), 1.5)
    by_p, by_i = got["a"][0]
    assert by_i is None
    assert got["a"][1] is None
    torch.testing.assert_close(by_p, 2 * torch.eye(3, dtype=F64).expand(2, 3, 3))
    wanted = torch.tensor([[[4.0, 0.0, 0.0]]], dtype=F64).expand(2, 1, 3)
    torch.testing.assert_close(got["b"][0][0], wanted)


def test_float32_and_no_graph() -> None:
    c = torch.ones(2, 3, requires_grad=True)
    got = fo.jacobian(lambda x, c: 0.5 * x + c, 2 * c.detach(), c)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    torch.testing.assert_close(got, 2 * torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize(
    ("step", "x_star", "message"),
    [
        (lambda x, c: x + 0 * c, torch.ones(2, 2), "2 BREAKDOWN"),
        (lambda x, c: 0.5 * x + c, torch.ones(2, 2), "NOT_FIXED"),
    ],
)
def test_what_has_no_jacobian(step: Any, x_star: Tensor, message: str) -> None:
    with pytest.raises(fo.FoldError, match=message):
        fo.jacobian(step, x_star, torch.ones(2, 2))


def test_inside_a_transform() -> None:
    def inside(c: Tensor) -> Tensor:
        return fo.jacobian(lambda x, c: 0.5 * x + c, torch.full((1, 2), 2.0), c).sum()

    with pytest.raises(fo.FoldError, match=r"inside a torch.func transform"):
        torch.func.grad(inside)(torch.ones(1, 2))
