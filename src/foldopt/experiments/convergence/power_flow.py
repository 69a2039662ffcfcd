"""AC optimal power flow on a PYPOWER case, as plain functions of one sample.

In polar form with z = (angles, magnitudes, active and reactive generation), the slack bus's angle
fixed: minimise the generation cost subject to the power balance at each bus and to bounds. Thermal
limits are left out; the 14-bus case has none that bind.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["PowerFlow", "load_case14"]


@dataclasses.dataclass(frozen=True)
class PowerFlow:
    """A grid: its functions, and the solution that PYPOWER finds for its nominal loads.

    Attributes
    ----------
    admittance
        The bus admittance matrix, complex ``(buses, buses)``.
    place
        Which generator stands at which bus, 0/1, ``(buses, generators)``.
    slack
        The bus whose angle is zero.
    lower, upper
        Bounds of z without the angles: magnitudes, active and reactive generation.
    loads
        Active and reactive loads, ``(2 buses,)``, per unit.
    costs
        Quadratic cost coefficients per unit: (square, linear) of each generator.
    solution
        z.
    objective_value
        PYPOWER's own, without the constant terms of the costs.
    """

    admittance: Tensor
    place: Tensor
    slack: int
    lower: Tensor
    upper: Tensor
    loads: Tensor
    costs: Tensor
    solution: Tensor
    objective_value: float

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Angles, magnitudes, active and reactive generation."""
        buses, generators = self.place.shape
        angle, magnitude, active, reactive = z.split([buses, buses, generators, generators])
        return angle, magnitude, active, reactive

    def objective(self, z: Tensor, loads: Tensor, costs: Tensor) -> Tensor:
        """Σ a p² + b p, in thousands."""
        active = self.parts(z)[2]
        square, linear = costs.unflatten(-1, (2, -1))
        return (square * active**2 + linear * active).sum() / 1000

    def equality(self, z: Tensor, loads: Tensor, costs: Tensor) -> Tensor:
        """The balance of active and reactive power at each bus, and the slack's angle."""
        angle, magnitude, active, reactive = self.parts(z)
        # S = V conj(Y V), with V = |V| (cos + i sin) in real and imaginary parts.
        real, imaginary = magnitude * angle.cos(), magnitude * angle.sin()
        G, B = self.admittance.real, self.admittance.imag
        current_r, current_i = G @ real - B @ imaginary, G @ imaginary + B @ real
        power = real * current_r + imaginary * current_i
        other = imaginary * current_r - real * current_i
        p_load, q_load = loads.chunk(2)
        return torch.cat(
            [
                power + p_load - self.place @ active,
                other + q_load - self.place @ reactive,
                angle[self.slack : self.slack + 1],
            ]
        )

    def inequality(self, z: Tensor, loads: Tensor, costs: Tensor) -> Tensor:
        """Bounds of magnitudes and generation."""
        bounded = z[self.place.shape[0] :]
        return torch.cat([self.lower - bounded, bounded - self.upper])


def load_case14() -> PowerFlow:
    """Read the IEEE 14-bus case and solve it.

    Returns
    -------
    PowerFlow
        With PYPOWER's solution, in float64.

    Raises
    ------
    RuntimeError
        If PYPOWER does not solve it.

    References
    ----------
    R. D. Zimmerman et al., IEEE Trans. Power Syst. 26 (2011), 12–19 (MATPOWER, the case's format).

    Examples
    --------
    >>> load_case14().solution.shape
    torch.Size([38])
    """
    from pypower.api import case14, ppoption, runopf

    # Looser than 1e-10 the solution's own error would show in the derivatives.
    options: dict[str, Any] = {"VERBOSE": 0, "OUT_ALL": 0, "PDIPM_FEASTOL": 1e-11}
    options |= {"PDIPM_GRADTOL": 1e-10, "PDIPM_COMPTOL": 1e-11, "PDIPM_COSTTOL": 1e-11}
    found: Any = runopf(case14(), ppoption(**options, OPF_VIOLATION=1e-10))
    if found is None or not found["success"]:
        raise RuntimeError("PYPOWER did not solve case14")
    base, bus, gen, branch = (found[key] for key in ("baseMVA", "bus", "gen", "branch"))
    cost = found["gencost"]
    where = {int(number): index for index, number in enumerate(bus[:, 0])}
    place = np.zeros((len(bus), len(gen)))
    for column, number in enumerate(gen[:, 0]):
        place[where[int(number)], column] = 1
    slack = int(np.flatnonzero(bus[:, 1] == 3)[0])

    def tensor(values: Any) -> Tensor:
        return torch.tensor(np.asarray(values), dtype=torch.float64)

    angle = bus[:, 8] * math.pi / 180
    z = np.concatenate([angle - angle[slack], bus[:, 7], gen[:, 1] / base, gen[:, 2] / base])
    quadratic, linear = cost[:, 4] * base**2, cost[:, 5] * base
    constant = float(cost[:, 6].sum())
    return PowerFlow(
        torch.tensor(_admittance(bus, branch, base, where)),
        tensor(place),
        slack,
        tensor(np.concatenate([bus[:, 12], gen[:, 9] / base, gen[:, 4] / base])),
        tensor(np.concatenate([bus[:, 11], gen[:, 8] / base, gen[:, 3] / base])),
        tensor(np.concatenate([bus[:, 2], bus[:, 3]]) / base),
        tensor(np.concatenate([quadratic, linear])),
        tensor(z),
        float(found["f"]) - constant,
    )


def _admittance(
    bus: np.ndarray, branch: np.ndarray, base: Any, where: dict[int, int]
) -> np.ndarray:
    """Y of the π model: series impedance, line charging, tap ratio and phase shift, bus shunts."""
    Y = np.diag((bus[:, 4] + 1j * bus[:, 5]) / base)
    for row in branch[branch[:, 10] > 0]:
        f, t = where[int(row[0])], where[int(row[1])]
        series = 1 / (row[2] + 1j * row[3])
        charging = 1j * row[4] / 2
        tap = (row[8] or 1.0) * np.exp(1j * math.pi / 180 * row[9])
        Y[f, f] += (series + charging) / abs(tap) ** 2
        Y[t, t] += series + charging
        Y[f, t] -= series / np.conj(tap)
        Y[t, f] -= series / tap
    return Y
