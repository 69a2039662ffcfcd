"""The inner program by qpth, where it is installed."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from foldopt.operators._inverse import matvec, symmetric_inverse
from foldopt.operators._kkt import PrimalDual, kkt_matrix, least_squares_multipliers
from foldopt.operators._qp_arguments import check_convex
from foldopt.operators._solve_qp import QP, kkt_error
from foldopt.status import FoldError, Status, tally

__all__ = ["by_qpth"]


def by_qpth(_solve: Any, *blocks: Tensor) -> PrimalDual:
    try:
        qpth = importlib.import_module("qpth.qp")
    except ImportError as error:
        raise ImportError(
            f"quadratic_program: method='qpth' needs the package qpth ({error}). Install it "
            "(pip install qpth; with numpy 2: pip install --no-deps qpth==0.0.17), or use "
            "'active_set', which needs nothing"
        ) from error
    Q, p, G, h, A, b = blocks
    qp = QP(*(block.detach() for block in blocks))
    check_convex(qp.Q)
    usable = qp.usable() & torch.isfinite(qp.h).all(-1)
    if not bool(usable.all()):
        raise _unsolved("the data are not finite", torch.where(usable, 0, int(Status.NONFINITE)))
    if G.shape[-2] == 0 or len(Q) == 0:  # qpth asks for an inequality; what is left is linear
        none = h[..., :0].bool()
        M = symmetric_inverse(kkt_matrix(Q, G[..., :0, :], A, none))
        x = matvec(M, torch.cat([-p, b], -1))[..., : p.shape[-1]]
    else:
        # qpth tells absent blocks by their having no element, and averages over the batch the
        # gradient of what has no batch dimension: here everything has one.
        equality = (A, b) if A.shape[-2] else (p.new_empty(0), p.new_empty(0))
        broken = torch.full_like(usable, int(Status.BREAKDOWN), dtype=torch.int64)
        eps = 1e-14 if p.dtype == torch.float64 else 1e-7
        run = qpth.QPFunction(verbose=-1, eps=eps, maxIter=60, check_Q_spd=False)
        try:
            x = run(Q, p, G, h, *equality)
        except RuntimeError as error:
            raise _unsolved(f"it ended with {error}", broken) from error
        if x is None:
            raise _unsolved("it found no iterate", broken)
    slack = matvec(G, x) - h
    # qpth leaves an active constraint a slack of about 1e-8, which is no measure of anything.
    near = slack.detach().abs() <= torch.finfo(p.dtype).eps ** 0.4 * (1 + h.detach().abs())
    slack = torch.where(near, 0, slack)
    both = least_squares_multipliers(matvec(Q, x) + p, slack, G, A)
    point = PrimalDual(x, both[..., : h.shape[-1]], both[..., h.shape[-1] :])
    _check(qp, point)
    return point


def _check(qp: QP, point: PrimalDual) -> None:
    """Raise where qpth has not solved the program: it returns its best iterate, and says nothing.

    Seen also where a solution exists, if an inequality is weakly active.
    """
    program, size, rows, columns = qp.scaled()
    x, lam, nu = (part.detach() for part in point)
    size = size.unsqueeze(-1)
    error = kkt_error(program, PrimalDual(x, lam * rows / size, nu * columns / size))
    solved = error <= torch.finfo(x.dtype).eps ** 0.3
    if not bool(solved.all()):
        symptom = f"an optimality condition is violated by {float(error.max()):.1e}"
        raise _unsolved(symptom, torch.where(solved, 0, int(Status.MAX_ITERATIONS)))


def _unsolved(symptom: str, status: Tensor) -> FoldError:
    return FoldError(
        f"quadratic_program: qpth did not solve the program: {tally(status)}; {symptom}. It may be "
        "infeasible or unbounded, Q not positive definite, an equality redundant, or an inequality "
        "weakly active. method='active_set' asks for no more than a solution",
        status,
    )
