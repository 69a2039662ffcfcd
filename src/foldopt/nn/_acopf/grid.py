"""A grid in the form that the power flow is computed in: arrays, per unit, by bus and by branch."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np

__all__ = ["Grid"]

# Columns of MATPOWER's tables.
_BUS = {"number": 0, "type": 1, "pd": 2, "qd": 3, "gs": 4, "bs": 5, "va": 8, "high": 11, "low": 12}
_GEN = {"bus": 0, "q_high": 3, "q_low": 4, "status": 7, "p_high": 8, "p_low": 9}
_BRANCH = {
    "from": 0, "to": 1, "r": 2, "x": 3, "b": 4, "rate": 5, "tap": 8, "shift": 9, "status": 10,
    "least": 11, "most": 12,
}  # fmt: skip
_SLACK, _ISOLATED = 3, 4
_LEAST_COLUMNS = {"bus": 13, "gen": 10, "branch": 11, "gencost": 5}


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """n buses, g generators and l branches that are in service, read from MATPOWER's tables.

    Loads and costs are in the file's units; all else is per unit and in radians.

    Reactive power costs nothing, so that of generators at one bus only the sum is determined. It is
    one variable, within the sum of their limits, and each generator takes a part that is in
    proportion to the width of its own. The variables are z = (va, vm, pg, qh), with qh for each of
    the h buses that have generators.

    Attributes
    ----------
    name
        Of the case.
    base
        The unit of power, MVA.
    buses
        The numbers that the file gives to the buses, ``(n,)``.
    pd, qd
        Loads, MW and Mvar, ``(n,)``.
    quadratic, linear, constant
        Of the costs of active power: $/MW²h, $/MWh and $/h, ``(g,)``.
    shunt
        Conductance and susceptance to ground at each bus, ``(2, n)``.
    slack, slack_angle
        The buses whose angles are given, and these angles.
    voltage
        Lower and upper limits of magnitudes, ``(2, n)``.
    generators
        The bus (by its place in ``buses``) of each generator, ``(g,)``.
    active, reactive
        Limits of generation, ``(2, g)``.
    ends
        The buses from and to which each branch leads, by place, ``(2, l)``.
    admittance
        Of each branch, what takes voltages at its ends to currents into it, complex ``(l, 2, 2)``.
    rate
        The most apparent power at either end, inf where there is no limit, ``(l,)``.
    angle
        Limits of the difference of angles, ±inf where there is none, ``(2, l)``.
    """

    name: str
    base: float
    buses: np.ndarray
    pd: np.ndarray
    qd: np.ndarray
    quadratic: np.ndarray
    linear: np.ndarray
    constant: np.ndarray
    shunt: np.ndarray
    slack: np.ndarray
    slack_angle: np.ndarray
    voltage: np.ndarray
    generators: np.ndarray
    active: np.ndarray
    reactive: np.ndarray
    ends: np.ndarray
    admittance: np.ndarray
    rate: np.ndarray
    angle: np.ndarray

    @staticmethod
    def of(
        name: str, base: float, bus: np.ndarray, gen: np.ndarray, branch: np.ndarray, cost: Any
    ) -> Grid:
        """From the tables ``baseMVA``, ``bus``, ``gen``, ``branch`` and ``gencost``.

        Generators and branches that are out of service, and isolated buses with what belongs to
        them, are left out.

        Raises
        ------
        ValueError
            If a table lacks columns, a bus is unknown, there is no slack bus or no branch without
            impedance, or the costs are not polynomials of degree 2 at most.
        """
        tables = {"bus": bus, "gen": gen, "branch": branch, "gencost": cost}
        bus, gen, branch, cost = (_table(name, key, table) for key, table in tables.items())
        alive = bus[:, _BUS["type"]] != _ISOLATED
        gone = set(bus[~alive, 0].tolist())
        bus = bus[alive]
        if len(set(bus[:, 0].tolist())) < len(bus):
            raise ValueError(f"ACOPF: {name}: a number stands for two buses in the table bus")
        if len(cost) != len(gen):
            raise ValueError(
                f"ACOPF: {name}: gencost has {len(cost)} rows for {len(gen)} generators. Costs of "
                "reactive power, which stand below those of active power, are not supported: take "
                "their rows away"
            )
        running = (gen[:, _GEN["status"]] > 0) & ~np.isin(gen[:, 0], list(gone))
        gen, cost = gen[running], cost[running]
        working = (branch[:, _BRANCH["status"]] > 0) & ~np.isin(branch[:, :2], list(gone)).any(1)
        branch = branch[working]
        slack = np.flatnonzero(bus[:, _BUS["type"]] == _SLACK)
        if not len(slack) or not len(gen) or not len(branch):
            raise ValueError(
                f"ACOPF: {name}: there are {len(slack)} slack buses (type 3), {len(gen)} "
                f"generators and {len(branch)} branches in service; at least one of each is needed"
            )
        place = {number: index for index, number in enumerate(bus[:, 0].tolist())}
        quadratic, linear, constant = _costs(name, cost)
        generators = _places(name, "gen", gen[:, 0], place)
        reactive = gen[:, [_GEN["q_low"], _GEN["q_high"]]].T / base
        company = np.bincount(generators)[generators] > 1
        if not np.isfinite(reactive[:, company]).all():
            raise ValueError(
                f"ACOPF: {name}: of several generators at one bus each needs finite limits of "
                "reactive power, by which they share it"
            )
        return Grid(
            name, float(base), bus[:, 0].astype(np.int64), bus[:, _BUS["pd"]], bus[:, _BUS["qd"]],
            quadratic, linear, constant,
            bus[:, [_BUS["gs"], _BUS["bs"]]].T / base,
            slack, np.deg2rad(bus[slack, _BUS["va"]]),
            bus[:, [_BUS["low"], _BUS["high"]]].T.copy(),
            generators,
            gen[:, [_GEN["p_low"], _GEN["p_high"]]].T / base,
            reactive,
            np.stack([_places(name, "branch", branch[:, end], place) for end in (0, 1)]),
            _admittance(name, branch),
            _rates(branch, base),
            _angles(branch),
        )  # fmt: skip

    @property
    def sizes(self) -> tuple[int, int]:
        """How many buses and generators there are."""
        return len(self.buses), len(self.generators)

    @functools.cached_property
    def hosts(self) -> np.ndarray:
        """The buses that have generators, by place, in ascending order, ``(h,)``."""
        return np.unique(self.generators)

    @functools.cached_property
    def pooled(self) -> np.ndarray:
        """Limits of the reactive power at each host, ``(2, h)``."""
        at = np.searchsorted(self.hosts, self.generators)
        return np.stack([np.bincount(at, limit, len(self.hosts)) for limit in self.reactive])

    @functools.cached_property
    def shares(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each generator: its host's number, and a and b of qg = a + b qh, ``(g,)`` each."""
        at = np.searchsorted(self.hosts, self.generators)
        own, all_of_them = (part[1] - part[0] for part in (self.reactive, self.pooled))
        alone = np.bincount(at)[at] == 1
        width = all_of_them[at]
        with np.errstate(invalid="ignore"):
            part = np.where(alone, 1.0, own / np.where(width > 0, width, 1))
            rest = np.where(alone, 0.0, self.reactive[0] - part * self.pooled[0][at])
        return at, rest, part

    @property
    def layout(self) -> tuple[int, int, int, int]:
        """How many components of z are va, vm, pg and qh."""
        return len(self.buses), len(self.buses), len(self.generators), len(self.hosts)

    @property
    def variables(self) -> int:
        """How many components z has."""
        return sum(self.layout)

    def bounds(self) -> np.ndarray:
        """Lower and upper bounds of z, ``(2, variables)``; of angles only the slack's have any."""
        angles = np.stack([np.full(len(self.buses), -np.inf), np.full(len(self.buses), np.inf)])
        angles[:, self.slack] = self.slack_angle
        return np.concatenate([angles, self.voltage, self.active, self.pooled], 1)

    def start(self) -> np.ndarray:
        """Where solvers begin: level angles, and the middle of all other bounds."""
        lower, upper = self.bounds()
        both = np.isfinite(lower) & np.isfinite(upper)
        z = np.where(both, (np.where(both, lower, 0) + np.where(both, upper, 0)) / 2, 0)
        z[: len(self.buses)] = self.slack_angle[0]
        z[self.slack] = self.slack_angle
        return np.clip(z, lower, upper)

    def name_of(self, variable: int) -> str:
        """What a component of z is, in words."""
        n, g = self.sizes
        if variable < 2 * n:
            kind = "voltage angle" if variable < n else "voltage magnitude"
            return f"{kind} at bus {self.buses[variable % n]}"
        number = variable - 2 * n
        if number < g:
            bus = self.buses[self.generators[number]]
            return f"active power of generator {number} (bus {bus})"
        return f"reactive power of generation at bus {self.buses[self.hosts[number - g]]}"


