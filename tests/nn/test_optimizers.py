"""The folded optimizers as layers: total variation in four ways, every way to call, misuse."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foldopt as fo
from foldopt.nn import FoldedOptimizer, Options, f_fdpg, f_pgd_a, f_pgd_b, f_sqp
from tests.kkt import ball, linear, lowest
from tests.programs import CASES, Case
from tests.quadratic import F64, apply, assert_slopes
from tests.steps.test_splitting import variation

N, M = 6, 4

# -- total variation, with x alone and with its epigraph -----------------------------------------


def energy(z: Tensor, d: Tensor, D: Tensor, weight: Tensor) -> Tensor:
    """½‖x − d‖² + w Σ t, where z = (x, t)."""
    return 0.5 * ((z[:N] - d) ** 2).sum() + weight * z[N:].sum()


def epigraph(z: Tensor, d: Tensor, D: Tensor, weight: Tensor) -> list[Tensor]:
    """|D x| ≤ t."""
    Dx = D @ z[:N]
    return [Dx - z[N:], -Dx - z[N:]]


def with_epigraph(d: Tensor, D: Tensor, weight: Tensor) -> Tensor:
    x = variation(d, D, weight)
    return torch.cat([x, apply(D.expand(*d.shape[:-1], *D.shape[-2:]), x).abs()], -1)


FOUR: dict[str, FoldedOptimizer] = {
    "f_pgd_a": f_pgd_a(energy, epigraph, solver=with_epigraph, shared=(1, 2)),
    "f_pgd_b": f_pgd_b(energy, epigraph, solver=with_epigraph, shared=(1, 2)),
    "f_sqp": f_sqp(energy, epigraph, solver=with_epigraph, shared=(1, 2)),
    "f_fdpg": f_fdpg(solver=variation),
    "f_fdpg, iterated": f_fdpg(options=Options(rtol=1e-13, max_iterations=5000)),
}


@pytest.mark.parametrize("name", FOUR)
def test_total_variation_in_four_ways(name: str) -> None:
    """The gradient in the signal, in the operator and in the weight, by differences."""
    d, D = 2 * torch.randn(3, N, dtype=F64), torch.randn(M, N, dtype=F64)
    weight = torch.tensor(0.4, dtype=F64)
    params = d.requires_grad_(), D.requires_grad_(), weight.requires_grad_()
    exact = variation(*params)
    jumps = apply(D.detach(), exact).abs() > 1e-6
    assert jumps.any()
    assert not jumps.all()
    x = FOUR[name](*params)[:, :N]
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-8)
    assert_slopes(variation, x, params)


def test_a_solver_of_the_dual_serves_as_well() -> None:
    d, D = torch.randn(3, N, dtype=F64), torch.randn(M, N, dtype=F64, requires_grad=True)
    step = fo.steps.fdpg()

    def dual(*params: Any) -> Tensor:
        return fo.unroll(step, torch.zeros(3, M, dtype=F64), *params, iterations=3000)

    layers = [f_fdpg(solver=dual), f_fdpg(), FOUR["f_fdpg"]]
    starts: list[dict[str, Any]] = [{}, {"x0": dual(d, D, 0.3)}, {}]
    weights = torch.randn(3, N, dtype=F64)
    grads = [
        torch.autograd.grad((weights * layer(d, D, 0.3, **start)).sum(), D)[0]
        for layer, start in zip(layers, starts, strict=True)
    ]
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(grads[2], grads[0], rtol=0, atol=1e-7)


def test_dual_or_x_of_another_shape() -> None:
    d, D = torch.randn(3, N), torch.randn(M, N)
    for found in (torch.zeros(3, M + 1), torch.zeros(M)):
        with pytest.raises(
            ValueError, match=r"f_fdpg: expected the dual solution, of shape \(3, 4"
        ):
            f_fdpg(solver=lambda *_, found=found: found)(d, D, 0.3)


# -- every way to call ---------------------------------------------------------------------------

MAKERS: dict[str, Any] = {"f_pgd_a": f_pgd_a, "f_pgd_b": f_pgd_b, "f_sqp": f_sqp}


def case() -> tuple[Case, Tensor]:
    found = CASES["linear, convex"]()
    return found, found.solve(*found.params)


def gradients(x: Tensor, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
    return torch.autograd.grad((weights * x).sum(), params, retain_graph=True)


@pytest.mark.parametrize("name", MAKERS)
def test_every_way_to_bring_a_solution(name: str) -> None:
    """A solver's tensor, numpy, Solution, multipliers; a given solution; the step itself."""
    program, x_star = case()
    functions = program.objective, program.inequality, program.equality
    params = tuple(param.requires_grad_() for param in program.params)
    z = fo.steps.multipliers(*functions)(x_star, *params)
    make = MAKERS[name]

    def solved_by(answer: Any, **options: Any) -> Tensor:
        return make(*functions, solver=lambda *_: answer, **options)(*params)

    ways = {
        "tensor": solved_by(x_star),
        "numpy": solved_by(x_star.numpy()),
        "status": solved_by(fo.Solution(x_star, torch.zeros(3))),
        "fold": make(*functions).fold(x_star if name != "f_sqp" else z, *params),
        "fold beside a solver": make(*functions, solver=lambda *_: 1 / 0).fold(x_star, *params),
        "x0": make(*functions, options=Options(rtol=1e-12))(*params, x0=x_star + 1e-3),
    }
    if name == "f_sqp":
        ways |= {"PrimalDual": solved_by(z), "tuple": solved_by(tuple(z))}
        ways["arrays"] = solved_by([part.numpy() for part in z])
    wanted = gradients(ways.pop("tensor"), params)
    for way, x in ways.items():
        torch.testing.assert_close(x, x_star, rtol=0, atol=1e-8, msg=way)
        torch.testing.assert_close(gradients(x, params), wanted, rtol=1e-6, atol=1e-7)


