"""Newton's method, on the gradient and on the optimality conditions: steps with Φ = 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from foldopt._program import Constraint, Program
from foldopt.operators._inverse import matvec, symmetric_inverse
from foldopt.operators._kkt import (
    PrimalDual,
    active_set,
    kkt_inverse,
    kkt_residual,
    least_squares_multipliers,
)
from foldopt.step import Step
from foldopt.steps._step import check_state, damping, detached

__all__ = ["multipliers", "newton", "newton_kkt"]


def newton(
    objective: Callable[..., Tensor],
    step_size: float = 1.0,
    *,
    shared: Sequence[int] = (),
) -> Step:
    r"""Newton's method, :math:`U(x, c) = x - \alpha\, (\nabla^2 f)^{-1} \nabla f`.

    :math:`\Phi = (1 - \alpha) I` at a stationary point: zero for α = 1, where the adjoint takes one
    product; ρ(Φ) < 1 for 0 < α < 2, also at a saddle or a maximum. The Hessian must be regular.

    Parameters
    ----------
    objective
        ``objective(x, *params)`` of *one* sample, x of shape ``(n,)``, in PyTorch: one number.
        Batches ``(B, n)`` are formed by ``torch.func.vmap``.
    step_size
        α, 0 < α ≤ 1.
    shared
        Which of the params, by position, all samples share; the others have one row a sample.

    Returns
    -------
    Step
        ``step(x, *params)``, x of shape ``(n,)`` or ``(B, n)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, or the objective's value not one number.

    Notes
    -----
    The inverse of the Hessian is held constant where U is differentiated. The fixed points are the
    same for every regular matrix in its place, so that the derivatives of a fold are exact, of all
    orders, without third derivatives of f; those of U itself, away from a fixed point, are not.

    References
    ----------
    J. Nocedal, S. J. Wright, Numerical Optimization (2006), Section 3.3.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> step = fo.steps.newton(lambda x, c: (x.exp() - c * x).sum())  # x* = log c
    >>> c = torch.tensor([[2.0, 4.0]], requires_grad=True)
    >>> x = fo.fold(step, c.detach().log(), c)
    >>> x.sum().backward()
    >>> c.grad
    tensor([[0.5000, 0.2500]])
    """
    program = Program.of(objective, None, None, shared, "steps.newton")
    alpha = damping(step_size)

    def update(x: Tensor, *params: Any) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"steps.newton: x must be one tensor, got {type(x).__name__}")
        still, constant = detached((x, params))
        none = still.new_zeros(*still.shape[:-1], 0)
        M = symmetric_inverse(program.hessian(still, none, none, constant)).detach()
        return x - alpha * matvec(M, program.gradient(x, params))

    return Step(update, symmetric=True, newton=alpha == 1, name="newton")


def newton_kkt(
    objective: Callable[..., Tensor],
    inequality: Constraint | None = None,
    equality: Constraint | None = None,
    step_size: float = 1.0,
    *,
    shared: Sequence[int] = (),
) -> Step:
    r"""Newton's method on the optimality conditions of the active constraints.

    For :math:`\min f(x)` s.t. :math:`g(x) \le 0,\ h(x) = 0` with multipliers λ and ν, an inequality
    counts as active where :math:`\lambda_i + g_i > 0`. With :math:`F(x, \lambda, \nu)` the gradient
    of the Lagrangian, the active constraints and the multipliers of the others,
    :math:`U(z, c) = z - \alpha\, (F')^{-1} F(z, c)`.

    :math:`\Phi = (1 - \alpha) I` wherever strict complementarity holds and F' is regular (linearly
    independent active constraints, reduced Hessian regular): zero for α = 1, so that the adjoint is
    one product with an inverse that is there already. Nothing need be convex.

    Parameters
    ----------
    objective
        ``objective(x, *params)`` of *one* sample, x of shape ``(n,)``, in PyTorch: one number.
    inequality, equality
        g and h, of one sample: a vector, or a list of tensors to join. None: there are none.
    step_size
        α, 0 < α ≤ 1.
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
    TypeError, ValueError
        If an argument is not of its kind, or a shape does not fit.

    Notes
    -----
    The inverse of F' is held constant where U is differentiated, as in :func:`newton`. Dependent
    active constraints: the pseudo-inverse serves, which is right for x and means the multipliers of
    least norm. A weakly active constraint (λ = g = 0) counts as inactive: an element of the
    generalized Jacobian.

    References
    ----------
    M. Hintermüller, K. Ito, K. Kunisch, SIAM J. Optim. 13 (2002), 865–888 (the active set).

    Examples
    --------
    The point of the disc of radius c that lies farthest to the right:

    >>> import torch, foldopt as fo
    >>> step = fo.steps.newton_kkt(lambda x, c: -x[0], lambda x, c: x @ x - c**2)
    >>> c = torch.tensor([[2.0]], requires_grad=True)
    >>> z = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.25]]), torch.zeros(1, 0)
    >>> x, _, _ = fo.fold(step, z, c)
    >>> x[0, 0].backward()
    >>> c.grad
    tensor([[1.]])
    """
    program = Program.of(objective, inequality, equality, shared, "steps.newton_kkt")
    alpha = damping(step_size)

    def update(z: Any, *params: Any) -> Any:
        x, lam, nu = check_state("steps.newton_kkt", z)
        (y, mu, eta), constant = detached(((x, lam, nu), params))
        g, G, _, A = program.constraints(y, constant)
        active = active_set(g, mu)
        mu = mu.where(active, mu.new_zeros(()))
        M = kkt_inverse(program.hessian(y, mu, eta, constant), G, A, active)
        held = lam.where(active, lam.new_zeros(()))
        gradient, g, h = program.lagrangian_gradient(x, held, nu, params)
        change = matvec(M, kkt_residual(gradient, g, h, lam, active))
        moves = change.split([x.shape[-1], lam.shape[-1], nu.shape[-1]], -1)
        new = (old - alpha * move for old, move in zip((x, lam, nu), moves, strict=True))
        return type(z)(*new) if hasattr(z, "_fields") else type(z)(new)

    return Step(update, newton=alpha == 1, readout=lambda z, *_: z[0], name="newton_kkt")


def multipliers(
    objective: Callable[..., Tensor],
    inequality: Constraint | None = None,
    equality: Constraint | None = None,
    *,
    shared: Sequence[int] = (),
) -> Callable[..., PrimalDual]:
    r"""Find the multipliers that belong to a solution, by least squares.

    :math:`\min_{\lambda, \nu} \|\nabla f + G^\top\lambda + A^\top\nu\|^2 + \sum_i (g_i\lambda_i)^2`
    is zero at a solution, and says without a tolerance which constraints are active.

    Parameters
    ----------
    objective, inequality, equality, shared
        As for :func:`newton_kkt`.

    Returns
    -------
    find
        ``find(x, *params)`` gives the :class:`~foldopt.operators.PrimalDual` (x, λ, ν), the
        multipliers of least norm where they are not unique, and λ ≥ 0. No gradient flows through.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, or a shape does not fit.

    References
    ----------
    G. Di Pillo, L. Grippo, SIAM J. Control Optim. 17 (1979), 618–628 (the weighted least squares).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> find = fo.steps.multipliers(lambda x, c: -x[0], lambda x, c: x @ x - c**2)
    >>> find(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0]])).inequality
    tensor([[0.2500]])
    """
    program = Program.of(objective, inequality, equality, shared, "steps.multipliers")

    def find(x: Tensor, *params: Any) -> PrimalDual:
        y, constant = detached((x, params))
        g, G, h, A = program.constraints(y, constant)
        both = least_squares_multipliers(program.gradient(y, constant), g, G, A).detach()
        lam, nu = both.split([g.shape[-1], h.shape[-1]], -1)
        return PrimalDual(y, lam.clamp_min(0), nu)

    return find
