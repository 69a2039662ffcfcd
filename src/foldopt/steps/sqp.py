"""Sequential quadratic programming: the step that solves a quadratic program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foldopt._arguments import CERTIFY, OnFailure
from foldopt._program import Constraint, Program
from foldopt.certify import Certify
from foldopt.operators._kkt import PrimalDual, active_set
from foldopt.operators.quadratic_program import Method, Solver, check_method, quadratic_program
from foldopt.step import Step
from foldopt.steps._step import check_state, damping, detached

__all__ = ["sqp"]


def sqp(
    objective: Callable[..., Tensor],
    inequality: Constraint | None = None,
    equality: Constraint | None = None,
    step_size: float = 1.0,
    *,
    method: Method = "active_set",
    solver: Solver | None = None,
    certify: Certify = CERTIFY,
    on_failure: OnFailure = "raise",
    shared: Sequence[int] = (),
) -> Step:
    r"""Sequential quadratic programming for min f(x) s.t. g(x) ≤ 0, h(x) = 0.

    One step solves :math:`\min_d \tfrac12 d^\top H d + \nabla f^\top d` s.t.
    :math:`g + G d \le 0,\ h + A d = 0` with the Hessian H of the Lagrangian at (x, λ, ν), whose
    solution d has the multipliers μ and η, and sets

    .. math:: x^+ = x + \alpha d, \quad \lambda^+ = \lambda + \alpha (\mu - \lambda), \quad
              \nu^+ = \nu + \alpha (\eta - \nu).

    :math:`\Phi = (1 - \alpha) I` on (x, λ, ν) where strict complementarity, independent active
    constraints and the second-order condition hold: zero for α = 1, where the adjoint takes one
    product. Nothing need be convex.

    Parameters
    ----------
    objective
        ``objective(x, *params)`` of *one* sample, x of shape ``(n,)``, in PyTorch: one number.
    inequality, equality
        g and h, of one sample: a vector, or a list of tensors to join. None: there are none.
    step_size
        α, 0 < α ≤ 1.
    method
        How the inner program is differentiated: ``"active_set"``, ``"admm"`` or ``"qpth"``, see
        :func:`~foldopt.operators.quadratic_program`.
    solver
        What solves the inner program, see there; None for ADMM in PyTorch.
    certify, on_failure
        For the inner fold, see there.
    shared
        Which of the params, by position, all samples share; the others have one row a sample.

    Returns
    -------
    Step
        ``step(z, *params)`` on z = (x, λ, ν): a :class:`~foldopt.operators.PrimalDual` or a tuple,
        of shapes ``(B, n)``, ``(B, m)``, ``(B, k)``, or those without B; m and k may be 0.
        :func:`multipliers` finds λ and ν if only x is known. ``step.solution`` is x.

    Raises
    ------
    FoldError
        If the inner program is not solved.
    TypeError, ValueError
        If an argument is not of its kind, or a shape does not fit.

    Notes
    -----
    H is held constant where U is differentiated, and made positive definite first where it is not:
    by :math:`\sigma J^\top J` with the rows J of the equalities and of the active inequalities,
    which changes neither d nor its multipliers; and where that is not enough (the second-order
    condition fails) by a multiple of I, which leaves the fixed points, and the derivatives of a
    fold, as they are, but makes Φ nonzero. The derivatives of U itself, away from a fixed point,
    are not exact. There is no line search: iterated, the step converges from nearby only.

    References
    ----------
    arXiv 2301.12047, eq. 31 and 32, with the factor ½ and the term λ that were lost in print.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> step = fo.steps.sqp(lambda x, c: -x[0], lambda x, c: x @ x - c**2)
    >>> c = torch.tensor([[2.0]], requires_grad=True)
    >>> z = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.25]]), torch.zeros(1, 0)
    >>> x, _, _ = fo.fold(step, z, c)
    >>> x[0, 0].backward()
    >>> c.grad
    tensor([[1.]])
    """
    program = Program.of(objective, inequality, equality, shared, "steps.sqp")
    alpha = damping(step_size)
    check_method("steps.sqp", method)

    def update(z: Any, *params: Any) -> Any:
        x, lam, nu = check_state("steps.sqp", z)
        g, G, h, A = program.constraints(x, params)
        p = program.gradient(x, params)
        (y, mu, eta, g0, G0, A0), constant = detached(((x, lam, nu, g, G, A), params))
        active = active_set(g0, mu)
        H, weight = convexify(program.hessian(y, mu, eta, constant), G0, A0, active & (mu > 0))
        # The gradient of the terms σ/2 ‖J d + r‖² that came with σ JᵀJ, zero at the solution.
        a = (active & (mu > 0)).to(g.dtype)
        p = p + weight * ((G.mT @ (a * g)[..., None] + A.mT @ h[..., None])[..., 0])
        start = PrimalDual(torch.zeros_like(y), mu, eta)
        d, mu_new, eta_new = quadratic_program(
            H, p, G, -g, A, -h,
            method=method, start=start, solver=solver, certify=certify, on_failure=on_failure,
        )  # fmt: skip
        moves = (d, mu_new - lam, eta_new - nu)
        new = (old + alpha * move for old, move in zip((x, lam, nu), moves, strict=True))
        return type(z)(*new) if hasattr(z, "_fields") else type(z)(new)

    return Step(update, newton=alpha == 1, readout=lambda z, *_: z[0], name="sqp")


def convexify(H: Tensor, G: Tensor, A: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """H + σ JᵀJ + τ I, positive definite, and σ, ``(*batch, 1)``; both are zero where H already is.

    J holds the equalities and the active inequalities. Where H is positive definite on their null
    space, a large enough σ suffices (Debreu's lemma). The sizes of σ are tried in turn: a larger
    one than needed only spoils the condition of the program.
    """
    n = H.shape[-1]
    eye = torch.eye(n, dtype=H.dtype, device=H.device)
    J = torch.cat([active.to(H.dtype).unsqueeze(-1) * G, A], -2)
    JJ = J.mT @ J
    size = H.abs().amax((-2, -1), keepdim=True)
    size = torch.where(size > 0, size, 1)  # without curvature any size is as good as another
    reach = JJ.abs().amax((-2, -1), keepdim=True)
    unit = torch.where(reach > 0, size / torch.where(reach > 0, reach, 1), 0)
    least = 1e-6 * size  # what counts as positive: far above rounding
    sigma = torch.zeros_like(size)
    value = _least_eigenvalue(H)
    for factor in (1.0, 10.0, 100.0, 1000.0):
        trial = _least_eigenvalue(H + factor * unit * JJ)
        helps = (value < least) & (trial > value)
        sigma = torch.where(helps, factor * unit, sigma)
        value = torch.where(helps, trial, value)
    # Where that is not enough, the least eigenvalue changes its sign: I − Φ stays well conditioned.
    tau = torch.where(value < least, least - value - value.clamp_max(0), 0)
    return H + sigma * JJ + tau * eye, sigma[..., 0]


def _least_eigenvalue(H: Tensor) -> Tensor:
    """Shape ``(*batch, 1, 1)``; NaN where H is not finite, which eigvalsh would refuse."""
    finite = torch.isfinite(H).flatten(-2).all(-1)[..., None, None]
    values = torch.linalg.eigvalsh(torch.where(finite, H, 0))[..., :1, None]
    return torch.where(finite, values, torch.nan)