def test_sqp_finds_the_multipliers_of_a_solution_given_without() -> None:
    c = torch.randn(3, 4, dtype=F64, requires_grad=True)
    r = 1 + torch.rand(3, dtype=F64)
    layer = f_sqp(linear, ball)
    for x_star in (lowest(c.detach(), r), lowest(c.detach(), r).x):
        x = layer.fold(x_star, c, r)
        torch.testing.assert_close(gradients(x, (c,)), gradients(lowest(c, r).x, (c,)))


@pytest.mark.parametrize("adjoint", [fo.Dense(), fo.GMRES(), fo.LFPI(max_iterations=5000)])
@pytest.mark.parametrize("name", MAKERS)
def test_the_adjoint_solver_is_a_choice(name: str, adjoint: Any) -> None:
    program, x_star = case()
    params = tuple(param.requires_grad_() for param in program.params)
    functions = program.objective, program.inequality, program.equality
    grads, methods = [], []
    for options in (Options(), Options(adjoint=adjoint)):
        with fo.record() as seen:
            x = MAKERS[name](*functions, solver=lambda *_: x_star, options=options)(*params)
            grads.append(gradients(x, params))
        methods.append({event.method for event in seen.events})
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-8)
    assert type(adjoint).__name__ in methods[1]


def projected(x: Tensor, c: Tensor) -> Tensor:
    """The projection on the nonnegative part of the plane Σx = 1, as a program."""
    return 0.5 * ((x - c) ** 2).sum()


def make_projection(name: str, **options: Any) -> FoldedOptimizer:
    return MAKERS[name](
        projected, lambda x, c: -x, lambda x, c: x.sum() - 1, **options
    )  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_one_instance_without_a_batch(name: str) -> None:
    c = torch.tensor([0.5, 0.7, -1.0], dtype=F64, requires_grad=True)
    simplex = fo.projections.simplex
    layer = make_projection(name, solver=simplex, options=Options(batch_dims=0))
    x = layer(c)
    torch.testing.assert_close(x, simplex(c))
    torch.testing.assert_close(gradients(x, (c,)), gradients(simplex(c), (c,)))


@pytest.mark.parametrize("name", MAKERS)
def test_float32_stays_float32(name: str) -> None:
    c = torch.tensor([[0.5, 0.7, -1.0]], requires_grad=True)
    solver = lambda c: fo.projections.simplex(c).numpy().astype(np.float64)
    x = make_projection(name, solver=solver)(c)
    assert x.dtype == torch.float32
    wanted = gradients(fo.projections.simplex(c), (c,))
    torch.testing.assert_close(gradients(x, (c,)), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_double_backward(name: str) -> None:
    c = torch.tensor([[0.5, 0.7, -1.0], [0.1, 2.0, 1.9]], dtype=F64, requires_grad=True)
    layer = make_projection(name, solver=fo.projections.simplex)

    def second(x: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(x.exp().sum(), c, create_graph=True)
        return torch.autograd.grad(first.square().sum(), c)[0]

    wanted = second(fo.projections.simplex(c))
    torch.testing.assert_close(second(layer(c)), wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", MAKERS)
def test_inside_a_network(name: str) -> None:
    """Trained weights, in front of the layer and behind it."""
    network = nn.Sequential(
        nn.Linear(2, 3, dtype=F64),
        make_projection(name, solver=fo.projections.simplex),
        nn.Linear(3, 1, dtype=F64),
    )
    twin = copy.deepcopy(network)
    assert twin[1] is not network[1]
    assert network.state_dict().keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    plain = nn.Sequential(network[0], nn.Identity(), network[2])
    features = torch.randn(5, 2, dtype=F64)
    hidden = fo.projections.simplex(plain[0](features))
    wanted = torch.autograd.grad(plain[2](hidden).sum(), list(plain.parameters()))
    for module in (network, twin):
        found = torch.autograd.grad(module(features).sum(), list(module.parameters()))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_what_a_layer_says_of_itself() -> None:
    assert "f_sqp, solver=the step itself" in repr(f_sqp(linear))
    assert "f_pgd_a, solver=with_epigraph" in repr(FOUR["f_pgd_a"])
    assert "solver=Sequential" in repr(f_sqp(linear, solver=nn.Sequential()))
