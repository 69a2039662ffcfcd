"""The folded optimizers where something is wrong: failures, masks, misuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.nn import FoldedOptimizer, Options, f_fdpg, f_pgd_a, f_pgd_b, f_sqp
from tests.nn.test_optimizers import MAKERS, gradients, make_projection
from tests.quadratic import F64

simplex = fo.projections.simplex


def points(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=F64, requires_grad=True)


# -- a sample that fails -----------------------------------------------------------------------


def off(c: Tensor) -> Tensor:
    """The projections, but for the second sample's."""
    x = simplex(torch.nan_to_num(c))
    x[1] += 0.3
    return x


@pytest.mark.parametrize("name", MAKERS)
def test_an_answer_that_is_none(name: str) -> None:
    c = points([0.5, 0.7, -1.0], [0.4, 0.3, 0.2], [2.0, 1.9, 0.1])
    with pytest.raises(fo.FoldError, match="1 NOT_FIXED"):
        make_projection(name, solver=off)(c)
    with pytest.warns(fo.FoldWarning, match="1 NOT_FIXED"):
        make_projection(name, solver=off, options=Options(on_failure="warn"))(c)
    wide = fo.Certify(error_above=10.0, warn_above=10.0)
    with pytest.raises(fo.FoldError, match="1 NOT_FIXED"):
        make_projection(name, solver=off, options=Options(certify=fo.Certify(error_above=0.05)))(c)
    make_projection(name, solver=off, options=Options(certify=wide))(c)


@pytest.mark.parametrize("name", MAKERS)
def test_a_masked_sample_has_no_gradient_and_the_others_theirs(name: str) -> None:
    c = points([0.5, 0.7, -1.0], [0.4, 0.3, 0.2], [2.0, 1.9, 0.1])
    (wanted,) = gradients(simplex(c), (c,))
    wanted[1] = 0
    for solver in (
        off,
        lambda c: fo.Solution(simplex(c), torch.tensor([0, fo.Status.DIVERGED, 0])),
    ):
        layer = make_projection(name, solver=solver, options=Options(on_failure="mask"))
        with fo.record() as seen:
            (found,) = gradients(layer(c), (c,))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
        failed = [(event.status > 0).tolist() for event in seen.events if event.kind == "forward"]
        assert [False, True, False] in failed  # beside those of the inner programs


@pytest.mark.parametrize("name", MAKERS)
def test_a_sample_with_nan_is_masked(name: str) -> None:
    c = points([0.5, 0.7, -1.0], [0.4, torch.nan, 0.2], [2.0, 1.9, 0.1])
    whole = c.detach().nan_to_num().requires_grad_()
    (wanted,) = gradients(simplex(whole), (whole,))
    wanted[1] = 0
    layer = make_projection(name, solver=off, options=Options(on_failure="mask"))
    torch.testing.assert_close(gradients(layer(c), (c,))[0], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MAKERS)
def test_a_sample_without_a_feasible_point_is_masked(name: str) -> None:
    c = points([0.5, 0.7, -1.0], [0.4, 0.3, 0.2], [2.0, 1.9, 0.1])
    cap = torch.tensor([[1.0], [-1.0], [1.0]], dtype=F64)
    layer = MAKERS[name](
        lambda x, c, cap: 0.5 * ((x - c) ** 2).sum(),
        lambda x, c, cap: torch.cat([-x, x - cap]),
        lambda x, c, cap: x.sum() - 1,
        solver=lambda c, cap: fo.Solution(simplex(c), torch.tensor([0, fo.Status.INFEASIBLE, 0])),
        options=Options(on_failure="mask"),
    )
    (wanted,) = gradients(simplex(c), (c,))
    wanted[1] = 0
    torch.testing.assert_close(gradients(layer(c, cap), (c,))[0], wanted, rtol=0, atol=1e-9)


def test_a_loop_that_does_not_converge() -> None:
    c = points([0.5, 0.7, -1.0])
    options = Options(max_iterations=2, rtol=1e-12)
    stiff = torch.diag(torch.tensor([1.0, 10.0, 100.0], dtype=F64))
    layer = f_pgd_a(lambda x, c: 0.5 * (x - c) @ stiff @ (x - c), lambda x, c: -x, options=options)
    with pytest.raises(fo.FoldError, match="1 MAX_ITERATIONS"):
        layer(c, x0=torch.ones(1, 3, dtype=F64))


def test_an_infeasible_program() -> None:
    c = points([0.5, 0.7, -1.0])
    for name in ("f_pgd_a", "f_pgd_b"):
        layer = MAKERS[name](lambda x, c: x @ c, lambda x, c: torch.stack([x[0] + 1, 1 - x[0]]))
        with pytest.raises(fo.FoldError, match="INFEASIBLE"):
            layer(c, x0=torch.zeros(1, 3, dtype=F64))


# -- a given solution ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_a_given_solution_that_is_none(name: str) -> None:
    c = points([0.5, 0.7, -1.0])
    with pytest.raises(fo.FoldError, match="1 NOT_FIXED"):
        make_projection(name).fold(simplex(c.detach()) + 0.1, c)


