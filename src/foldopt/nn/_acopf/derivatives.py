"""Values and sparse derivatives of one sample's program, as numpy arrays.

Every entry of the Jacobian and the Hessian is a sum of contributions of branches (and of a few
diagonal terms), in an order that never changes. So the patterns are found once, together with the
place of each contribution, and all that is left to do at a point is arithmetic on whole arrays.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from foldopt.nn._acopf.flow import Ends, alone, curvature, flows, slope, weights
from foldopt.nn._acopf.network import Network

__all__ = ["Costs", "Derivatives", "Places"]


@dataclasses.dataclass(frozen=True, eq=False)
class Costs:
    """Loads and costs of one sample: per unit, and in the unit of the objective."""

    pd: np.ndarray
    qd: np.ndarray
    quadratic: np.ndarray
    linear: np.ndarray

    @staticmethod
    def of(network: Network, pd: Any, qd: Any, quadratic: Any, linear: Any) -> Costs:
        """From MW, Mvar, $/MW²h and $/MWh."""
        base, unit = network.grid.base, network.unit
        pd, qd, quadratic, linear = (np.asarray(a, np.float64) for a in (pd, qd, quadratic, linear))
        return Costs(pd / base, qd / base, quadratic * (base * base / unit), linear * (base / unit))


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where the entries of a sparse matrix are, row by row, and which contributions make up each.

    Attributes
    ----------
    rows, columns
        Of the entries.
    entry
        The entry that each contribution belongs to.
    """

    rows: np.ndarray
    columns: np.ndarray
    entry: np.ndarray

    @staticmethod
    def of(rows: list[np.ndarray], columns: list[np.ndarray], width: int) -> Places:
        """From those of the contributions."""
        key = np.concatenate(rows) * width + np.concatenate(columns)
        found, entry = np.unique(key, return_inverse=True)
        return Places(found // width, found % width, entry.reshape(-1))

    def summed(self, contributions: list[np.ndarray]) -> np.ndarray:
        """The entries."""
        return np.bincount(self.entry, np.concatenate(contributions), len(self.rows))


@dataclasses.dataclass(frozen=True, eq=False)
class Derivatives:
    """What there is to compute at a point of a network's program; nothing is kept of it."""

    network: Network

    # -- values ---------------------------------------------------------------------------------

    def ends(self, z: np.ndarray) -> Ends:
        """The voltages at all branches."""
        (f, t), n = self.network.grid.ends, len(self.network.grid.buses)
        theta = z[f] - z[t]
        return Ends(z[n + f], z[n + t], np.cos(theta), np.sin(theta))

    def value(self, z: np.ndarray, costs: Costs) -> float:
        """The cost without its constants."""
        pg = self._active(z)
        return float(pg @ (costs.quadratic * pg + costs.linear))

    def gradient(self, z: np.ndarray, costs: Costs) -> np.ndarray:
        """Of the cost."""
        found, (n, g) = np.zeros_like(z), self.network.grid.sizes
        found[2 * n : 2 * n + g] = 2 * costs.quadratic * self._active(z) + costs.linear
        return found

    def constraints(self, z: np.ndarray, costs: Costs) -> np.ndarray:
        """[g; h]."""
        network, grid = self.network, self.network.grid
        (n, g), (f, t) = grid.sizes, grid.ends
        p_f, q_f, p_t, q_t = flows(self.ends(z), network.flows)
        square = z[n : 2 * n] ** 2
        balances = []
        for first, second, shunt, load, at, made in (
            (p_f, p_t, grid.shunt[0], costs.pd, grid.generators, z[2 * n : 2 * n + g]),
            (q_f, q_t, -grid.shunt[1], costs.qd, grid.hosts, z[2 * n + g :]),
        ):
            into = np.bincount(f, first, n) + np.bincount(t, second, n)
            balances.append(into + shunt * square + load - np.bincount(at, made, n))
        k, rate = network.limited, grid.rate[network.limited]
        thermal = [
            (p[k] ** 2 + q[k] ** 2 - rate**2) / (2 * rate) for p, q in ((p_f, q_f), (p_t, q_t))
        ]
        theta, (low, high) = z[f] - z[t], grid.angle
        up, down = network.upper, network.lower
        return np.concatenate([*thermal, theta[up] - high[up], low[down] - theta[down], *balances])

    # -- first derivatives ----------------------------------------------------------------------

    @functools.cached_property
    def jacobian_places(self) -> Places:
        """Of [g; h]."""
        grid, network = self.network.grid, self.network
        (n, g), (f, t) = grid.sizes, grid.ends
        m, k = network.counts[0], network.limited
        buses, generators, hosts = np.arange(n), np.arange(g), np.arange(len(grid.hosts))
        rows, columns = [], []
        at_f, at_t = m + f, m + t
        for row in (at_f, at_f + n, at_t, at_t + n):
            rows += [row] * 4
            columns += [f, t, n + f, n + t]
        for row, first in ((m + buses, n + buses), (m + n + buses, n + buses)):
            rows.append(row)
            columns.append(first)
        rows += [m + grid.generators, m + n + grid.hosts]
        columns += [2 * n + generators, 2 * n + g + hosts]
        count = np.arange(len(k))
        for end in (0, 1):
            rows += [end * len(k) + count] * 4
            columns += [f[k], t[k], n + f[k], n + t[k]]
        first = 2 * len(k)
        for limited in (network.upper, network.lower):
            rows += [first + np.arange(len(limited))] * 2
            columns += [f[limited], t[limited]]
            first += len(limited)
        return Places.of(rows, columns, grid.variables)

    def jacobian(self, z: np.ndarray) -> np.ndarray:
        """The entries."""
        network, grid = self.network, self.network.grid
        (n, g), k = grid.sizes, network.limited
        at = self.ends(z)
        slopes = [slope(at, alone(i, network.flows)) for i in range(4)]
        found: list[np.ndarray] = []
        for d_theta, d_f, d_t in slopes:
            found += [d_theta, -d_theta, d_f, d_t]
        vm = z[n : 2 * n]
        found += [
            2 * grid.shunt[0] * vm,
            -2 * grid.shunt[1] * vm,
            np.full(g + len(grid.hosts), -1.0),
        ]
        if len(k):
            power, rate = flows(at, network.flows), grid.rate[k]
            for end in (0, 2):
                p, q = power[end][k] / rate, power[end + 1][k] / rate
                d_theta, d_f, d_t = (
                    p * a[k] + q * b[k] for a, b in zip(slopes[end], slopes[end + 1], strict=True)
                )
                found += [d_theta, -d_theta, d_f, d_t]
        ones = np.ones(len(network.upper)), np.ones(len(network.lower))
        return self.jacobian_places.summed([*found, ones[0], -ones[0], -ones[1], ones[1]])

    # -- second derivatives ---------------------------------------------------------------------

    @functools.cached_property
    def hessian_places(self) -> Places:
        """Of the lower triangle of the Lagrangian's Hessian."""
        grid = self.network.grid
        (n, g), (f, t) = grid.sizes, grid.ends
        low, high = np.minimum(f, t), np.maximum(f, t)
        buses, made = np.arange(n), 2 * n + np.arange(g)
        rows = [f, t, high, n + f, n + f, n + t, n + t, n + f, n + high, n + t, n + buses, made]
        columns = [f, t, low, f, t, f, t, n + f, n + low, n + t, n + buses, made]
        return Places.of(rows, columns, grid.variables)

    def hessian(
        self, z: np.ndarray, sigma: float, multipliers: np.ndarray, costs: Costs
    ) -> np.ndarray:
        """The entries, with σ times the cost and multipliers of [g; h]."""
        network, grid = self.network, self.network.grid
        (n, _), (f, t), k = grid.sizes, grid.ends, network.limited
        m = network.counts[0]
        nu_p, nu_q = multipliers[m : m + n], multipliers[m + n :]
        at = self.ends(z)
        of_flows = [nu_p[f], nu_q[f], nu_p[t], nu_q[t]]
        bent: list[Any] = [0.0] * 6
        if len(k) and multipliers[: 2 * len(k)].any():
            # ∇²((|S|² − r²) / 2r) = (∇P ∇Pᵀ + ∇Q ∇Qᵀ + P ∇²P + Q ∇²Q) / r.
            power = flows(at, network.flows)
            slopes = [slope(at, alone(i, network.flows)) for i in range(4)]
            for i in range(4):
                push = np.zeros(len(f))
                own = multipliers[: len(k)] if i < 2 else multipliers[len(k) : 2 * len(k)]
                push[k] = own / grid.rate[k]
                of_flows[i] = of_flows[i] + push * power[i]
                a, b, c = slopes[i]
                outer = a * a, a * b, a * c, b * b, b * c, c * c
                bent = [old + push * new for old, new in zip(bent, outer, strict=True)]
        found = curvature(at, weights(of_flows, network.flows))
        tt, tf, tu, ff, fu, uu = (a + b for a, b in zip(found, bent, strict=True))
        own = 2 * (grid.shunt[0] * nu_p - grid.shunt[1] * nu_q)
        cost = 2 * sigma * costs.quadratic
        return self.hessian_places.summed([tt, tt, -tt, tf, -tf, tu, -tu, ff, fu, uu, own, cost])

    def _active(self, z: np.ndarray) -> np.ndarray:
        n, g = self.network.grid.sizes
        return z[2 * n : 2 * n + g]
