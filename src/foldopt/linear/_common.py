"""What every linear solver needs: the operator, the stopping rule, the honest last look."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from foldopt.jacobian import StepJacobian
from foldopt.status import Status


@dataclasses.dataclass(frozen=True)
class LinearOperator:
    """A = I − Φᵀ (``transpose``, for reverse mode) or A = I − Φ (for forward mode).

    Vectors have shape ``(*lead, B, n)``: B samples, each with its own block of Φ, and any number
    of right-hand sides in front.

    Attributes
    ----------
    jacobian
        The recorded step.
    transpose
        Which of the two.
    symmetric
        Whether the step says of itself that its Φ is symmetric.
    newton
        Whether the step says of itself that its Φ is zero.

    Examples
    --------
    >>> import torch
    >>> from foldopt.jacobian import StepJacobian
    >>> at = StepJacobian(lambda x, _: (0.25 * x[0],), (torch.zeros(1, 2),), (), 1, ())
    >>> LinearOperator(at)(torch.tensor([[4.0, 8.0]]))
    tensor([[3., 6.]])
    """

    jacobian: StepJacobian
    transpose: bool = True
    symmetric: bool = False
    newton: bool = False

    def __call__(self, v: Tensor) -> Tensor:
        """A v."""
        return v - self.phi(v)

    def phi(self, v: Tensor) -> Tensor:
        """Φᵀ v or Φ v."""
        return self.jacobian.vjp(v) if self.transpose else self.jacobian.jvp(v)


class LinearSolution(NamedTuple):
    """What a linear solver returns.

    Attributes
    ----------
    value
        v, shape ``(*lead, B, n)``.
    status, iterations, residual
        Per right-hand side, shape ``(*lead, B)``; ``residual`` is ‖b − A v‖ / ‖b‖, recomputed
        from v and not the recurrence's own estimate.
    method
        What ran, as text.
    solved
        Whether no status is a failure.
    """

    value: Tensor
    status: Tensor
    iterations: Tensor
    residual: Tensor
    method: str
    solved: bool  # no status is a failure


class LinearSolver(Protocol):
    """Anything with ``solve(operator, b) -> LinearSolution``."""

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution: ...


def norm(v: Tensor) -> Tensor:
    """‖v‖₂ over the last dimension."""
    return torch.linalg.vector_norm(v, dim=-1)


def dot(u: Tensor, v: Tensor) -> Tensor:
    """uᵀv over the last dimension."""
    return (u * v).sum(-1)


def default_rtol(dtype: torch.dtype) -> float:
    """ε^0.7: 1.1e-11 in float64, 1.4e-5 in float32; what a Krylov loop can reach with a margin."""
    return torch.finfo(dtype).eps ** 0.7


def target(b: Tensor, rtol: float | None, atol: float) -> Tensor:
    """The residual norm at which to stop: atol + rtol ‖b‖."""
    return atol + (default_rtol(b.dtype) if rtol is None else rtol) * norm(b)


def attainable(v: Tensor) -> Tensor:
    """A residual norm that rounding alone explains: 32 ε ‖v‖.

    b − A v of the exact solution, rounded to working precision, is of order ε ‖A‖ ‖v‖. Where v is
    much longer than b (I − Φ nearly singular), asking for rtol ‖b‖ asks for more than that.
    """
    return 32 * torch.finfo(v.dtype).eps * norm(v)


def check_interval(device: torch.device) -> int:
    """How many iterations go by between two looks at whether all samples are done.

    A look makes the host wait for the device. On a CPU there is no one to wait for.
    """
    return 1 if device.type == "cpu" else 8


def finish(
    b: Tensor,
    v: Tensor,
    residual: Tensor,
    tolerance: Tensor,
    iterations: Tensor | int,
    otherwise: Tensor | Status,
    method: str,
) -> LinearSolution:
    """Judge v by its recomputed residual b − A v (``residual``): the status of each system.

    ``otherwise`` is the status of those that have not converged.
    """
    limit = torch.maximum(tolerance, attainable(v))
    return judge(v, norm(residual), norm(b), limit, iterations, otherwise, method)


def judge(
    v: Tensor,
    length: Tensor,
    size: Tensor,
    limit: Tensor,
    iterations: Tensor | int,
    otherwise: Tensor | Status,
    method: str,
) -> LinearSolution:
    """:func:`finish` for a solver that knows itself what can be attained: up to ``limit``.

    ``length`` and ``size`` are ‖b − A v‖ and ‖b‖.
    """
    relative = length / size.clamp_min(torch.finfo(size.dtype).tiny)
    if isinstance(iterations, int):
        iterations = torch.full(length.shape, iterations, device=length.device)
    converged = length <= limit
    if bool(converged.all()):
        return LinearSolution(v, torch.zeros_like(iterations), iterations, relative, method, True)
    other = otherwise if isinstance(otherwise, Tensor) else int(otherwise)
    status = torch.where(converged, torch.zeros_like(iterations), other)
    finite = torch.isfinite(v).all(-1) & torch.isfinite(length)
    status = torch.where(finite, status, int(Status.NONFINITE))
    return LinearSolution(v, status, iterations, relative, method, False)


def excused(found: LinearSolution, value: Tensor, least: Tensor, like: Tensor) -> LinearSolution:
    """``found`` with ``value``, dtype and device of ``like``, and some failures explained.

    Where ``least`` says that constraints depend on one another, that part of the right-hand side is
    left which no v can give: LEAST_SQUARES.
    """
    if found.solved and value.dtype == like.dtype and value.device == like.device:
        return found._replace(value=value)
    known = least & Status.failed(found.status)
    status = torch.where(known, int(Status.LEAST_SQUARES), found.status)
    return LinearSolution(
        value.to(like),
        status.to(like.device),
        found.iterations.to(like.device),
        found.residual.to(like),
        found.method,
        not bool(Status.failed(status).any()),
    )


def positive(**values: float | None) -> None:
    """Raise unless every given option is a number above zero (None: not given)."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value!r}")


