"""Linear fixed-point iteration (eq. 25)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt.linear._common import (
    LinearOperator,
    LinearSolution,
    check_interval,
    finish,
    norm,
    positive,
    target,
    tolerances,
)
from foldopt.status import Status

__all__ = ["LFPI"]


@dataclasses.dataclass(frozen=True)
class LFPI:
    r"""Linear fixed-point iteration: :math:`v_{k+1} = \Phi^\top v_k + g`, from :math:`v_0 = g`.

    Its error falls by ρ(Φ) an iteration, the rate of the step itself, and it converges for every
    g only if ρ(Φ) < 1; otherwise the status is ``DIVERGED``. It is unrolling the step backward
    from the solution, and serves to compare; a Krylov method needs fewer products.

    Parameters
    ----------
    rtol, atol
        Stop once ‖g + Φᵀv − v‖ ≤ atol + rtol ‖g‖. ``rtol=None``: 1.1e-11 in float64, 1.4e-5 in
        float32.
    max_iterations
        At most so many products.

    References
    ----------
    arXiv 2301.12047, eq. 25.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    >>> x = fo.fold(lambda x, c: 0.5 * x + c, 2 * c.detach(), c, adjoint=fo.LFPI())
    >>> x.sum().backward()
    >>> round(c.grad.item(), 9)
    2.0
    """

    rtol: float | None = None
    atol: float = 0.0
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        tolerances(self.rtol, self.atol)
        positive(max_iterations=self.max_iterations)

    def solve(
        self, operator: LinearOperator, b: Tensor, start: Tensor | None = None
    ) -> LinearSolution:
        """Solve A v = b, b of shape ``(*lead, B, n)``, from a first guess or from v = b."""
        tolerance = target(b, self.rtol, self.atol)
        interval = check_interval(b.device)
        # r_k = b + Φᵀv_k − v_k = v_{k+1} − v_k: the next iterate brings its own residual.
        v = b if start is None else start
        step = operator.phi(v) if start is None else b + operator.phi(v) - v
        length = first = norm(step)
        earlier, size = length, norm(b)
        iterations = torch.ones(b.shape[:-1], dtype=torch.int64, device=b.device)
        wild = torch.zeros_like(iterations, dtype=torch.bool)
        for k in range(1, self.max_iterations):
            busy = (length > tolerance) & ~wild
            if k % interval == 0 and not bool(busy.any()):
                break
            if interval == 1 and bool(busy.all()):  # the common case needs no selection
                v = v + step
                step = b + operator.phi(v) - v
            else:
                v = torch.where(busy.unsqueeze(-1), v + step, v)
                step = torch.where(busy.unsqueeze(-1), b + operator.phi(v) - v, step)
            length = norm(step)
            iterations = iterations + busy
            wild = wild | ~(length <= 1e12 * size)
            if k == self.max_iterations // 2:
                earlier = length
        # Transients of a nilpotent Φ grow before they vanish. So growth counts as divergence
        # only where it goes on over the second half of the iterations, or is beyond bounds.
        grew = (length > torch.minimum(earlier, first)) & (iterations >= self.max_iterations)
        stopped = torch.where(wild | grew, int(Status.DIVERGED), int(Status.MAX_ITERATIONS))
        solution = finish(b, v, step, tolerance, iterations, stopped, "LFPI")
        if solution.solved:
            return solution
        # Overflow on the way is divergence too, unless b itself was not finite.
        lost = (solution.status == Status.NONFINITE) & torch.isfinite(size)
        return solution._replace(status=torch.where(lost, int(Status.DIVERGED), solution.status))
