"""Grids and their power flows: against PYPOWER and finite differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from foldopt.nn._acopf.derivatives import Costs, Derivatives
from foldopt.nn._acopf.flow import flows
from foldopt.nn._acopf.network import Network
from foldopt.nn._acopf.program import model_of
from foldopt.nn.acopf import Grid, read_grid
from tests.acopf_cases import small

pytest.importorskip("pypower")


CASES = ("case9", "case14", "case30", "case57", "case118", "case300")


def point_of(grid: Grid, seed: int = 0) -> np.ndarray:
    return grid.start() + 0.1 * np.random.default_rng(seed).normal(size=grid.variables)


def costs_of(network: Network) -> Costs:
    grid = network.grid
    return Costs.of(network, grid.pd, grid.qd, grid.quadratic, grid.linear)


def dense(places: Any, entries: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return csr_matrix((entries, (places.rows, places.columns)), shape=shape).toarray()


# -- against PYPOWER ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_balances_and_flows_are_those_of_pypowers_admittance_matrices(case: str) -> None:
    from pypower import api, ext2int, makeYbus

    tables = ext2int.ext2int(getattr(api, case)())
    Y, Y_f, Y_t = makeYbus.makeYbus(tables["baseMVA"], tables["bus"], tables["branch"])
    grid = read_grid(case)
    network, (n, g) = Network(grid), grid.sizes
    z = point_of(grid)
    V = z[n : 2 * n] * np.exp(1j * z[:n])
    at = np.zeros((n, g))
    at[grid.generators, np.arange(g)] = 1
    made = at @ z[2 * n : 2 * n + g].astype(complex)
    made[grid.hosts] += 1j * z[2 * n + g :]
    wanted = V * (Y @ V).conj() + (grid.pd + 1j * grid.qd) / grid.base - made
    found = Derivatives(network).constraints(z, costs_of(network))[-2 * n :]
    assert np.allclose(found[:n] + 1j * found[n:], wanted, rtol=0, atol=1e-11)
    power = flows(Derivatives(network).ends(z), network.flows)
    for end, matrix in ((0, Y_f), (1, Y_t)):
        wanted = V[grid.ends[end]] * (matrix @ V).conj()
        found = power[2 * end] + 1j * power[2 * end + 1]
        assert np.allclose(found, wanted, rtol=0, atol=1e-11)


def test_a_power_flow_that_pypower_solves_balances() -> None:
    from pypower import api

    quiet = api.ppoption(VERBOSE=0, OUT_ALL=0, PF_TOL=1e-11)
    found, success = api.runpf(api.case57(), quiet)
    assert success
    grid = read_grid(found)
    z = np.concatenate(
        [
            np.deg2rad(found["bus"][:, 8]),
            found["bus"][:, 7],
            found["gen"][:, 1] / grid.base,
            found["gen"][:, 2] / grid.base,
        ]
    )
    network = Network(grid)
    rows = Derivatives(network).constraints(z, costs_of(network))
    assert np.abs(rows[-2 * len(grid.buses) :]).max() < 1e-9
    # Its own flows, MW and Mvar, at both ends.
    power = flows(Derivatives(network).ends(z), network.flows)
    assert np.allclose(grid.base * np.array(power).T, found["branch"][:, 13:17], atol=1e-7)


# -- derivatives --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [small(), "case30"])
def test_sparse_derivatives_are_those_of_finite_differences(case: Any) -> None:
    network = Network(read_grid(case))
    derivatives, costs = Derivatives(network), costs_of(network)
    z, n = point_of(network.grid), network.grid.variables
    rows = sum(network.counts)
    y = np.random.default_rng(1).normal(size=rows)
    J = dense(derivatives.jacobian_places, derivatives.jacobian(z), (rows, n))
    lower = dense(derivatives.hessian_places, derivatives.hessian(z, 0.7, y, costs), (n, n))
    assert not np.triu(lower, 1).any()
    H = lower + np.tril(lower, -1).T

    def lagrangian_gradient(at: np.ndarray) -> np.ndarray:
        slopes = dense(derivatives.jacobian_places, derivatives.jacobian(at), (rows, n))
        return 0.7 * derivatives.gradient(at, costs) + slopes.T @ y

    for i in range(n):
        e = np.zeros(n)
        e[i] = 1e-6
        for function, found in (
            (lambda at: derivatives.constraints(at, costs), J[:, i]),
            (lagrangian_gradient, H[:, i]),
            (lambda at: derivatives.value(at, costs), derivatives.gradient(z, costs)[i]),
        ):
            wanted = (function(z + e) - function(z - e)) / 2e-6
            size = 1 + np.abs(wanted).max()
            assert np.abs(found - wanted).max() < 1e-7 * size


@pytest.mark.parametrize("case", [small(), "case300"])
def test_the_torch_program_is_the_same_one(case: Any) -> None:
    network = Network(read_grid(case))
    grid, derivatives, costs = network.grid, Derivatives(network), costs_of(network)
    params = tuple(map(torch.tensor, (grid.pd, grid.qd, grid.quadratic, grid.linear)))
    model, m = model_of(network), network.counts[0]
    points = np.stack([point_of(grid, seed) for seed in range(2)])
    y = np.random.default_rng(3).normal(size=(2, sum(network.counts)))
    z, weights = torch.tensor(points), torch.tensor(y)
    slope, g, h = model.program.lagrangian_gradient(z, weights[:, :m], weights[:, m:], params)
    for i in range(2):  # the batch at once, and each sample by itself
        rows = derivatives.constraints(points[i], costs)
        J = dense(
            derivatives.jacobian_places, derivatives.jacobian(points[i]), (len(rows), z.shape[1])
        )
        size = np.abs(J).max()
        wanted = derivatives.gradient(points[i], costs) + J.T @ y[i]
        assert np.abs(slope[i].numpy() - wanted).max() < 1e-12 * size
        assert np.abs(torch.cat([g[i], h[i]]).numpy() - rows).max() < 1e-12 * size
        program = model.program
        own = torch.cat([program.inequalities(z[i], params), program.equalities(z[i], params)])
        assert np.abs(own.numpy() - rows).max() < 1e-12 * size
        value = float(program.objective(z[i], *params))
        assert value == pytest.approx(derivatives.value(points[i], costs), rel=1e-13)


def test_the_multiplier_of_a_limit_is_that_of_the_apparent_power() -> None:
    # At |S| = r the row has the derivative of |S| − r.
    network = Network(read_grid(small()))
    derivatives, z = Derivatives(network), point_of(network.grid)
    power = flows(derivatives.ends(z), network.flows)
    size = np.hypot(power[0], power[1])
    grid = dataclasses.replace(network.grid, rate=np.where(np.arange(5) < 2, size, np.inf))
    derivatives = Derivatives(Network(grid))
    assert len(Network(grid).limited) == 2
    J = dense(
        derivatives.jacobian_places, derivatives.jacobian(z),
        (sum(Network(grid).counts), grid.variables),
    )  # fmt: skip
    for i in range(grid.variables):
        e = np.zeros(grid.variables)
        e[i] = 1e-6
        ahead, behind = (flows(derivatives.ends(z + s * e), network.flows) for s in (1, -1))
        wanted = (np.hypot(*ahead[:2]) - np.hypot(*behind[:2]))[:2] / 2e-6
        assert np.allclose(J[:2, i], wanted, atol=1e-6)


def test_a_limit_that_voltages_ensure_is_left_out_and_no_other() -> None:
    network = Network(read_grid("case57"))  # 99 per unit everywhere, which says "no limit"
    grid = network.grid
    assert 0 < len(network.limited) < len(grid.rate)
    rng = np.random.default_rng(0)
    low, high = grid.voltage
    largest = np.zeros(len(grid.rate))
    for _ in range(300):
        z = grid.start()
        n = len(grid.buses)
        z[:n] = rng.uniform(-np.pi, np.pi, n)
        z[n : 2 * n] = np.where(rng.random(n) < 0.5, low, high)
        p_f, q_f, p_t, q_t = flows(Derivatives(network).ends(z), network.flows)
        largest = np.maximum(largest, np.maximum(np.hypot(p_f, q_f), np.hypot(p_t, q_t)))
    out = np.setdiff1d(np.arange(len(grid.rate)), network.limited)
    assert (largest[out] <= grid.rate[out]).all()
    assert (largest[out] > 0.5).all()  # not for want of flow
