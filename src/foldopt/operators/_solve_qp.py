"""A forward pass for small convex quadratic programs that needs nothing but torch.

ADMM finds out which constraints are active; one KKT solve on those then gives the solution to
machine precision. It is tried every so many iterations, and the sample is done when its answer
meets all the optimality conditions. Any other solver may take this one's place.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from foldopt.operators import _admm
from foldopt.operators._inverse import matvec, symmetric_inverse
from foldopt.operators._kkt import PrimalDual, active_set, kkt_matrix
from foldopt.status import Status

__all__ = ["QP", "kkt_error", "polish", "solve_qp"]

# Between two attempts to finish with a KKT solve; after each the penalty may change.
_CHUNK = 25


@dataclasses.dataclass(frozen=True)
class QP:
    """min ½xᵀQx + pᵀx s.t. Gx ≤ h, Ax = b, every block with its batch dimension."""

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor

    def scaled(self) -> tuple[QP, Tensor, Tensor, Tensor]:
        """The same program with rows of length one and an objective of size one."""
        tiny = torch.finfo(self.p.dtype).tiny
        rows = torch.linalg.vector_norm(self.G, dim=-1)
        rows = torch.where(rows > tiny, rows, 1)
        columns = torch.linalg.vector_norm(self.A, dim=-1)
        columns = torch.where(columns > tiny, columns, 1)
        size = torch.linalg.matrix_norm(self.Q, dim=(-2, -1)) / max(1, self.p.shape[-1]) ** 0.5
        size = torch.where(size > tiny, size, _largest(self.p))
        size = torch.where(size > tiny, size, 1)
        program = QP(
            self.Q / size[..., None, None],
            self.p / size[..., None],
            self.G / rows[..., None],
            self.h / rows,
            self.A / columns[..., None],
            self.b / columns,
        )
        return program, size, rows, columns

    def usable(self) -> Tensor:
        """Which samples have finite data, but for bounds h = ∞; ``(B,)``."""
        blocks = (
            self.Q,
            self.p,
            self.G,
            self.A,
            self.b,
            torch.where(self.h == torch.inf, 0, self.h),
        )
        return torch.stack([torch.isfinite(block.flatten(1)).all(-1) for block in blocks]).all(0)


def kkt_error(qp: QP, point: PrimalDual) -> Tensor:
    """The largest violation of any optimality condition, relative to the terms in it; ``(B,)``."""
    x, lam, nu = point
    terms = (matvec(qp.Q, x), qp.p, matvec(qp.G.mT, lam), matvec(qp.A.mT, nu))
    size = 1 + torch.stack([_largest(term) for term in terms]).amax(0)
    stationarity = _largest(sum(terms[1:], terms[0])) / size
    Gx, Ax = matvec(qp.G, x), matvec(qp.A, x)
    reach = 1 + torch.maximum(_largest(x), torch.maximum(_largest(qp.b), _largest(Gx)))
    slack = qp.h - Gx
    infinite = torch.isinf(qp.h)
    primal = torch.maximum(_largest(Ax - qp.b), _largest((-slack).clamp_min(0))) / reach
    gap = torch.minimum(lam.abs() / size[..., None], slack.abs() / reach[..., None])
    complementary = _largest(torch.where(infinite, lam.abs(), gap))
    dual = _largest((-lam).clamp_min(0)) / size
    return torch.stack([stationarity, primal, complementary, dual]).amax(0)


def polish(qp: QP, active: Tensor, near: PrimalDual | None = None) -> PrimalDual:
    """The solution, with multipliers, if exactly these inequalities are active.

    Of the multipliers of dependent constraints those of least norm, or those ``near`` some others.
    """
    n, m = qp.p.shape[-1], qp.h.shape[-1]
    K = kkt_matrix(qp.Q, qp.G, qp.A, active)
    M = symmetric_inverse(K)
    right = torch.cat([-qp.p, torch.where(active, qp.h, 0), qp.b], -1)
    z = torch.zeros_like(right)
    if near is not None:
        z = torch.cat([near.x, torch.where(active, near.inequality, 0), near.equality], -1)
    # With one round of refinement: an inverse loses more digits than a factorization.
    for _ in range(2):
        z = z + matvec(M, right - matvec(K, z))
    return PrimalDual(z[..., :n], torch.where(active, z[..., n : n + m], 0), z[..., n + m :])


def solve_qp(
    qp: QP, guess: Tensor | None, max_iterations: int, exact: bool = True
) -> tuple[PrimalDual, Tensor]:
    """Solve, from a guess of the active set; the solution and each sample's status.

    ``exact=False`` leaves ADMM's own last iterate as it is, unpolished.
    """
    dtype = qp.p.dtype
    tolerance = torch.finfo(dtype).eps ** (0.75 if dtype == torch.float64 else 0.7)
    program, size, rows, columns = qp.scaled()
    samples, m = qp.h.shape
    guess = torch.zeros_like(qp.h, dtype=torch.bool) if guess is None else guess
    best = polish(program, guess) if exact else _zeros(program)
    error = kkt_error(program, best)
    # A sample whose data are not finite is not worth an iteration.
    usable = qp.usable()
    error = torch.where(torch.isnan(error), torch.inf, error)
    error = torch.where(usable, error, 0)
    penalty = torch.ones(samples, dtype=dtype, device=qp.p.device)
    w = matvec(program.G, best.x.nan_to_num()) if m else program.h
    spent, last = 0, guess
    verdict = torch.zeros_like(error, dtype=torch.int64)
    while spent < max_iterations and bool((error > tolerance).any()):
        prepared = _admm.precompute(
            _proximal(program.Q), program.p, program.A, program.b, program.G,
            None, program.h, penalty,
        )  # fmt: skip
        count = min(_CHUNK, max_iterations - spent)
        before = w
        for _ in range(count):
            before, w = w, _admm.update(w, *prepared)
        spent += count
        trial = _admm.readout(w, *prepared)
        best, error = _better(program, best, error, trial)
        if exact:
            slack = matvec(program.G, trial.x) - program.h
            active = active_set(slack, trial.inequality / penalty[..., None])
            polished = polish(program, active)
            best, error = _better(program, best, error, polished)
            stuck = (error > tolerance) & (active == last).all(-1)
            if bool(stuck.any()):
                best, error = _unstick(program, best, error, trial, active, stuck)
                found = _no_solution(program, _admm.readout(before, *prepared), trial, polished)
                verdict = torch.where(error > tolerance, found, verdict)
                error = torch.where(verdict == 0, error, 0)
            last = active
        w, penalty = _balance(program, trial, w, before, penalty)
    status = torch.where(error <= tolerance, int(Status.CONVERGED), int(Status.MAX_ITERATIONS))
    status = torch.where(verdict == 0, status, verdict)
    fine = usable & torch.isfinite(best.x).all(-1)
    status = torch.where(fine, status, int(Status.NONFINITE))
    unscaled = PrimalDual(
        best.x,
        best.inequality * size[..., None] / rows,
        best.equality * size[..., None] / columns,
    )
    return unscaled, status


def _better(
    qp: QP, best: PrimalDual, error: Tensor, trial: PrimalDual
) -> tuple[PrimalDual, Tensor]:
    found = kkt_error(qp, trial)
    wins = found < error  # NaN never wins
    chosen = (torch.where(wins[..., None], new, old) for new, old in zip(trial, best, strict=True))
    return PrimalDual(*chosen), torch.where(wins, found, error)


def _unstick(
    qp: QP, best: PrimalDual, error: Tensor, trial: PrimalDual, active: Tensor, stuck: Tensor
) -> tuple[PrimalDual, Tensor]:
    """Other active sets for samples on whose own ADMM insists, though it gives no solution."""
    where = stuck.nonzero()[:, 0]
    part = QP(*(getattr(qp, field.name)[where] for field in dataclasses.fields(qp)))
    trial = PrimalDual(*(block[where] for block in trial))
    active, found = active[where], (PrimalDual(*(block[where] for block in best)), error[where])
    # More constraints than can be independent: the multipliers of least norm may be negative where
    # others are not.
    found = _better(part, *found, polish(part, active, trial))
    # Newton's method goes on from an active set to the next one.
    first = polish(part, active)
    active = active_set(matvec(part.G, first.x) - part.h, first.inequality)
    found = _better(part, *found, polish(part, active))
    active = _with_next(part, found[0], found[0].inequality > 0)
    point, new = _better(part, *found, polish(part, active))
    moved = (old.index_copy(0, where, block) for old, block in zip(best, point, strict=True))
    return PrimalDual(*moved), error.index_copy(0, where, new)


def _with_next(qp: QP, point: PrimalDual, active: Tensor) -> Tensor:
    """The active set with the constraint that comes next on the way of steepest descent.

    A linear program has flat directions as long as it is not at a vertex, and ADMM may creep there.
    """
    if not active.shape[-1]:
        return active
    speed, slack = -matvec(qp.G, _slope(qp, point)), qp.h - matvec(qp.G, point.x)
    towards = ~active & (speed > torch.finfo(speed.dtype).eps ** 0.7)
    time = torch.where(towards, slack / torch.where(towards, speed, 1), torch.inf)
    first = time.argmin(-1, keepdim=True)
    return active | (torch.isfinite(time) & torch.zeros_like(active).scatter(-1, first, True))


def _no_solution(qp: QP, old: PrimalDual, new: PrimalDual, near: PrimalDual) -> Tensor:
    """INFEASIBLE or UNBOUNDED where a certificate of it is at hand, 0 elsewhere; ``(B,)``.

    Of a program without a solution ADMM's iterates end in steps of constant length, which are such
    certificates. A certificate is its own proof, wherever it came from.
    """
    small = torch.finfo(qp.p.dtype).eps ** 0.6
    lam, nu = (new.inequality - old.inequality).clamp_min(0), new.equality - old.equality
    # What no multiplier removes of an equality proves as much: Aᵀν = 0 and bᵀν < 0.
    rest = matvec(qp.A, near.x) - qp.b
    status = qp.p.new_zeros(len(qp.p), dtype=torch.int64)
    for y, z in ((lam, nu), (torch.zeros_like(lam), rest)):
        # Gᵀy + Aᵀz = 0, y ≥ 0 and hᵀy + bᵀz < 0: no x has G x ≤ h and A x = b (Farkas).
        size = y.sum(-1) + z.abs().sum(-1)
        pull = _largest(matvec(qp.G.mT, y) + matvec(qp.A.mT, z))
        used = torch.where(y > 0, qp.h, 0)
        worth, scale = (used * y).sum(-1) + (qp.b * z).sum(-1), _largest(used) + _largest(qp.b)
        proved = (pull <= small * size) & (worth < -1e3 * small * size * scale)
        status = torch.where(proved, int(Status.INFEASIBLE), status)
    for d in (new.x - old.x, -_slope(qp, near)):
        # Q d = 0, G d ≤ 0, A d = 0 and pᵀd < 0: down without end.
        size = _largest(d)
        rise = torch.where(torch.isinf(qp.h), 0, matvec(qp.G, d)).clamp_min(0)
        moved = torch.stack([_largest(part) for part in (matvec(qp.Q, d), rise, matvec(qp.A, d))])
        down = (qp.p * d).sum(-1) < -1e3 * small * size * _largest(qp.p)
        proved = (moved.amax(0) <= small * size) & down & (status == 0)
        status = torch.where(proved, int(Status.UNBOUNDED), status)
    return status


def _slope(qp: QP, point: PrimalDual) -> Tensor:
    x, lam, nu = point
    return matvec(qp.Q, x) + qp.p + matvec(qp.G.mT, lam) + matvec(qp.A.mT, nu)


def _balance(
    qp: QP, point: PrimalDual, w: Tensor, before: Tensor, penalty: Tensor
) -> tuple[Tensor, Tensor]:
    """A heuristic: a penalty that keeps primal and dual residual of one size.

    The multiplier λ = ρ (w − z) is kept, and so w changes with ρ.
    """
    if not qp.h.shape[-1]:
        return w, penalty
    z, z_before = torch.minimum(w, qp.h), torch.minimum(before, qp.h)
    primal = _largest(matvec(qp.G, point.x) - z) / (1e-12 + _largest(z))
    dual = penalty * _largest(z - z_before) / (1e-12 + _largest(point.inequality))
    ratio = (primal / dual.clamp_min(1e-300)).sqrt().clamp(0.1, 10)
    change = (ratio > 3) | (ratio < 1 / 3)
    new = torch.where(change, penalty * ratio, penalty).clamp(1e-6, 1e6)
    return z + (w - z) * (penalty / new)[..., None], new


def _proximal(Q: Tensor) -> Tensor:
    """Q + δI: a semidefinite Q (a linear program) has its KKT matrix made regular.

    It moves the iterates by as little as rounding does, and the last KKT solve is without it.
    """
    delta = torch.finfo(Q.dtype).eps ** 0.7
    return Q + delta * torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)


def _zeros(qp: QP) -> PrimalDual:
    return PrimalDual(*(torch.zeros_like(block) for block in (qp.p, qp.h, qp.b)))


def _largest(v: Tensor) -> Tensor:
    return v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])