# -- misuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("x0", [None, "x", [0.0, 0.0], [0.0, 0.0, 0.0]])
def test_no_solver_and_no_start(name: str, x0: Any) -> None:
    says = rf"{name}: there is no solver, and so a call needs a tensor to start from.*x0=…"
    with pytest.raises(ValueError, match=says):
        make_projection(name)(points([0.5, 0.7, -1.0]), x0=x0)


def curved(x: Tensor, c: Tensor) -> Tensor:
    return x @ x - 1


@pytest.mark.parametrize("role", ["inequality", "equality"])
@pytest.mark.parametrize("make", [f_pgd_a, f_pgd_b])
def test_a_constraint_that_is_not_affine(make: Any, role: str) -> None:
    c = points([0.5, 0.7, -1.0], [0.1, 0.2, 0.3])
    says = rf"{make.__name__}: {role} is not affine in x.*f_sqp takes any smooth constraint"
    layer = make(lambda x, c: c @ x, **{role: curved})
    for call in (
        lambda: layer(c, x0=torch.zeros(2, 3, dtype=F64)),
        lambda: layer.fold(torch.zeros(2, 3, dtype=F64), c),
        lambda: make(lambda x, c: c @ x, **{role: curved}, solver=simplex)(c),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_a_constraint_that_is_hardly_curved_is_not_affine() -> None:
    layer = f_pgd_a(lambda x, c: c @ x, lambda x, c: x.sum() + 0.01 * x[1] ** 2)
    with pytest.raises(ValueError, match="inequality is not affine in x"):
        layer(points([0.5, 0.7, -1.0]), x0=torch.zeros(1, 3, dtype=F64))


def test_a_constraint_that_only_looks_curved_is_affine() -> None:
    """Of any size, and one that is curved in the params alone."""
    c = points([0.5, 0.7, -1.0])
    for size in (1e-8, 1.0, 1e8):
        layer = f_pgd_a(
            lambda x, c: ((x - c) ** 2).sum(),
            lambda x, c, size=size: size * (c**2 @ x - c @ c),
        )
        x = layer(c, x0=torch.zeros(1, 3, dtype=F64))
        assert torch.isfinite(gradients(x, (c,))[0]).all()


LINEAR: Any = lambda x, c: c @ x


@pytest.mark.parametrize("make", [f_pgd_a, f_pgd_b, f_sqp])
def test_arguments_of_another_kind(make: Any) -> None:
    name = make.__name__
    with pytest.raises(TypeError, match=f"{name}: solver must be callable, got int"):
        make(LINEAR, solver=3)
    with pytest.raises(
        TypeError, match=rf"{name}: options must be nn\.Options\(\.\.\.\), got {{}}"
    ):
        make(LINEAR, options={})
    with pytest.raises(TypeError, match="objective must be callable, got str"):
        make("f")
    with pytest.raises(TypeError, match="inequality must be callable, got list"):
        make(LINEAR, [LINEAR])
    with pytest.raises(TypeError, match="shared must be a sequence of positions"):
        make(LINEAR, shared="c")
    with pytest.raises(ValueError, match="on_failure must be one of"):
        make(LINEAR, options=Options(on_failure="ignore"))  # pyright: ignore
    with pytest.raises((TypeError, ValueError), match="batch_dims"):
        make(LINEAR, options=Options(batch_dims=-1))


@pytest.mark.parametrize("make", [f_pgd_a, f_sqp])
def test_method(make: Any) -> None:
    with pytest.raises(ValueError, match=r"method must be one of .*, got 'newton'"):
        make(LINEAR, method="newton")


@pytest.mark.parametrize("make", [f_pgd_a, f_pgd_b])
def test_step_size(make: Any) -> None:
    says = f"{make.__name__}: step_size must be a number above 0 or 'auto', got 'big'"
    with pytest.raises(ValueError, match=says):
        make(LINEAR, step_size="big")
    for alpha in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="step_size must be finite and above 0"):
            make(LINEAR, step_size=alpha)
    with pytest.raises(TypeError, match="step_size must be a number or a tensor, got list"):
        make(LINEAR, step_size=[1.0])


def test_step_size_of_sqp_and_prox_of_fdpg() -> None:
    with pytest.raises(ValueError, match="step_size must be above 0 and at most 1, got 2"):
        f_sqp(LINEAR, step_size=2)
    wrong: Any = 3
    with pytest.raises(TypeError, match="prox must be callable, got int"):
        f_fdpg(wrong)
    with pytest.raises(TypeError, match="f_fdpg: solver must be callable, got int"):
        f_fdpg(solver=wrong)


def test_the_inner_solver_is_used() -> None:
    def lost(*_: Tensor) -> Any:
        raise KeyError("inner")

    c = points([0.5, 0.7, -1.0])
    for name in MAKERS:
        layer: FoldedOptimizer = make_projection(name, solver=simplex, inner_solver=lost)
        with pytest.raises(KeyError, match="inner"):
            layer(c)


@pytest.mark.parametrize("alpha", [1e-2, 1.0, 1e2])
def test_the_step_size_does_not_change_the_derivative(alpha: float) -> None:
    c = points([0.5, 0.7, -1.0], [0.4, 0.3, 0.2])
    wanted = gradients(simplex(c), (c,))
    for make in ("f_pgd_a", "f_pgd_b"):
        x = make_projection(make, solver=simplex, step_size=alpha)(c)
        torch.testing.assert_close(gradients(x, (c,)), wanted, rtol=0, atol=1e-8)
