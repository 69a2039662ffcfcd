"""The iterations of SQP, on all samples of a batch that are not done yet."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import torch
from torch import Tensor

from foldopt._program import Program
from foldopt._tree import flatten, unflatten
from foldopt.operators._inverse import matvec
from foldopt.solvers._ipopt.derivatives import kkt_residual
from foldopt.solvers._sqp.model import Local, direction, local_of, restoration
from foldopt.solvers._sqp.search import Merit, search
from foldopt.status import Status

__all__ = ["Limits", "State", "solve"]

# A sample is given up after so many iterations in a row without a step.
_PATIENCE = 12
# After so many short steps in a row the multipliers and the penalty begin anew: large ones, from
# constraints that once were almost contradictory, make a merit function with narrow valleys. From
# the third time on, squares of violations alone are lessened for a while.
_SHORT, _RENEW, _PHASE = 0.3, 8, 10
# No sensible solution is that far away.
_FAR = 1e12


@dataclasses.dataclass(frozen=True)
class Limits:
    tolerance: float
    iterations: int
    seconds: float | None


@dataclasses.dataclass
class State:
    """What SQP knows of each sample; all with B rows.

    ``rho`` is the penalty of the merit function, ``damping`` what is added to the Hessian after
    steps that were refused, ``failures`` how many of them in a row, ``short`` how many short ones,
    ``renewals`` how often these led to a new beginning, and ``phase`` how many iterations are still
    to look for a feasible point and nothing else.
    """

    x: Tensor
    lam: Tensor
    nu: Tensor
    rho: Tensor
    damping: Tensor
    failures: Tensor
    short: Tensor
    renewals: Tensor
    phase: Tensor
    status: Tensor

    @staticmethod
    def of(x: Tensor, lam: Tensor, nu: Tensor) -> State:
        zero = x.new_zeros(len(x))
        whole = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return State(x, lam, nu, zero, zero, whole, whole, whole, whole, whole - 1)

    def at(self, index: Tensor) -> State:
        return State(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    def put(self, index: Tensor, part: State) -> None:
        for f in dataclasses.fields(self):
            setattr(self, f.name, getattr(self, f.name).index_copy(0, index, getattr(part, f.name)))


def solve(program: Program, state: State, params: tuple[Any, ...], limits: Limits) -> State:
    """Iterate until every sample has a status."""
    dims = program.in_dims(state.x, params)
    begin = time.monotonic()
    for iteration in range(limits.iterations + 1):
        running = (state.status < 0).nonzero()[:, 0]
        if not len(running):
            break
        rows = _rows(params, dims, running)
        part = state.at(running)
        local = local_of(program, part.x, rows)
        part.status = _verdict(local, part, limits.tolerance)
        late = limits.seconds is not None and time.monotonic() - begin > limits.seconds
        last = iteration == limits.iterations
        if late or last:
            ending = int(Status.TIME_LIMIT if late else Status.MAX_ITERATIONS)
            part.status = torch.where(part.status < 0, ending, part.status)
        state.put(running, part)
        go = (part.status < 0).nonzero()[:, 0]
        if len(go):
            moved = _iterate(
                program,
                part.at(go),
                Local(*(getattr(local, f.name)[go] for f in dataclasses.fields(local))),
                _rows(params, dims, running[go]),
            )
            state.put(running[go], moved)
    return state


def _verdict(local: Local, part: State, tolerance: float) -> Tensor:
    """The status of each sample, −1 while there is work."""
    slope = local.slope(part.lam, part.nu)
    residual = kkt_residual(part.x, slope, local.gradient, local.g, local.h, part.lam)
    open_ = torch.full_like(part.status, -1)
    over = local.violation
    worst = over.abs().amax(-1) if over.shape[-1] else over.new_zeros(len(over))
    feasible = worst <= math.sqrt(tolerance) * (1 + part.x.abs().amax(-1))
    stuck = part.failures >= _PATIENCE
    status = torch.where(stuck, int(Status.STAGNATED), open_)
    # The violation has nowhere to go but up: its squares have a stationary point.
    flat = matvec(local.rows.mT, over).norm(dim=-1)
    size = local.rows.flatten(1).norm(dim=-1) if over.shape[-1] else flat
    trapped = ~feasible & (flat <= math.sqrt(tolerance) * size * over.norm(dim=-1))
    status = torch.where(trapped, int(Status.INFEASIBLE), status)
    far = (part.x.abs().amax(-1) > _FAR) & (local.f < 0)
    status = torch.where(far, int(Status.UNBOUNDED), status)
    finite = torch.isfinite(residual) & torch.isfinite(local.f)
    status = torch.where(finite, status, int(Status.NONFINITE))
    return torch.where(residual <= tolerance, int(Status.CONVERGED), status)


def _iterate(program: Program, part: State, local: Local, rows: tuple[Any, ...]) -> State:
    """One iteration: a quadratic program, or a restoring step, and a line search."""
    H = program.hessian(part.x, part.lam, part.nu, rows).detach()
    d, mu, eta, curvature, solved = direction(local, part.x, H, part.lam, part.damping)
    over = local.violation.abs().sum(-1)
    eps = torch.finfo(d.dtype).eps
    felt = over > math.sqrt(eps) * (1 + part.x.abs().amax(-1))
    restoring = (~solved & (over > 0)) | ((part.phase > 0) & felt)
    solved = solved & ~restoring
    if bool(restoring.any()):
        away = restoration(program, part.x, rows, local, (part.phase > 0) & restoring)
        d = torch.where(restoring[..., None], away, d)
    # The penalty: above every multiplier, and such that d promises a descent of the merit.
    most = torch.cat([mu, eta.abs(), over[..., None] * 0], -1).amax(-1)
    fall = (local.gradient * d).sum(-1)
    wanted = torch.where(
        over > 100 * eps * (1 + part.x.abs().amax(-1)),
        (fall + 0.5 * curvature) / (0.9 * over).clamp_min(torch.finfo(d.dtype).tiny),
        0,
    )
    enough = torch.maximum(1.1 * most, wanted)
    rho = torch.where(solved & (part.rho < enough), 1.5 * enough, part.rho)
    # A penalty far above what is needed makes the steps short: it comes down again, slowly.
    rho = torch.where(solved & (rho > 100 * enough), rho / 5, rho)
    lessened = matvec(local.rows.mT, local.violation)
    slope = torch.where(restoring, (lessened * d).sum(-1), fall - rho * over)
    merit = Merit(program, rows, rho, restoring)
    able = (solved | restoring) & torch.isfinite(d).all(-1)
    # No descent beyond rounding is promised: not a direction to search along.
    rising = slope > 10 * eps * (1 + local.f.abs() + rho * over)
    able = able & ~rising
    x, alpha, found = search(
        merit,
        local,
        part.x,
        torch.where(able[..., None], d, 0),
        torch.where(able, slope, 0),
        mu > 0,
    )
    moved = able & found
    take = torch.where(moved & ~restoring, alpha, 0)[..., None]
    damping = torch.where(
        moved, torch.where(part.damping > 1e-6, part.damping / 10, 0), 10 * part.damping + 1e-4
    )
    short = torch.where(moved & (alpha > _SHORT), 0, part.short + 1)
    renew = short >= _RENEW
    lam = torch.where(take > 0, part.lam + take * (mu - part.lam), part.lam)
    nu = torch.where(take > 0, part.nu + take * (eta - part.nu), part.nu)
    return State(
        torch.where(moved[..., None], x, part.x),
        torch.where(renew[..., None], 0, lam),
        torch.where(renew[..., None], 0, nu),
        torch.where(renew, 0, rho),
        damping,
        torch.where(moved, 0, part.failures + 1),
        torch.where(renew, 0, short),
        part.renewals + renew,
        torch.where(renew & (part.renewals >= 2), _PHASE, (part.phase - 1).clamp_min(0)),
        part.status,
    )


def _rows(params: tuple[Any, ...], dims: tuple[int | None, ...], index: Tensor) -> tuple[Any, ...]:
    """The params of some samples."""
    found = []
    for param, dim in zip(params, dims, strict=True):
        leaves, spec = flatten(param)
        if dim == 0:
            leaves = [leaf[index] if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        found.append(unflatten(leaves, spec))
    return tuple(found)
