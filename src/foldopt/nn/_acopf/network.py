"""The program of a grid: which constraints there are, in which order, and their constants."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from foldopt.nn._acopf.flow import coefficients
from foldopt.nn._acopf.grid import Grid

__all__ = ["Network"]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """min cost(pg) s.t. g(z) ≤ 0, h(z) = 0 and bounds, with z = (va, vm, pg, qh) per unit.

    h is the balance of active, then of reactive power at each bus: what flows into branches and
    shunts, plus the load, less the generation. g is (|S|² − r²) / 2r at the first and at the second
    end of each branch with a limit r, whose multiplier is that of |S| − r: at |S| = r both have the
    same derivative, and this one has it at S = 0 as well. Then come the upper and lower limits of
    differences of angles.

    Attributes
    ----------
    grid
        The grid.
    """

    grid: Grid

    @functools.cached_property
    def flows(self) -> np.ndarray:
        """See :func:`~foldopt.nn._acopf.flow.coefficients`."""
        return coefficients(self.grid.admittance)

    @functools.cached_property
    def unit(self) -> float:
        """The unit of the objective, $/h, by which marginal costs are about 1."""
        grid = self.grid
        middle = np.clip(np.nan_to_num(grid.active.mean(0)), -1e3, 1e3) * grid.base
        marginal = np.abs(grid.linear + 2 * grid.quadratic * middle)
        marginal = marginal[marginal > 0]
        return float(np.median(marginal) * grid.base) if len(marginal) else 1.0

    @functools.cached_property
    def limited(self) -> np.ndarray:
        """The branches with a limit of their power that the limits of voltages do not ensure.

        |S_f| ≤ v_f (|Y_ff| v_f + |Y_ft| v_t), and likewise at the other end: a rate above both
        bounds can be left out without loss.
        """
        v_f, v_t = self.grid.voltage[1][self.grid.ends]
        size = np.abs(self.grid.admittance)
        most = np.maximum(
            v_f * (size[:, 0, 0] * v_f + size[:, 0, 1] * v_t),
            v_t * (size[:, 1, 1] * v_t + size[:, 1, 0] * v_f),
        )
        return np.flatnonzero(self.grid.rate < most)

    @functools.cached_property
    def upper(self) -> np.ndarray:
        """The branches with an upper limit of θ."""
        return np.flatnonzero(np.isfinite(self.grid.angle[1]))

    @functools.cached_property
    def lower(self) -> np.ndarray:
        """The branches with a lower limit of θ."""
        return np.flatnonzero(np.isfinite(self.grid.angle[0]))

    @property
    def inequalities(self) -> tuple[int, int, int, int]:
        """How many rows of g there are of each kind."""
        return len(self.limited), len(self.limited), len(self.upper), len(self.lower)

    @property
    def counts(self) -> tuple[int, int]:
        """How many inequalities and equalities."""
        return sum(self.inequalities), 2 * len(self.grid.buses)

    def inequality_name(self, row: int) -> str:
        """What a row of g is, in words."""
        kinds = ("power limit at the first end", "power limit at the second end")
        kinds += ("upper limit of the angle", "lower limit of the angle")
        branches = (self.limited, self.limited, self.upper, self.lower)
        for kind, numbers in zip(kinds, branches, strict=True):
            if row < len(numbers):
                number = int(numbers[row])
                first, second = self.grid.buses[self.grid.ends[:, number]]
                return f"{kind} of branch {number} ({first}–{second})"
            row -= len(numbers)
        raise IndexError(row)

    def equality_name(self, row: int) -> str:
        """What a row of h is, in words."""
        kind, bus = divmod(row, len(self.grid.buses))
        return f"balance of {('active', 'reactive')[kind]} power at bus {self.grid.buses[bus]}"