def _table(name: str, key: str, table: Any) -> np.ndarray:
    found = np.atleast_2d(np.asarray(table, dtype=np.float64))
    least = _LEAST_COLUMNS[key]
    if found.shape[1] < least:
        raise ValueError(
            f"ACOPF: {name}: the table {key} has shape {found.shape}, and MATPOWER's format "
            f"(version 2) has {least} columns there at least"
        )
    return found


def _places(name: str, key: str, numbers: np.ndarray, place: dict[float, int]) -> np.ndarray:
    unknown = [number for number in numbers.tolist() if number not in place]
    if unknown:
        raise ValueError(f"ACOPF: {name}: the table {key} names bus {unknown[0]:g}, unknown to bus")
    return np.array([place[number] for number in numbers.tolist()], dtype=np.int64)


def _costs(name: str, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients of degree 2, 1 and 0."""
    found = np.zeros((3, len(cost)))
    for i, (model, _, _, count, *rest) in enumerate(cost.tolist()):
        terms = rest[: int(count)]
        extra = terms[:-3]
        if model != 2 or any(extra):
            kind = "piecewise linear" if model != 2 else f"of degree {len(terms) - 1}"
            raise ValueError(
                f"ACOPF: {name}: the cost of generator {i} is {kind}. Only polynomials of degree 2 "
                "at most are supported: fit one to it"
            )
        terms = terms[-3:]
        found[3 - len(terms) :, i] = terms
    return found[0], found[1], found[2]


def _admittance(name: str, branch: np.ndarray) -> np.ndarray:
    """The π model: a series impedance, half of the line charging at each end, and an ideal
    transformer with a complex ratio at the end from which the branch leads.

    With ratio a, the voltage behind the transformer is V_f / a, and the current before it i / ā:

        [i_f]   [(y + jb/2) / |a|²   −y / ā  ] [V_f]
        [i_t] = [     −y / a         y + jb/2] [V_t].
    """
    impedance = branch[:, _BRANCH["r"]] + 1j * branch[:, _BRANCH["x"]]
    if not (impedance != 0).all():
        raise ValueError(
            f"ACOPF: {name}: branch {int(np.flatnonzero(impedance == 0)[0])} has no impedance. "
            "Join the buses at its ends into one"
        )
    series = 1 / impedance
    own = series + 0.5j * branch[:, _BRANCH["b"]]
    ratio = branch[:, _BRANCH["tap"]]
    ratio = np.where(ratio == 0, 1, ratio)  # 0 stands for a line, without a transformer
    ratio = ratio * np.exp(1j * np.deg2rad(branch[:, _BRANCH["shift"]]))
    rows = [[own / abs(ratio) ** 2, -series / ratio.conj()], [-series / ratio, own]]
    return np.array(rows).transpose(2, 0, 1)


def _rates(branch: np.ndarray, base: float) -> np.ndarray:
    rate = branch[:, _BRANCH["rate"]] / base
    return np.where(rate == 0, np.inf, rate)


def _angles(branch: np.ndarray) -> np.ndarray:
    """0 for both, or a full turn, stands for no limit."""
    if branch.shape[1] <= _BRANCH["most"]:
        return np.array([[-np.inf], [np.inf]]) * np.ones(len(branch))
    least, most = branch[:, _BRANCH["least"]], branch[:, _BRANCH["most"]]
    free = (least == 0) & (most == 0)
    turn = 2 * math.pi - 1e-9
    low, high = np.deg2rad(least), np.deg2rad(most)
    low = np.where(free | (low <= -turn), -np.inf, low)
    return np.stack([low, np.where(free | (high >= turn), np.inf, high)])