def tolerances(rtol: float | None, atol: float) -> None:
    """Raise unless the tolerances are numbers of 0 or more."""
    for name, value in (("rtol", 0.0 if rtol is None else rtol), ("atol", atol)):
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, got {value!r}")


Cycle = Callable[[LinearOperator, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def restarted(
    cycle: Cycle,
    operator: LinearOperator,
    b: Tensor,
    rtol: float | None,
    atol: float,
    max_iterations: int,
    method: str,
    start: Tensor | None = None,
) -> LinearSolution:
    """Run a Krylov method in cycles, each on the *recomputed* residual of the last.

    A v = b. With v so far and r = b − A v, a cycle returns d with A d ≈ r, and v + d is next.
    The recurrence of a Krylov method drifts from the true residual; starting again from the true
    one removes the drift, and makes a breakdown an ordinary restart. A cycle that does not lower
    the residual of a sample is undone for that sample, and is its last.

    Parameters
    ----------
    cycle
        ``cycle(operator, r, tolerance, budget) -> d, iterations``; r = 0 must give d = 0.
    start
        A first guess of v; None for zero.
    """
    tolerance = target(b, rtol, atol)
    v = torch.zeros_like(b) if start is None else start
    residual = b if start is None else b - operator(start)
    length = norm(residual)
    iterations = torch.zeros(b.shape[:-1], dtype=torch.int64, device=b.device)
    stuck = torch.zeros_like(iterations, dtype=torch.bool)
    lost = stuck
    spent = 0
    while spent < max_iterations:
        busy = ~stuck & (length > tolerance) & (length > attainable(v))
        if not bool(busy.any()):
            break
        work = torch.where(busy.unsqueeze(-1), residual, 0)
        d, used = cycle(operator, work, tolerance, max_iterations - spent)
        spent += max(1, int(used.max()))
        iterations = iterations + torch.where(busy, used, 0)
        trial = v + d
        trial_residual = b - operator(trial)
        trial_length = norm(trial_residual)
        better = busy & (trial_length < length)
        stuck = stuck | (busy & ~(trial_length < 0.99 * length))
        lost = lost | (busy & ~torch.isfinite(trial_length))
        v = torch.where(better.unsqueeze(-1), trial, v)
        residual = torch.where(better.unsqueeze(-1), trial_residual, residual)
        length = torch.where(better, trial_length, length)
    stopped = torch.where(
        stuck & (iterations < max_iterations), int(Status.STAGNATED), int(Status.MAX_ITERATIONS)
    )
    stopped = torch.where(lost, int(Status.NONFINITE), stopped)
    return finish(b, v, residual, tolerance, iterations, stopped, method)
