"""A convex quadratic program as an operator inside a step, differentiated in three ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from foldopt._arguments import CERTIFY, OnFailure
from foldopt._calculus import wrapped_by_a_transform
from foldopt.certify import Certify
from foldopt.layer import folded
from foldopt.operators import _admm
from foldopt.operators._inverse import matvec
from foldopt.operators._kkt import (
    PrimalDual,
    active_set,
    kkt_inverse,
    kkt_residual,
)
from foldopt.operators._qp_arguments import as_point, blocks_of, check_convex, flat_start
from foldopt.operators._qpth import by_qpth
from foldopt.operators._solve_qp import QP, solve_qp
from foldopt.status import Solution
from foldopt.step import Step

__all__ = ["Method", "quadratic_program"]

Method = Literal["active_set", "admm", "qpth"]
METHODS = ("active_set", "admm", "qpth")
Solver = Callable[..., Any]


def quadratic_program(
    Q: Tensor,
    p: Tensor,
    G: Tensor | None = None,
    h: Tensor | None = None,
    A: Tensor | None = None,
    b: Tensor | None = None,
    *,
    method: Method = "active_set",
    start: Tensor | PrimalDual | None = None,
    solver: Solver | None = None,
    max_iterations: int = 10_000,
    certify: Certify = CERTIFY,
    on_failure: OnFailure = "raise",
) -> PrimalDual:
    r"""Solve a convex quadratic program, with derivatives in all its data.

    .. math:: \min_x \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad G x \le h,\; A x = b.

    It is meant as the inner operator of a step, a fold inside a step inside a fold. The three
    methods find the same derivative on three ways, and any one may stand in for another.

    Parameters
    ----------
    Q
        Positive semidefinite, ``(n, n)`` or ``(*batch, n, n)``; of a matrix that is not symmetric
        the symmetric part counts, and its gradient is symmetric.
    p
        ``(*batch, n)``.
    G, h
        ``(m, n)`` or ``(*batch, m, n)``, and ``(m,)`` or ``(*batch, m)``; None: no inequalities.
    A, b
        ``(k, n)`` or ``(*batch, k, n)``, and ``(k,)`` or ``(*batch, k)``; None: no equalities.
    method
        How to differentiate. ``"active_set"``: one KKT solve on the active constraints, a step
        with Φ = 0. ``"admm"``: fold one ADMM iteration. ``"qpth"``: that library solves and
        differentiates (installed separately; Q positive definite, first derivatives in reverse
        mode only, and about 1e-8 of accuracy).
    start
        A solution is expected near this x, or :class:`PrimalDual` with multipliers: the
        constraints that are active there are tried first, which often is all it takes.
    solver
        ``solver(Q, p, G, h, A, b) -> (x, inequality, equality)``, any code, on tensors
        ``(B, …)``: what solves the program; or one of :mod:`foldopt.solvers`, such as
        ``solvers.QP()``. None: ADMM in PyTorch, finished by a KKT solve. Of no
        effect with ``"qpth"``.
    max_iterations
        Of that ADMM.
    certify, on_failure
        The thresholds of the fixed-point certificate, and what to do about a sample that fails,
        see :func:`~foldopt.fold`; no effect with ``"qpth"``, which raises.

    Returns
    -------
    PrimalDual
        x, the multipliers λ ≥ 0 of the inequalities, and those of the equalities.

    Raises
    ------
    FoldError
        If the program is not solved. Its status is INFEASIBLE or UNBOUNDED where that is proved.
    TypeError, ValueError
        If shapes or kinds do not fit, or Q is not positive semidefinite.

    Notes
    -----
    Of a weakly active constraint (zero multiplier, no slack) the derivative is taken as if it were
    absent: an element of the generalized Jacobian. Multipliers of dependent constraints are those
    of least norm.

    References
    ----------
    arXiv 2301.12047, Section 5 (inner optimizers) and eq. 29–31; B. Amos, J. Z. Kolter, ICML 2017
    (the active-set KKT derivative).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> p = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    >>> Q, G, h = torch.eye(2), torch.eye(2), torch.full((2,), 2.0)
    >>> x = fo.operators.quadratic_program(Q, p, G, h).x
    >>> x
    tensor([[1., 2.]], grad_fn=...)
    >>> torch.autograd.grad(x.sum(), p)
    (tensor([[-1.,  0.]]),)
    """
    check_method("quadratic_program", method)
    blocks, batch = blocks_of(Q, p, G, h, A, b)
    Q, *rest = blocks
    blocks = ((Q + Q.mT) / 2, *rest)  # all that xᵀQx sees; the gradient is symmetric then
    near = None if start is None else flat_start(start, batch, blocks)
    solve = _Forward(near, solver, max_iterations, certify, on_failure)
    point = _DIFFERENTIATE[method](solve, *blocks)
    return PrimalDual(*(part.reshape(*batch, part.shape[-1]) for part in point))


def check_method(name: str, method: Any) -> None:
    """Raise unless the method is one of the three."""
    if method not in METHODS:
        raise ValueError(f"{name}: method must be one of {METHODS}, got {method!r}")


# -- three ways to the derivative -----------------------------------------------------------


def _by_active_set(solve: _Forward, *blocks: Tensor) -> PrimalDual:
    return solve.fold(Step(_newton, newton=True, name="active_set"), solve.point)(*blocks)


def _newton(
    z: PrimalDual, Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor
) -> PrimalDual:
    """z − M F(z), see :mod:`foldopt.operators._kkt`.

    Where constraints are dependent, I − M F' is not zero but the projection on the multipliers
    that cancel. That part of Φ is taken out: the multipliers meant are those of least norm.
    """
    x, lam, nu = z
    n, m = x.shape[-1], lam.shape[-1]
    g = matvec(G, x) - h
    active = active_set(g, lam)
    held = torch.where(active, lam, 0)
    gradient = matvec(Q, x) + p + matvec(G.mT, held) + matvec(A.mT, nu)
    M = kkt_inverse(Q, G, A, active)
    change = matvec(M, kkt_residual(gradient, g, matvec(A, x) - b, lam, active))
    # u is zero, with the derivative of (λ, ν); M F' u is taken with F' held constant.
    u_lam, u_nu = lam - lam.detach(), nu - nu.detach()
    slope = matvec(G.mT.detach(), torch.where(active, u_lam, 0)) + matvec(A.mT.detach(), u_nu)
    image = torch.cat([slope, torch.where(active, 0, -u_lam), torch.zeros_like(u_nu)], -1)
    own = torch.cat([u_lam, u_nu], -1) - matvec(M[..., n:, :], image)
    dx, dy = change[..., :n], change[..., n:] + own
    return PrimalDual(x - dx, lam - dy[..., :m], nu - dy[..., m:])


def _by_admm(solve: _Forward, *blocks: Tensor) -> PrimalDual:
    Q, p, G, h, A, b = blocks
    # The one scale that the program itself has: ρ CᵀC beside Q.
    with torch.no_grad():
        size = torch.linalg.matrix_norm(Q.detach(), dim=(-2, -1)) / p.shape[-1] ** 0.5
        rho = torch.where(size > 0, size, 1)
    prepared = _admm.precompute(Q, p, A, b, G, None, h, rho)
    held = tuple(block.detach() for block in (*blocks, rho))

    def state(held: tuple[Tensor, ...], _prepared: Any) -> Solution:
        *given, penalty = held
        found = solve.point(*given)
        return found._replace(x=_admm.state_of(found.x, given[2], penalty[..., None]))

    step = Step(lambda w, _held, prepared: _admm.update(w, *prepared), name="admm_qp")
    w = solve.fold(step, state)(held, prepared[:4])
    return _admm.readout(w, *prepared)


_DIFFERENTIATE = {"active_set": _by_active_set, "admm": _by_admm, "qpth": by_qpth}


# -- the forward pass -----------------------------------------------------------------------


class _Forward:
    """The forward pass, on plain tensors, whatever transforms are active outside."""

    def __init__(
        self,
        start: PrimalDual | Tensor | None,
        solver: Solver | None,
        max_iterations: int,
        certify: Certify,
        on_failure: OnFailure,
    ) -> None:
        self.start, self.solver, self.max_iterations = start, solver, max_iterations
        self.certify = certify
        self.on_failure: OnFailure = on_failure

    def fold(self, step: Step, solver: Solver) -> Callable[..., Any]:
        """The solver with the derivative of a step."""
        return folded(step, certify=self.certify, on_failure=self.on_failure)(solver)

    def point(self, *blocks: Tensor) -> Solution:
        """The solution with its multipliers, and each sample's status."""
        qp = QP(*blocks)
        check_convex(qp.Q)
        if self.solver is not None:
            found = self.solver(*blocks)
            if not isinstance(found, Solution):
                return Solution(as_point(found, qp))
            # One of foldopt.solvers, say: x, and λ and ν first among the multipliers.
            parts = (found.x, *(found.multipliers or ())[:2])
            point = as_point(parts if len(parts) == 3 else found.x, qp)
            return Solution(point, found.status, messages=found.messages)
        return Solution(*solve_qp(qp, self._guess(qp), self.max_iterations))

    def _guess(self, qp: QP) -> Tensor | None:
        start = self.start
        # Under vmap the solver runs once an entry, and a start outside knows nothing of that.
        x = start.x if isinstance(start, PrimalDual) else start
        if x is None or x.shape != qp.p.shape or wrapped_by_a_transform(x):
            return None
        slack = matvec(qp.G, x) - qp.h
        if isinstance(start, PrimalDual):
            return active_set(slack, start.inequality)
        return slack > -(torch.finfo(x.dtype).eps ** 0.4) * (1 + qp.h.abs())
