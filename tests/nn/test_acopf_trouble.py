"""AC optimal power flow as a layer: batches, failures, wrong arguments, and what it says."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import foldopt as fo
from foldopt.nn.acopf import ACOPF, ACOPFSolution, Dispatch, read_grid
from foldopt.status import FoldError, Status
from tests.acopf_cases import params_of, small

pytest.importorskip("pypower")
pytest.importorskip("casadi")

F64 = torch.float64


@pytest.fixture(scope="module")
def layer() -> ACOPF:
    return ACOPF(small(), prices=True, executor="serial")


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
