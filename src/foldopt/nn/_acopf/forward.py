"""The forward pass of the layer: solve, make exact, judge; the machinery is that of nn.NLP."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.nn._acopf.derivatives import Costs, Derivatives
from foldopt.nn._acopf.engine import PARAMS, by_ipopt
from foldopt.nn._acopf.network import Network
from foldopt.nn._acopf.program import model_of
from foldopt.nn._nlp.adjoint import Answer
from foldopt.nn._nlp.engines import Limits
from foldopt.nn._nlp.forward import Settled, verdict_of
from foldopt.nn._nlp.model import Model, Point, sound_params
from foldopt.nn._nlp.polish import polish
from foldopt.nn._nlp.sparse import SparseLocal
from foldopt.solvers import _scipy
from foldopt.status import Status

__all__ = ["Engine", "local_at"]


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """Who solves a network's program."""

    network: Network
    limits: Limits

    @functools.cached_property
    def derivatives(self) -> Derivatives:
        return Derivatives(self.network)

    @functools.cached_property
    def model(self) -> Model:
        return model_of(self.network)

    def settle(
        self,
        asked: tuple[Tensor, ...],
        shared: tuple[int, ...],
        start: Tensor,
        on_failure: str,
    ) -> Settled:
        """Solve every sample.

        Parameters
        ----------
        asked
            pd, qd, quadratic and linear, with one batch dimension but for the ``shared`` ones.
        start
            ``(B, variables)``, float64, on the CPU.
        """
        samples = len(start)
        params, unusable = sound_params(asked, shared, samples)
        unusable = [
            re.sub(r"param (\d)", lambda found: PARAMS[int(found[1])], text) for text in unusable
        ]
        holds = next((text for text in unusable if text), "")
        if holds and (on_failure == "raise" or all(unusable)):
            raise ValueError(
                f"nn.ACOPF: {holds}. Look at where it comes from: a network that has diverged, or "
                "missing data"
            )
        with torch.no_grad():
            settled = self._solved(params, shared, start)
        if not holds:
            said = settled.messages
            return settled if any(said) else dataclasses.replace(settled, messages=())
        bad = torch.tensor([bool(text) for text in unusable])
        point = Point(*(torch.where(bad[:, None], torch.nan, part) for part in settled.point))
        messages = tuple(a or b for a, b in zip(unusable, settled.messages, strict=True))
        status = torch.where(bad, int(Status.NONFINITE), settled.status)
        return dataclasses.replace(settled, point=point, status=status, messages=messages)

    def _solved(
        self, params: tuple[Tensor, ...], shared: tuple[int, ...], start: Tensor
    ) -> Settled:
        network, model = self.network, self.model
        params = tuple(param.cpu() for param in params)
        found = by_ipopt(network, self.derivatives, self.limits, params, shared, start)
        pieces = []
        for i in range(len(start)):
            own = slice(i, i + 1)
            costs = Costs.of(network, *(p if j in shared else p[i] for j, p in enumerate(params)))
            mine = dataclasses.replace(
                found, point=Point(*(part[own] for part in found.point)),
                status=found.status[own], messages=found.messages[own],
            )  # fmt: skip
            at = functools.partial(local_at, self.derivatives, costs)
            point = Point(*(torch.where(torch.isfinite(p), p, 0) for p in mine.point))
            polished = polish(at, point, *model.limits(point.x, ()))
            pieces.append(verdict_of(polished, mine))
        return self._joined(pieces)

    def _joined(self, pieces: list[Settled]) -> Settled:
        (m, k), n = self.network.counts, self.network.grid.variables
        none = torch.zeros(0, dtype=torch.float64)
        blank = Point(*(none.reshape(0, size) for size in (n, m, k, n)))
        texts = [self._named(text) for piece in pieces for text in piece.messages]
        reasons = [self._named(text) for piece in pieces for text in piece.answer.degenerate]
        parts = zip(blank, *(piece.point for piece in pieces), strict=True)
        status = torch.zeros(0, dtype=torch.int64)
        return Settled(
            Point(*(torch.cat(part) for part in parts)),
            torch.cat([status, *(piece.status for piece in pieces)]),
            tuple(texts),
            torch.cat([none, *(piece.value for piece in pieces)]),
            Answer(
                tuple(factor for piece in pieces for factor in piece.answer.factors),
                tuple(reasons),
            ),
        )

    def _named(self, text: str) -> str:
        """Rows and variables by what they are, and not by their numbers."""
        network = self.network

        def inequality(found: re.Match[str]) -> str:
            return network.inequality_name(int(found[1]))

        def equality(found: re.Match[str]) -> str:
            return network.equality_name(int(found[1]))

        def bound(found: re.Match[str]) -> str:
            return f"{found[1]}limit of {network.grid.name_of(int(found[2]))}"

        text = re.sub(r"\binequality (\d+)", inequality, text)
        text = re.sub(r"\bequality (\d+)", equality, text)
        return re.sub(r"((?:upper |lower )?)bound of x\[(\d+)\] = [-+.e\d]+", bound, text)


def local_at(derivatives: Derivatives, costs: Costs, point: Point) -> SparseLocal:
    """Values and sparse derivatives at the point of one sample, ``(1, variables)``."""
    network = derivatives.network
    (m, k), n = network.counts, network.grid.variables
    z, lam, nu, _ = (part[0].numpy() for part in point)
    values = derivatives.constraints(z, costs)
    places = derivatives.jacobian_places
    J = _scipy.sparse.csr_matrix(
        (derivatives.jacobian(z), (places.rows, places.columns)), shape=(m + k, n)
    )
    places = derivatives.hessian_places
    entries = derivatives.hessian(z, 1.0, np.append(lam, nu), costs)
    below = places.rows > places.columns
    rows = np.append(places.rows, places.columns[below])
    columns = np.append(places.columns, places.rows[below])
    H = _scipy.sparse.csr_matrix((np.append(entries, entries[below]), (rows, columns)), (n, n))

    def row(array: Any) -> Tensor:
        return torch.from_numpy(np.array(array, dtype=np.float64)).reshape(1, -1)

    return SparseLocal(
        row(derivatives.value(z, costs))[0], row(derivatives.gradient(z, costs)),
        row(values[:m]), row(values[m:]), J, H, True,
    )  # fmt: skip
