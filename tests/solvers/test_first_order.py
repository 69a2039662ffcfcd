"""FISTA and FDPG on batches in PyTorch; what the loops in PyTorch refuse, and all on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt import prox, steps
from foldopt.solvers.admm import ADMM
from foldopt.solvers.fdpg import FDPG
from foldopt.solvers.fista import FISTA
from foldopt.solvers.projected_gradient import ProjectedGradient
from tests.quadratic import apply

F64 = torch.float64
Status = fo.Status


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


# -- FISTA ----------------------------------------------------------------------------------------


def lasso(A: Tensor, **options: Any) -> FISTA:
    """½‖A x − c‖² + 0.3 ‖x‖₁ in c."""
    return FISTA(
        lambda x, c: 0.5 * (apply(A, x) - c).square().sum(-1),
        lambda y, a: prox.l1(y, a * 0.3),
        lambda c: c.new_zeros(*c.shape[:-1], A.shape[-1]),
        **options,
    )


@pytest.mark.parametrize("step_size", ["auto", 0.9])
@pytest.mark.parametrize("restart", [True, False])
def test_lasso_with_an_orthogonal_design(step_size: Any, restart: bool) -> None:
    A, c = torch.linalg.qr(rand(6, 6))[0], 2 * rand(5, 6, seed=1)
    solution = lasso(A, step_size=step_size, restart=restart)(c)
    assert solution.status.tolist() == [0] * 5
    torch.testing.assert_close(solution.x, prox.l1(c @ A, 0.3), rtol=0, atol=1e-9)


def test_lasso_meets_its_optimality_conditions() -> None:
    A, c = rand(8, 20), 3 * rand(4, 8, seed=1)  # wide: not strongly convex
    solution = lasso(A)(c)
    assert solution.status.tolist() == [0] * 4
    x, slope = solution.x, (apply(A, solution.x) - c) @ A
    zero = x == 0
    assert bool(zero.any())
    assert bool((slope[zero].abs() <= 0.3 + 1e-7).all())
    torch.testing.assert_close(slope[~zero], -0.3 * x[~zero].sign(), rtol=0, atol=1e-7)


def test_restarts_save_iterations() -> None:
    A, c = rand(30, 10), rand(3, 30, seed=1)
    few = lasso(A, max_iterations=120)(c)
    assert few.status.tolist() == [0] * 3
    plain = lasso(A, max_iterations=120, restart=False)(c)
    assert plain.status.tolist() == [int(Status.MAX_ITERATIONS)] * 3
    assert plain.messages == ("MAX_ITERATIONS",) * 3


def test_fista_statuses_are_per_sample() -> None:
    def rooted(**options: Any) -> FISTA:
        return FISTA(
            lambda x, c: 0.5 * (x - c.sqrt()).square().sum(-1),  # NaN for negative c
            lambda y, a: prox.l1(y, a * 0.3),
            torch.zeros_like,
            **options,
        )

    c = rand(3, 6).abs()
    alone = rooted()(c[::2])
    c[1] = -1
    solution = rooted()(c)
    assert solution.status.tolist() == [0, int(Status.NONFINITE), 0]
    assert bool(solution.x[1].isnan().all())
    torch.testing.assert_close(solution.x[::2], alone.x, rtol=0, atol=1e-9)
    late = rooted(time_limit=1e-9)(c)
    assert late.status.tolist() == [10, 5, 10]


def test_params_that_are_no_numbers_are_named() -> None:
    bad = torch.tensor([[1.0, torch.nan]], dtype=F64)
    with pytest.raises(ValueError, match=r"param 0 holds NaN at \[0, 1\]"):
        lasso(rand(2, 4))(bad)
    with pytest.raises(ValueError, match="param 2 holds"):
        FDPG()(rand(1, 4), differences(4), torch.inf)


def test_fista_keeps_dtype_and_batch() -> None:
    A, c = rand(6, 4), rand(2, 3, 6, seed=1)
    wide = lasso(A)(c)
    assert wide.x.shape == (2, 3, 4)
    assert wide.status.shape == (2, 3)
    narrow = lasso(A.float())(c.float())
    assert narrow.x.dtype == torch.float32
    torch.testing.assert_close(narrow.x.double(), wide.x, rtol=0, atol=1e-3)
    single = lasso(A)(c[0, 0])
    assert single.status.shape == ()
    torch.testing.assert_close(single.x, wide.x[0, 0], rtol=0, atol=1e-8)


def test_the_fold_of_fista_has_the_right_gradient() -> None:
    A, c = rand(8, 5), (3 * rand(2, 8, seed=1)).requires_grad_()
    solver = lasso(A)
    step = steps.proximal_gradient(solver.objective, solver.prox, step_size=0.01)
    x = fo.folded(step)(solver)(c)
    weights = rand(2, 5, seed=2)
    (grad,) = torch.autograd.grad((weights * x).sum(), c)
    for i in range(2):
        S = A[:, x[i] != 0]
        wanted = S @ torch.linalg.solve(S.mT @ S, weights[i, x[i] != 0])
        torch.testing.assert_close(grad[i], wanted, rtol=1e-7, atol=1e-7)


def test_prox_params() -> None:
    c, weight = rand(3, 4), torch.tensor([[0.1], [0.5], [5.0]], dtype=F64)
    solver = FISTA(
        lambda x, c, _: (x - c).square().sum(-1),
        lambda y, a, weight: prox.l1(y, a * weight),
        lambda c, _: torch.zeros_like(c),
        prox_params=(1,),
    )
    torch.testing.assert_close(solver(c, weight).x, prox.l1(c, weight / 2), rtol=0, atol=1e-9)


# -- FDPG -----------------------------------------------------------------------------------------


def differences(n: int) -> Tensor:
    eye = torch.eye(n, dtype=F64)
    return eye[1:] - eye[:-1]


def test_total_variation() -> None:
    d = rand(4, 12).cumsum(-1)
    solution = FDPG()(d, differences(12), 0.8)
    assert solution.status.tolist() == [0] * 4
    torch.testing.assert_close(solution.x, prox.total_variation(d, 0.8), rtol=0, atol=1e-8)
    # x − d + Dᵀν = 0, with ν within the weight.
    nu = solution.multipliers.equality
    torch.testing.assert_close(solution.x - d + nu @ differences(12), torch.zeros_like(d))
    assert float(nu.abs().max()) <= 0.8 + 1e-12


def test_fdpg_with_another_prox_and_a_batch_of_operators() -> None:
    d, D = rand(3, 5), rand(3, 4, 5, seed=1)
    solution = FDPG(lambda y, factor: prox.l2(y, factor.squeeze(-1)))(d, D)
    assert solution.status.tolist() == [0] * 3
    # g = ‖·‖: the multiplier of D x = z is the unit vector of z, or shorter where z = 0.
    z, nu = apply(D, solution.x), solution.multipliers.equality
    for i in range(3):
        if float(z[i].norm()) > 1e-6:
            torch.testing.assert_close(nu[i], z[i] / z[i].norm(), rtol=0, atol=1e-7)
        assert float(nu[i].norm()) <= 1 + 1e-9


def test_fdpg_statuses() -> None:
    d = rand(3, 30).cumsum(-1)
    short = FDPG(max_iterations=3)(d, differences(30), 5.0)
    assert short.status.tolist() == [1] * 3
    d[0] = 1e308  # (and so D d and its square overflow)
    d[0, 1::2] = -1e308
    solution = FDPG()(d, differences(30), 0.1)
    assert solution.status.tolist() == [5, 0, 0]
    assert bool(solution.x[0].isnan().all())


def test_the_fold_of_fdpg_has_the_right_gradient() -> None:
    d, D, weight = rand(2, 6).cumsum(-1), differences(6), torch.tensor(0.4, dtype=F64)
    weight.requires_grad_()
    layer = fo.nn.f_fdpg(solver=FDPG())
    x = layer(d, D, weight)
    weights = rand(2, 6, seed=3)
    (grad,) = torch.autograd.grad((weights * x).sum(), weight)
    step = 1e-6
    ends = [(weights * prox.total_variation(d, 0.4 + s)).sum() for s in (step, -step)]
    torch.testing.assert_close(grad, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)


# -- arguments ------------------------------------------------------------------------------------

ZERO = torch.zeros(2)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: FISTA(1, prox.l1, ZERO), TypeError, "objective must be callable"),  # pyright: ignore[reportArgumentType]
        (lambda: FISTA(torch.sum, prox.l1, ZERO, step_size=0), ValueError, "step_size must be"),
        (lambda: FISTA(torch.sum, prox.l1, None)(), TypeError, "start must be a tensor"),
        (
            lambda: FISTA(torch.sum, prox.l1, ZERO, prox_params=(1,))(ZERO),
            ValueError,
            r"prox_params=\(1,\): there are 1 param",
        ),
        (lambda: FISTA(torch.sum, prox.l1, torch.tensor(1.0))(), ValueError, "shape"),
        (lambda: FDPG(3), TypeError, "prox must be callable"),  # pyright: ignore[reportArgumentType]
        (lambda: FDPG()(ZERO, None), TypeError, "d and D must be floating tensors"),  # pyright: ignore[reportArgumentType]
        (lambda: FDPG()(ZERO, torch.zeros(1, 3)), ValueError, r"got D \(1, 3\) and d \(2,\)"),
        (lambda: FDPG()(ZERO, torch.zeros(1, 2)), TypeError, r"call it as \(d, D, weight\)"),
        (
            lambda: ProjectedGradient(torch.sum, torch.relu, ZERO, restarts=0),
            ValueError,
            "restarts must be an integer of 1 or more",
        ),
        (
            lambda: ProjectedGradient(torch.sum, torch.relu, ZERO, spread=-1),
            ValueError,
            "spread must be a finite number",
        ),
        (lambda: ADMM()(-torch.eye(2), ZERO), ValueError, "solvers.ADMM: Q of sample 0"),
        (lambda: ADMM()(torch.eye(3), ZERO), ValueError, "solvers.ADMM: Q must have shape"),
        (
            lambda: ADMM()(torch.eye(2), ZERO, lower=torch.zeros(3)),
            ValueError,
            r"lower must have shape \(2,\)",
        ),
        (
            lambda: ADMM()(torch.eye(2), ZERO, upper=ZERO.double()),
            TypeError,
            "upper must be a tensor of torch.float32",
        ),
    ],
)
def test_errors(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


# -- GPU ------------------------------------------------------------------------------------------


def sine(x: Tensor, c: Tensor) -> Tensor:
    return (c * x).sin().sum(-1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_all_run_on_a_gpu() -> None:
    c = rand(3, 4).cuda()
    A = rand(6, 4).cuda()
    assert lasso(A)(rand(3, 6).cuda()).x.is_cuda
    assert FDPG()(c, differences(4).cuda(), 0.3).x.is_cuda
    assert ProjectedGradient(sine, lambda y: y.clamp(-2, 2), torch.zeros_like)(c).x.is_cuda
    assert ADMM()(torch.eye(4, dtype=F64).cuda(), c).x.is_cuda
