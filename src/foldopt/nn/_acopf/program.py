"""The same program in PyTorch, for the step: values and the gradient of the Lagrangian.

The gradient is written down and not left to ``torch.func.grad``: it is the same arithmetic as for
the sparse derivatives, it takes a batch as it is, and one pass of autograd through it is a product
with the Hessian.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt._program import Program
from foldopt.nn._acopf.flow import Ends, flows, slope, weights
from foldopt.nn._acopf.network import Network
from foldopt.nn._nlp.model import Model

__all__ = ["Functions", "model_of"]


@dataclasses.dataclass(frozen=True)
class _Arrays:
    """A network's constants as tensors of one dtype and device."""

    matrix: list[list[Tensor]]
    first: Tensor
    second: Tensor
    made_at: Tensor
    hosts: Tensor
    conductance: Tensor
    susceptance: Tensor
    limited: Tensor
    rate: Tensor
    upper: Tensor
    lower: Tensor
    angle: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Functions:
    """Cost and constraints of a network, of one sample or of a batch.

    Attributes
    ----------
    network
        The network.
    kept
        Its constants, by dtype and device.
    """

    network: Network
    kept: dict[Any, _Arrays] = dataclasses.field(default_factory=dict, repr=False)

    def arrays(self, like: Tensor) -> _Arrays:
        """The constants, in the dtype and on the device of a tensor."""
        key = like.dtype, like.device
        if key not in self.kept:
            with torch.inference_mode(False):  # they outlive this call
                self.kept[key] = _arrays(self.network, like)
        return self.kept[key]

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """va, vm, pg and qh."""
        va, vm, pg, qh = z.split(self.network.grid.layout, -1)
        return va, vm, pg, qh

    def objective(
        self, z: Tensor, pd: Tensor, qd: Tensor, quadratic: Tensor, linear: Tensor
    ) -> Tensor:
        """The cost without its constants, in the unit of the objective."""
        base, unit = self.network.grid.base, self.network.unit
        pg = self.parts(z)[2]
        return ((quadratic * (base * base / unit) * pg + linear * (base / unit)) * pg).sum(-1)

    def inequality(self, z: Tensor, *params: Tensor) -> Tensor:
        """g(z)."""
        own = self.arrays(z)
        power = flows(self._ends(z, own), own.matrix)
        return self._limits(own, self.parts(z)[0], power)

    def equality(self, z: Tensor, pd: Tensor, qd: Tensor, *costs: Tensor) -> Tensor:
        """h(z)."""
        own = self.arrays(z)
        return self._balances(own, z, pd, qd, flows(self._ends(z, own), own.matrix))

    def lagrangian(
        self, x: Tensor, lam: Tensor, nu: Tensor, params: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient ∇f + Gᵀλ + Aᵀν, g and h."""
        pd, qd, quadratic, linear = params
        own, (va, vm, pg, qh) = self.arrays(x), self.parts(x)
        at = self._ends(x, own)
        power = flows(at, own.matrix)
        nu_p, nu_q = nu.chunk(2, -1)
        of_flows = [
            part.index_select(-1, end) for end in (own.first, own.second) for part in (nu_p, nu_q)
        ]
        k = len(own.limited)
        for i in (0, 2) if k else ():
            push = lam[..., i // 2 * k : (i // 2 + 1) * k] / own.rate
            push = torch.zeros_like(power[i]).index_add(-1, own.limited, push)
            of_flows[i] = of_flows[i] + push * power[i]
            of_flows[i + 1] = of_flows[i + 1] + push * power[i + 1]
        d_theta, d_f, d_t = slope(at, weights(of_flows, own.matrix))
        if lam.shape[-1] > 2 * k:
            above, below = lam[..., 2 * k :].split([len(own.upper), len(own.lower)], -1)
            d_theta = d_theta.index_add(-1, own.upper, above).index_add(-1, own.lower, -below)
        none = torch.zeros_like(va)
        of_va = none.index_add(-1, own.first, d_theta).index_add(-1, own.second, -d_theta)
        of_vm = 2 * vm * (own.conductance * nu_p - own.susceptance * nu_q)
        of_vm = of_vm.index_add(-1, own.first, d_f).index_add(-1, own.second, d_t)
        base, unit = self.network.grid.base, self.network.unit
        marginal = (2 * base * base / unit) * quadratic * pg + (base / unit) * linear
        of_pg = marginal - nu_p.index_select(-1, own.made_at)
        of_qh = torch.zeros_like(qh) - nu_q.index_select(-1, own.hosts)
        return (
            torch.cat([of_va, of_vm, of_pg, of_qh], -1),
            self._limits(own, va, power),
            self._balances(own, x, pd, qd, power),
        )

    def _ends(self, z: Tensor, own: _Arrays) -> Ends:
        va, vm, _, _ = self.parts(z)
        v_f, v_t = (vm.index_select(-1, end) for end in (own.first, own.second))
        theta = self._theta(own, va)
        return Ends(v_f, v_t, theta.cos(), theta.sin())

    @staticmethod
    def _theta(own: _Arrays, va: Tensor) -> Tensor:
        return va.index_select(-1, own.first) - va.index_select(-1, own.second)

    def _limits(self, own: _Arrays, va: Tensor, power: list[Tensor]) -> Tensor:
        found = [va[..., :0]]
        for p, q in (power[:2], power[2:]) if len(own.limited) else ():
            p_k, q_k = (part.index_select(-1, own.limited) for part in (p, q))
            found.append((p_k * p_k + q_k * q_k - own.rate**2) / (2 * own.rate))
        if len(own.upper) or len(own.lower):
            theta = self._theta(own, va)
            up, down = (theta.index_select(-1, index) for index in (own.upper, own.lower))
            found += [up - own.angle[1][own.upper], own.angle[0][own.lower] - down]
        return torch.cat(found, -1)

    def _balances(
        self, own: _Arrays, z: Tensor, pd: Tensor, qd: Tensor, power: list[Tensor]
    ) -> Tensor:
        _, vm, pg, qh = self.parts(z)
        base, square = self.network.grid.base, vm * vm
        found = []
        for first, second, shunt, load, at, made in (
            (power[0], power[2], own.conductance, pd, own.made_at, pg),
            (power[1], power[3], -own.susceptance, qd, own.hosts, qh),
        ):
            into = shunt * square + load / base
            into = into.index_add(-1, own.first, first).index_add(-1, own.second, second)
            found.append(into.index_add(-1, at, -made))
        return torch.cat(found, -1)


def _arrays(network: Network, like: Tensor) -> _Arrays:
    def real(array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=like.dtype, device=like.device)

    def index(array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=torch.int64, device=like.device)

    grid = network.grid
    return _Arrays(
        [[real(entry) for entry in row] for row in network.flows],
        index(grid.ends[0]), index(grid.ends[1]), index(grid.generators),
        index(grid.hosts),
        real(grid.shunt[0]), real(grid.shunt[1]),
        index(network.limited), real(grid.rate[network.limited]),
        index(network.upper), index(network.lower), real(grid.angle),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _GridProgram(Program):
    functions: Any = None

    def lagrangian_gradient(
        self, x: Tensor, lam: Tensor, nu: Tensor, params: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.functions.lagrangian(x, lam, nu, params)


def model_of(network: Network) -> Model:
    """The program and its bounds, as :class:`~foldopt.nn.NLP` has them.

    Its params are pd, qd, quadratic and linear, in the units of the grid's file.
    """
    functions = Functions(network)
    program = _GridProgram(
        functions.objective, functions.inequality, functions.equality, (), "nn.ACOPF", functions
    )
    lower, upper = torch.from_numpy(network.grid.bounds())
    return Model(program, lower, upper)
