"""The default: a few products to see how Φ behaves, then the method that suits it."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from foldopt.linear._common import (
    LinearOperator,
    LinearSolution,
    default_rtol,
    finish,
    norm,
    positive,
    target,
    tolerances,
)
from foldopt.linear.bicgstab import BiCGSTAB
from foldopt.linear.cg import CG
from foldopt.linear.dense import Dense
from foldopt.linear.gmres import GMRES
from foldopt.linear.lfpi import LFPI
from foldopt.status import Status

__all__ = ["Auto"]

# Up to this n writing Φ out costs about as much as one product and a decision.
_TINY = 16
# Up to this n a direct solve is never worth avoiding: an iteration's Python costs more.
_SMALL = 64
# An iteration is preferred to a direct solve where it needs fewer products than n over this.
_LFPI_SHARE, _CG_SHARE = 4, 8
# Φ written out, and its factors, may take so many bytes.
_DENSE_BYTES = 2 << 30
# The Krylov basis of GMRES may take so many bytes; past it, BiCGSTAB.
_BASIS_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Auto:
    """Choose the adjoint's solver from n, from what the step says of Φ, and from three products.

    1. n ≤ 16: :class:`Dense` at once, unless the step says that its Φ is zero.
    2. v = g if Φᵀg is negligible (Newton and active-set steps: Φ = 0): one product.
    3. n ≤ 64: :class:`Dense`.
    4. Two more products tell how fast Φᵀ contracts. If :class:`LFPI` (or :class:`CG`, where the
       step is marked symmetric) is predicted to end within a fraction of n products, it is tried.
    5. Otherwise :class:`Dense` for n ≤ ``dense_up_to``, and above it :class:`CG` (symmetric),
       :class:`GMRES`, or :class:`BiCGSTAB` where GMRES would need over 1 GiB.
    6. A method that fails is followed by the next of these, at the last by :class:`Dense` where
       Φ fits in 2 GiB.

    The prediction is a heuristic: three products see the fastest modes first, and a slow one later.
    A wrong one costs time, never accuracy.

    Parameters
    ----------
    rtol, atol, max_iterations
        As for the method that is chosen.
    dense_up_to
        The largest n for which a direct solve is preferred when Φ contracts slowly.
    least_squares
        As for :class:`Dense`, which then always serves where Φ is not nearly zero.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.ones(1, 20, requires_grad=True)
    >>> with fo.record() as seen:
    ...     fo.fold(lambda x, c: 2 * c, 2 * c.detach(), c).sum().backward()
    >>> seen[1].method, c.grad[0, :2]
    ('Auto: identity', tensor([2., 2.]))
    """

    rtol: float | None = None
    atol: float = 0.0
    max_iterations: int = 1000
    dense_up_to: int = 1024
    least_squares: bool = False

    def __post_init__(self) -> None:
        tolerances(self.rtol, self.atol)
        positive(max_iterations=self.max_iterations)

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution:
        """Solve A v = b, b of shape ``(*lead, B, n)``."""
        dense = Dense(self.rtol, self.atol, self.least_squares)
        if b.shape[-1] <= _TINY and not (self.least_squares or operator.newton):
            return _named(dense.solve(operator, b))
        tolerance = target(b, self.rtol, self.atol)
        first = operator.phi(b)  # with v = b the residual b − A v is Φᵀb
        if bool((norm(first) <= tolerance).all()):
            return finish(b, b, first, tolerance, 1, Status.CONVERGED, "Auto: identity")
        return _named(self._choose(dense, operator, b, first))

    def _choose(
        self, dense: Dense, operator: LinearOperator, b: Tensor, first: Tensor
    ) -> LinearSolution:
        n = b.shape[-1]
        samples, width = b.shape[-2], b.dtype.itemsize
        fits = 3 * samples * n * n * width <= _DENSE_BYTES
        if (n <= _SMALL or self.least_squares) and fits:
            return dense.solve(operator, b)
        second = operator.phi(first)
        third = operator.phi(second)
        tiny = torch.finfo(b.dtype).tiny
        rate = float((norm(third) / norm(second).clamp_min(tiny)).max())
        start = b + first + second
        budget = self._iterations(operator.symmetric, b, rate)
        if budget:
            quick = CG if operator.symmetric else LFPI
            solution = quick(self.rtol, self.atol, budget).solve(operator, b, start)
            if solution.solved:
                return solution
        if n <= self.dense_up_to and fits:
            return dense.solve(operator, b)
        solution = self._krylov(operator, b.numel() * width).solve(operator, b, start)
        if fits and not solution.solved:
            return dense.solve(operator, b)
        return solution

    def _iterations(self, symmetric: bool, b: Tensor, rate: float) -> int:
        """How many iterations of a cheap method to allow, 0 if a direct solve looks cheaper.

        Where each product shortens the residual by ``rate``, LFPI needs log ε / log rate of them,
        and conjugate gradients ½ √κ log 2/ε with κ = (1 + rate)/(1 − rate).
        """
        if not rate < 1:
            return 0
        digits = -math.log(self.rtol or default_rtol(b.dtype))
        if symmetric:
            predicted = 0.5 * math.sqrt((1 + rate) / (1 - rate)) * (digits + 0.7)
            share = _CG_SHARE
        else:
            predicted = digits / -math.log(max(rate, 1e-6))
            share = _LFPI_SHARE
        if predicted > b.shape[-1] / share:
            return 0
        return min(self.max_iterations, 10 + 2 * int(predicted))

    def _krylov(self, operator: LinearOperator, vector_bytes: int) -> CG | GMRES | BiCGSTAB:
        options = (self.rtol, self.atol, self.max_iterations)
        if operator.symmetric:
            return CG(*options)
        if 51 * vector_bytes <= _BASIS_BYTES:
            return GMRES(*options)
        return BiCGSTAB(*options)


def _named(solution: LinearSolution) -> LinearSolution:
    return solution._replace(method=f"Auto: {solution.method}")
