"""The theorem: differentiate any solver through one step that leaves its answer fixed.

With x* = U(x*, c), Φ = ∂U/∂x and Ψ = ∂U/∂c, the implicit function theorem gives

    (I − Φ) ∂x*/∂c = Ψ                                                    (DFP)

so that a loss gradient g = ∂L/∂x* becomes, with one linear solve,

    (I − Φᵀ) v = g,    ∂L/∂c = Ψᵀ v.                                      (eq. 25–27)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt._arguments import AUTO, CERTIFY, Adjoint, OnFailure, Step
from foldopt._call import Call, graph_break, prepare
from foldopt._problem import Forward, Problem
from foldopt._tree import Leaves, floating, given, put, split, spread, to_front
from foldopt.certify import Certify
from foldopt.step import bind

__all__ = ["fold"]

Context = Any
Grads = tuple[Tensor | None, ...]


@calculus.bind_as_given
class Fold(torch.autograd.Function):
    """x*(c): forward by the solver, derivatives by (DFP)."""

    @staticmethod
    def forward(problem: Problem, n_starts: int, *tensors: Tensor) -> Leaves:
        x = problem.run(tensors[:n_starts], tensors[n_starts:])
        # Autograd needs outputs that are not inputs. A view will do, but with dual numbers only the
        # first of several views gets its tangent (torch 2.13).
        copy = len(x) > 1 and calculus.forward_mode_active()
        if n_starts == 0 and not copy:
            return x  # what a solver returns is detached on its way here: no input
        return tuple(leaf.clone() if copy else leaf.view_as(leaf) for leaf in x)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple, output: Leaves) -> None:
        ctx.problem, ctx.n_starts, ctx.n_x = inputs[0], inputs[1], len(output)
        # x* is saved as the output that it is, connected to c: higher orders flow through it.
        ctx.save_for_backward(*output, *inputs[2 + inputs[1] :])
        ctx.save_for_forward(*output, *inputs[2 + inputs[1] :])

    @staticmethod
    def backward(ctx: Context, *g: Tensor) -> Grads:
        problem: Problem = ctx.problem
        x, params = split(ctx.saved_tensors, ctx.n_x)
        b = problem.layout(x).ravel(g)
        none = [None] * (2 + ctx.n_starts)
        if calculus.plain():
            # Nobody differentiates this: the step recorded on the way forward serves.
            jacobian = problem.jacobian(x, params)
            v = problem.solve(True, b, x, params, jacobian)
            return (*none, *jacobian.params_vjp(v))
        v = Solve.apply(problem, True, ctx.n_x, b, *x, *params)
        x, params = problem.tamed(x, params)
        where, c = floating(params)
        grads = calculus.vjp(
            lambda *c: problem.update(x, put(params, where, c)), c, problem.layout(x).unravel(v)
        )
        return (*none, *spread(len(params), where, grads))

    @staticmethod
    def jvp(ctx: Context, _problem: None, _n: None, *tangents: Tensor | None) -> Leaves:
        problem: Problem = ctx.problem
        x, params = split(ctx.saved_tensors, ctx.n_x)
        c_dot = tangents[ctx.n_starts :]
        layout = problem.layout(x)
        # t = ∂x*/∂c ċ solves (I − Φ) t = Ψ ċ.
        x_, c_ = problem.tamed(x, params)
        where, c, push = given(c_, c_dot)
        psi_c = calculus.jvp(lambda *c: problem.update(x_, put(c_, where, c)), c, push, like=x)
        t = Solve.apply(problem, False, ctx.n_x, layout.ravel(psi_c), *x, *params)
        return layout.unravel(t)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, problem: Problem, n_starts: int, *tensors: Tensor) -> Any:
        fronted, mapped = to_front(tensors, in_dims[2:])
        starts = tuple(
            leaf if yes else leaf.expand(info.batch_size, *leaf.shape)
            for leaf, yes in zip(fronted[:n_starts], mapped[:n_starts], strict=True)
        )
        child = problem.child(info.batch_size, mapped[n_starts:], False)
        x = Fold.apply(child, n_starts, *starts, *fronted[n_starts:])
        return x, (0,) * len(x)


@calculus.bind_as_given
class Solve(torch.autograd.Function):
    """v of (I − Φᵀ) v = b (``transpose``) or t of (I − Φ) t = b, differentiable in b, x and c."""

    @staticmethod
    def forward(problem: Problem, transpose: bool, n_x: int, b: Tensor, *at: Tensor) -> Tensor:
        v = problem.solve(transpose, b, at[:n_x], at[n_x:])
        return v.view_as(v)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple, output: Tensor) -> None:
        ctx.problem, ctx.transpose, ctx.n_x = inputs[:3]
        ctx.save_for_backward(output, *inputs[4:])
        ctx.save_for_forward(output, *inputs[4:])

    @staticmethod
    def backward(ctx: Context, u: Tensor) -> Grads:
        problem: Problem = ctx.problem
        v, *at = ctx.saved_tensors
        x, params = tuple(at[: ctx.n_x]), tuple(at[ctx.n_x :])
        # The cotangent of b solves the transposed system: s = A⁻ᵀ u.
        s = Solve.apply(problem, not ctx.transpose, ctx.n_x, u, *x, *params)
        # Aᵀ dv = db + (dΦ)ᵀ v, so that x and c receive the gradient of vᵀ Φ(x, c) s, with v on
        # the left and s on the right if A is transposed, and the reverse if not.
        left, right = (v, s) if ctx.transpose else (s, v)
        layout = problem.layout(x)
        x, params = problem.tamed(x, params)
        where, at_point = floating((*x, *params))

        def phi_left(*point: Tensor) -> Leaves:  # Φ(x, c)ᵀ left
            x_, c_ = split(put((*x, *params), where, point), ctx.n_x)
            return calculus.vjp(lambda *y: problem.update(y, c_), x_, layout.unravel(left))

        grads = calculus.vjp(phi_left, at_point, layout.unravel(right))
        return (None, None, None, s, *spread(len(at), where, grads))

    @staticmethod
    def jvp(
        ctx: Context, _problem: None, _t: None, _n: None, b_dot: Tensor | None, *dots: Tensor | None
    ) -> Tensor:
        problem: Problem = ctx.problem
        v, *at = ctx.saved_tensors
        x, params = tuple(at[: ctx.n_x]), tuple(at[ctx.n_x :])
        layout = problem.layout(x)
        tame = sum(problem.tamed(x, params), ())
        where, point, push = given(tame, dots)

        def phi_v(*point: Tensor) -> Leaves:  # Φᵀ v or Φ v, as a function of x and c
            x_, c_ = split(put(tame, where, point), ctx.n_x)

            def step(*y: Tensor) -> Leaves:
                return problem.update(y, c_)

            v_ = layout.unravel(v)
            return calculus.vjp(step, x_, v_) if ctx.transpose else calculus.jvp(step, x_, v_, x_)

        right = layout.ravel(calculus.jvp(phi_v, point, push, like=x))
        right = right if b_dot is None else right + b_dot
        return Solve.apply(problem, ctx.transpose, ctx.n_x, right, *x, *params)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, problem: Problem, transpose: bool, n_x: int, *tensors: Tensor
    ) -> Any:
        fronted, mapped = to_front(tensors, in_dims[3:])
        (b, *at), (_, *at_mapped) = fronted, mapped
        grow = [
            leaf if yes else leaf.expand(info.batch_size, *leaf.shape)
            for leaf, yes in zip((b, *at[:n_x]), mapped[: 1 + n_x], strict=True)
        ]
        child = problem.child(info.batch_size, tuple(at_mapped[n_x:]), not any(at_mapped))
        shape = grow[0].shape  # (V, B, n), which the child sees as V·B samples
        flat = grow[0].reshape(-1, shape[-1])
        v = Solve.apply(child, transpose, n_x, flat, *grow[1:], *at[n_x:])
        return v.reshape(shape), 0


@graph_break
def fold(
    step: Step,
    x_star: Any,
    *params: Any,
    adjoint: Adjoint = AUTO,
    batch_dims: int = 1,
    on_failure: OnFailure = "raise",
    certify: Certify = CERTIFY,
) -> Any:
    r"""Give a solution its derivative: x* as a differentiable function of the params.

    With :math:`x^\star = U(x^\star, c)`, :math:`\Phi = \partial U/\partial x` and
    :math:`\Psi = \partial U/\partial c`, reverse mode solves :math:`(I - \Phi^\top) v = g` and
    returns :math:`\Psi^\top v`; forward mode solves :math:`(I - \Phi)\, t = \Psi \dot c`.

    Parameters
    ----------
    step
        One update U, in PyTorch: ``step(x, *params)`` returns the next x, with the structure,
        shapes and dtype of x. Any method with the same fixed point will do, convergent or not,
        whatever solved the problem. It may be an ``nn.Module``, whose parameters then get their
        gradients. A :class:`foldopt.steps.Step` also says what it knows of Φ.
    x_star
        The solution: a floating tensor or numpy array ``(*batch, *event)``, or a nested tuple,
        list or dict of them (a primal–dual triple, say). Its own graph, if any, is cut.
    *params
        What the solution depends on: tensors, or nested tuples, lists or dicts of them, any
        shapes that the step takes. A param that all samples share gets the *sum* of the
        gradients over the batch. Leaves that are not tensors are passed on as they are.
    adjoint
        The solver of the linear system: :class:`~foldopt.Auto` (default), ``Dense``, ``GMRES``,
        ``BiCGSTAB``, ``CG``, ``LFPI``, or any callable ``(matvec, b) -> v`` on ``(B, n)``.
    batch_dims
        How many leading dimensions of x count independent samples; 0 for one instance.
    on_failure
        What to do about a sample whose solution or gradient cannot be trusted: ``"raise"`` a
        :class:`~foldopt.FoldError`; ``"warn"`` and go on; or ``"mask"``: that sample's gradient
        is zero, its status stands in :func:`~foldopt.record`, and the others are exact.
    certify
        The thresholds of the fixed-point certificate, a :class:`~foldopt.Certify`.

    Returns
    -------
    x
        x_star, unchanged in value, structure and dtype, with its derivative attached.

    Raises
    ------
    FoldError
        If the step does not leave ``x_star`` fixed, is not differentiable PyTorch, captures a
        tensor that requires grad, returns another shape or dtype, or mixes samples; in the
        backward pass, if the linear system is not solved. With ``on_failure="raise"``.
    TypeError, ValueError
        If an argument is not of its kind.

    Notes
    -----
    Half-precision params and solutions are computed with in float32, and returned as they came.

    References
    ----------
    arXiv 2301.12047, Theorem 1 and eq. 25–27.

    Examples
    --------
    The square root of c, from Newton's step, differentiated without touching a solver:

    >>> import torch, foldopt as fo
    >>> c = torch.tensor([[4.0], [9.0]], dtype=torch.float64, requires_grad=True)
    >>> x = fo.fold(lambda x, c: 0.5 * (x + c / x), c.detach().sqrt(), c)
    >>> x.sum().backward()
    >>> c.grad  # 1 / (2 sqrt(c))
    tensor([[0.2500],
            [0.1667]], dtype=torch.float64)
    """
    step, params = bind(step, params)
    call = prepare(step, params, adjoint, batch_dims, on_failure, certify)
    starts = call.take_solution(x_star)
    return run(call, given_solution, starts)


def run(call: Call, forward: Forward, starts: Leaves) -> Any:
    """Send a prepared call through :class:`Fold`, and put its result back in shape."""
    problem = call.problem(forward)
    return call.give(Fold.apply(problem, len(starts), *starts, *call.tensors))


def given_solution(problem: Problem, starts: Leaves, params: Leaves) -> tuple[Leaves, None]:
    """The forward pass where x* is already known."""
    return starts, None
