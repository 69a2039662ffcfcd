"""The inverse of a symmetric matrix: regular, singular, badly scaled; and its derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

from foldopt.operators._inverse import matvec, symmetric_inverse
from foldopt.operators._kkt import kkt_inverse, kkt_matrix
from tests.closed_forms import F64


def symmetric(*shape: int) -> Tensor:
    """Eigenvalues between ±1 and ±2."""
    q, _ = torch.linalg.qr(torch.randn(*shape, shape[-1], dtype=F64))
    values = (1 + torch.rand(shape, dtype=F64)) * torch.randn(shape, dtype=F64).sign()
    return symmetrized((q * values.unsqueeze(-2)) @ q.mT)


def symmetrized(K: Tensor) -> Tensor:
    return (K + K.mT) / 2


def kkt(H: Tensor, A: Tensor) -> Tensor:
    none = H.new_zeros(*H.shape[:-2], 0, H.shape[-1])
    return kkt_matrix(H, none, A, none[..., 0].bool())


# -- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_inverse_of_a_regular_matrix(batch: tuple[int, ...], n: int) -> None:
    K = symmetric(*batch, n)
    torch.testing.assert_close(symmetric_inverse(K), torch.linalg.inv(K), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3)])
def test_no_elements(shape: tuple[int, ...]) -> None:
    K = torch.zeros(shape, dtype=F64, requires_grad=True)
    M = symmetric_inverse(K)
    assert M.shape == shape
    M.sum().backward()
    assert K.grad is not None
    assert K.grad.shape == shape


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1.0, 1e6, 1e9])
def test_no_scale_is_special(size: float) -> None:
    K = symmetric(2, 4)
    M = size * symmetric_inverse(size * K)
    torch.testing.assert_close(M, torch.linalg.inv(K), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rank", [0, 1, 2, 4])
def test_singular_matrix(rank: int) -> None:
    """LAPACK inverts most of these without complaint, to something of the order 1/ε."""
    q, _ = torch.linalg.qr(torch.randn(50, 5, 5, dtype=F64))
    values = torch.randn(50, 5, dtype=F64).sign() * (1 + torch.rand(50, 5, dtype=F64))
    values[:, rank:] = 0
    K = symmetrized((q * values.unsqueeze(-2)) @ q.mT)
    inverse = torch.where(values == 0, 0, 1 / values)
    wanted = (q * inverse.unsqueeze(-2)) @ q.mT
    torch.testing.assert_close(symmetric_inverse(K), wanted, rtol=0, atol=1e-9)


def test_repeated_rows_share_what_belongs_to_them_evenly() -> None:
    H, A = symmetric(3, 4), torch.randn(3, 1, 4, dtype=F64)
    once = symmetric_inverse(kkt(H, A))
    twice = symmetric_inverse(kkt(H, torch.cat([A, A], -2)))
    torch.testing.assert_close(twice[..., :4, :4], once[..., :4, :4])
    both = torch.cat([once[..., :4, 4:] / 2, once[..., :4, 4:] / 2], -1)
    torch.testing.assert_close(twice[..., :4, 4:], both)


def test_regular_and_singular_samples_side_by_side() -> None:
    regular, singular = symmetric(4), torch.ones(4, 4, dtype=F64)
    M = symmetric_inverse(torch.stack([regular, singular, torch.zeros(4, 4, dtype=F64)]))
    torch.testing.assert_close(M[0], torch.linalg.inv(regular))
    torch.testing.assert_close(M[1], singular / 16)
    assert (M[2] == 0).all()


def test_a_row_of_zeros() -> None:
    K = torch.zeros(5, 5, dtype=F64)
    K[:4, :4] = symmetric(4)
    M = symmetric_inverse(K)
    torch.testing.assert_close(M[:4, :4], torch.linalg.inv(K[:4, :4]))
    assert (M[4] == 0).all()


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e6, 1e12])
def test_rows_of_very_different_scale_lose_no_digits(size: float, repeated: bool) -> None:
    """[[s I, Aᵀ], [A, 0]] has the inverse [[P/s, A⁺], [A⁺ᵀ, −s (AAᵀ)⁻¹]], P = I − A⁺A."""
    A = torch.randn(2, 4, dtype=F64)
    rows = torch.cat([A, A]) if repeated else A
    H, none = size * torch.eye(4, dtype=F64), torch.zeros(0, 4, dtype=F64)
    pinv = torch.linalg.pinv(A)
    projection = torch.eye(4, dtype=F64) - pinv @ A
    ways = [kkt_inverse(H, none, rows, none[:, 0].bool())]
    if size > 1:  # a small H beside A the inverse cannot tell from a zero
        ways.append(symmetric_inverse(kkt(H, rows)))
    for M in ways:
        torch.testing.assert_close(size * M[:4, :4], projection, rtol=0, atol=1e-12)
        torch.testing.assert_close(M[:4, 4:] @ rows, pinv @ A, rtol=0, atol=1e-12)
        wanted = -torch.linalg.inv(A @ A.mT) / (4 if repeated else 1)
        torch.testing.assert_close(M[4:6, 4:6] / size, wanted, rtol=1e-10, atol=0)


def test_one_short_row_is_not_a_dependent_one() -> None:
    A = torch.tensor([[1.0, 0, 0], [1e-9, 1e-9, 0]], dtype=F64)
    M = symmetric_inverse(kkt(torch.eye(3, dtype=F64), A))
    free = torch.diag(torch.tensor([0.0, 0, 1], dtype=F64))
    torch.testing.assert_close(M[:3, :3], free, rtol=0, atol=1e-12)
    inverse = torch.linalg.inv(A[:, :2])
    torch.testing.assert_close(M[:2, 3:] / inverse.abs().max(), inverse / inverse.abs().max())


def test_held_multipliers_do_not_enter_the_rest() -> None:
    H, G, A = (torch.randn(3, rows, 4, dtype=F64) for rows in (4, 3, 1))
    H = symmetrized(H)
    active = torch.tensor([[True, False, False], [False] * 3, [True, False, True]])
    M = kkt_inverse(H, G, A, active)
    for sample in range(3):
        held = active[sample].nonzero()[:, 0]
        rows = torch.cat([G[sample, held], A[sample]])
        index = torch.cat([torch.arange(4), 4 + held, torch.tensor([7])])
        wanted = torch.linalg.inv(kkt(H[sample], rows))
        torch.testing.assert_close(M[sample][index][:, index], wanted)
        others = 4 + (~active[sample]).nonzero()[:, 0]
        rest = M[sample][others]
        torch.testing.assert_close(rest, -torch.eye(8, dtype=F64)[others])


def test_what_is_not_finite_goes_through_and_touches_no_other_sample() -> None:
    K = symmetric(4, 3)
    K[1, 0, 2] = torch.nan
    K[2, 1, 1] = torch.inf
    M = symmetric_inverse(K)
    assert torch.isnan(M[1:3]).all()
    torch.testing.assert_close(M[[0, 3]], torch.linalg.inv(K[[0, 3]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_stays(dtype: torch.dtype) -> None:
    K = symmetric(5).to(dtype)
    M = symmetric_inverse(K)
    assert M.dtype == dtype
    error = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(K @ M, torch.eye(5, dtype=dtype), rtol=0, atol=error)
    singular = torch.ones(3, 3, dtype=dtype)
    torch.testing.assert_close(symmetric_inverse(singular), singular / 9, rtol=0, atol=error)


# -- derivatives ----------------------------------------------------------------------------


def of_any(S: Tensor) -> Tensor:
    return symmetric_inverse(symmetrized(S))


@pytest.mark.parametrize("batch", [(), (2,)])
def test_derivatives_of_a_regular_inverse(batch: tuple[int, ...]) -> None:
    S = symmetric(*batch, 3).requires_grad_()
    options: Any = {"check_forward_ad": True, "check_batched_grad": True}
    assert gradcheck(of_any, S, **options)
    assert gradgradcheck(of_any, S, check_fwd_over_rev=True)


def test_derivatives_where_rows_stay_dependent() -> None:
    """Of x, in [x; ν] = M [p; b], with H and A that move while A stays repeated."""
    H, A = symmetric(2, 3).requires_grad_(), torch.randn(2, 1, 3, dtype=F64, requires_grad=True)
    p, b = torch.randn(2, 3, dtype=F64), torch.randn(2, 1, dtype=F64)

    def x(H: Tensor, A: Tensor, times: int = 2) -> Tensor:
        K = kkt(symmetrized(H), A.repeat(1, times, 1))
        right = torch.cat([p, b.repeat(1, times)], -1)
        return matvec(symmetric_inverse(K), right)[..., :3]

    assert gradcheck(x, (H, A), check_forward_ad=True)
    assert gradgradcheck(x, (H, A))
    weight = torch.randn(2, 3, dtype=F64)
    found, wanted = (
        torch.autograd.grad((weight * x(H, A, times)).sum(), (H, A)) for times in (2, 1)
    )
    torch.testing.assert_close(found, wanted)


def test_transforms_agree_with_torch_linalg_inv() -> None:
    S = symmetric(3, 4)

    def ours(S: Tensor) -> Tensor:
        return of_any(S).sin().sum()

    def theirs(S: Tensor) -> Tensor:
        return torch.linalg.inv(symmetrized(S)).sin().sum()

    func = torch.func
    for transform in (
        lambda f: func.vmap(f),
        lambda f: func.vmap(func.grad(f)),
        lambda f: func.grad(lambda S: func.vmap(f)(S).sum()),
        lambda f: func.jacfwd(f),
        lambda f: func.vmap(func.hessian(f)),
        lambda f: func.vmap(func.jacrev(func.jacfwd(f))),
    ):
        torch.testing.assert_close(transform(ours)(S), transform(theirs)(S))


def test_vmap_over_another_dimension() -> None:
    S = symmetric(3, 4)
    found = torch.func.vmap(symmetric_inverse, in_dims=2, out_dims=2)(S.movedim(0, 2))
    torch.testing.assert_close(found, torch.linalg.inv(S).movedim(0, 2))


# -- the product ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4), (5, 3, 4), (2, 5, 3, 4)])
def test_matvec_is_a_loop_over_the_samples(shape: tuple[int, ...]) -> None:
    M, v = torch.randn(shape, dtype=F64), torch.randn(2, 5, 4, dtype=F64)
    each = M.expand(2, 5, 3, 4).reshape(10, 3, 4)
    wanted = torch.stack([m @ w for m, w in zip(each, v.reshape(10, 4), strict=True)])
    torch.testing.assert_close(matvec(M, v), wanted.reshape(2, 5, 3))
