"""f-PGDa and f-PGDb: projected gradient descent on a polyhedron, folded in two ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from foldopt._program import Constraint, Function, Program
from foldopt.nn._optimizer import DEFAULT, FoldedOptimizer, Options, Solver, like, point_of
from foldopt.operators._inverse import matvec
from foldopt.operators.polyhedron import polyhedron
from foldopt.operators.quadratic_program import Solver as InnerSolver
from foldopt.operators.quadratic_program import check_method
from foldopt.step import Step
from foldopt.steps._step import detached, positive_step_size

__all__ = ["f_pgd_a", "f_pgd_b"]

StepSize = float | Literal["auto"]


def f_pgd_a(
    objective: Function,
    inequality: Constraint | None = None,
    equality: Constraint | None = None,
    *,
    solver: Solver | None = None,
    step_size: StepSize = "auto",
    method: Literal["active_set", "qpth"] = "active_set",
    inner_solver: InnerSolver | None = None,
    shared: Sequence[int] = (),
    options: Options = DEFAULT,
) -> FoldedOptimizer:
    r"""Fold projected gradient descent, its projection a quadratic program differentiated by KKT.

    For :math:`\min f(x)` s.t. :math:`g(x) \le 0,\ h(x) = 0` with affine g and h, nothing else being
    convex: :math:`U(x, c) = P_C(x - \alpha \nabla f(x, c))`, where :math:`P_C` is the projection on
    the polyhedron, and :math:`\Phi = \partial P_C (I - \alpha \nabla^2 f)`.

    Parameters
    ----------
    objective
        ``objective(x, *params)`` of *one* sample, x of shape ``(n,)``, in PyTorch: one number.
        Batches ``(B, n)`` are formed by ``torch.func.vmap``.
    inequality, equality
        g and h, of one sample and affine in x: a vector, or a list of tensors to join. What they
        take from the params gets its gradient too. None: there are none.
    solver
        ``solver(*params) -> x``: any code. None: the step is iterated from ``x0``, which is
        gradient descent, no more.
    step_size
        α > 0, or "auto": the reciprocal of a bound on the Hessian's eigenvalues (its largest
        row sum), for each sample. It does not change the derivative, only the condition of the
        adjoint system, and how fast the step converges.
    method
        How the projection is differentiated, see :func:`~foldopt.operators.quadratic_program`.
    inner_solver
        What computes the projection, see there; None for ADMM in PyTorch.
    shared
        Which of the params, by position, all samples share; the others have one row a sample.
    options
        How to fold, see :class:`Options`.

    Returns
    -------
    FoldedOptimizer
        ``layer(*params) -> x``, or ``layer(*params, x0=…)`` without a solver;
        ``layer.fold(x_star, *params)`` for a solution that is there already.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, a shape does not fit, or a constraint is not affine.
    FoldError
        In a call, for the reasons of :func:`~foldopt.fold`.

    References
    ----------
    arXiv 2301.12047, Section 5 (f-PGDa) and eq. 34.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> layer = fo.nn.f_pgd_a(
    ...     lambda x, c: 0.5 * ((x - c) ** 2).sum(),
    ...     inequality=lambda x, c: -x, equality=lambda x, c: x.sum() - 1)
    >>> c = torch.tensor([[0.5, 0.7, -1.0]], requires_grad=True)
    >>> x = layer(c, x0=torch.zeros(1, 3))
    >>> x[0, 0].backward()
    >>> torch.round(c.grad, decimals=4) + 0
    tensor([[ 0.5000, -0.5000,  0.0000]])
    """
    return _pgd(
        "f_pgd_a", objective, inequality, equality, solver, step_size, method, inner_solver,
        shared, options,
    )  # fmt: skip


def f_pgd_b(
    objective: Function,
    inequality: Constraint | None = None,
    equality: Constraint | None = None,
    *,
    solver: Solver | None = None,
    step_size: StepSize = "auto",
    inner_solver: InnerSolver | None = None,
    shared: Sequence[int] = (),
    options: Options = DEFAULT,
) -> FoldedOptimizer:
    r"""Fold projected gradient descent, its projection in turn a folded ADMM iteration.

    The same problem, step and answer as :func:`f_pgd_a`. However many iterations the inner method
    takes, one is recorded: a fold inside a step inside a fold.

    Parameters
    ----------
    objective, inequality, equality, solver, step_size, inner_solver, shared, options
        As for :func:`f_pgd_a`.

    Returns
    -------
    FoldedOptimizer
        As for :func:`f_pgd_a`.

    Raises
    ------
    TypeError, ValueError, FoldError
        As for :func:`f_pgd_a`.

    References
    ----------
    arXiv 2301.12047, Section 5 (f-PGDb), eq. 29 and 30.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> layer = fo.nn.f_pgd_b(
    ...     lambda x, c: 0.5 * ((x - c) ** 2).sum(), inequality=lambda x, c: -x)
    >>> c = torch.tensor([[0.5, -1.0]], requires_grad=True)
    >>> x = layer(c, x0=torch.zeros(1, 2))
    >>> x.sum().backward()
    >>> torch.round(c.grad, decimals=4) + 0
    tensor([[1., 0.]])
    """
    return _pgd(
        "f_pgd_b", objective, inequality, equality, solver, step_size, "admm", inner_solver,
        shared, options,
    )  # fmt: skip


# -- projected gradient on a polyhedron given by functions ----------------------------------


def _pgd(
    name: str,
    objective: Function,
    inequality: Constraint | None,
    equality: Constraint | None,
    solver: Solver | None,
    step_size: StepSize,
    method: Any,
    inner_solver: InnerSolver | None,
    shared: Sequence[int],
    options: Options,
) -> FoldedOptimizer:
    program = Program.of(objective, inequality, equality, shared, name)
    bare = Program.of(objective, None, None, shared, name)
    check_method(name, method)
    if isinstance(step_size, str) and step_size != "auto":
        raise ValueError(f"{name}: step_size must be a number above 0 or 'auto', got {step_size!r}")
    if not isinstance(step_size, str):
        positive_step_size(step_size)

    def update(x: Tensor, *params: Any) -> Tensor:
        y, constant = detached((x, params))
        alpha = auto(y, constant) if isinstance(step_size, str) else step_size
        # The constraints are affine: their rows may be taken anywhere, and do not move with x.
        g, G, h, A = program.constraints(y, params)
        forward = x - alpha * program.gradient(x, params)
        return polyhedron(
            forward, G, matvec(G, y) - g, A, matvec(A, y) - h,
            method=method, start=y, solver=inner_solver,
            certify=options.certify, on_failure=options.on_failure,
        )  # fmt: skip

    def auto(x: Tensor, params: tuple[Any, ...]) -> Tensor:
        none = x.new_zeros(*x.shape[:-1], 0)
        # A bound on the largest absolute eigenvalue that NaN and every transform pass through.
        size = bare.hessian(x, none, none, params).abs().sum(-1).amax(-1, keepdim=True)
        return torch.where(size > 0, 1 / torch.where(size > 0, size, 1), 1)

    def to_state(found: Any, *params: Any) -> Tensor:
        x = point_of(name, found, params) if solver is None else like(found, params)
        _check_affine(name, program, x, params)
        return x

    return FoldedOptimizer(Step(update, name=name), to_state, solver, options, name)


def _check_affine(name: str, program: Program, x: Tensor, params: tuple[Any, ...]) -> None:
    """Raise unless g and h are affine, seen from a second point."""
    index = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
    move = 1 + torch.frac(index * 0.618) + x.abs()
    g, G, h, A = program.constraints(x, params)
    g1, _, h1, _ = program.constraints(x + move, params)
    for role, start, rows, end in (("inequality", g, G, g1), ("equality", h, A, h1)):
        size = start.abs() + end.abs() + matvec(rows.abs(), move)
        gap = (end - start - matvec(rows, move)).abs()
        if bool((gap > 1e-4 * size).any()):
            raise ValueError(
                f"{name}: {role} is not affine in x, and a projected gradient step needs a "
                "polyhedron to project on. f_sqp takes any smooth constraint"
            )
