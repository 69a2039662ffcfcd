"""How the errors of the forward and the backward pass fall (Figure 3 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foldopt._arguments import Step
from foldopt._call import Call, graph_break
from foldopt._tree import Leaves, describe, flatten, unflatten
from foldopt.diagnose._gradient_errors import Gradient, adjoint, curve, unrolled
from foldopt.diagnose._point import record_step, refuse_mixing, warn_if_moved
from foldopt.diagnose.trace import Curve, Trace
from foldopt.jacobian import StepJacobian, _leaf, _no_inference_mode
from foldopt.linear import CG, GMRES, LFPI, BiCGSTAB, LinearSolver
from foldopt.unroll import _whole

__all__ = ["backward_trace"]

Loss = Callable[[Any], Tensor]
Iterative = LFPI | GMRES | BiCGSTAB | CG


@graph_break
def backward_trace(
    step: Step,
    x_star: Any,
    *params: Any,
    loss: Loss | None = None,
    cotangent: Any = None,
    start: Any = "fixed_point",
    iterations: int = 100,
    products: int | None = None,
    every: int = 1,
    adjoints: Sequence[LinearSolver] | None = None,
    generator: torch.Generator | None = None,
    batch_dims: int = 1,
) -> Trace:
    r"""Measure how fast ∂L/∂c converges: by unrolling, and by each solver of the adjoint system.

    The error of the k-th iterate is :math:`\|x_k - x^\star\|_1 / \|x^\star\|_1`, that of its
    gradient :math:`\|\partial L(x_k)/\partial c - G\|_1 / \|G\|_1` with the converged gradient
    :math:`G = \Psi^\top (I - \Phi^\top)^{-1} g`. From the fixed point the latter falls like
    :math:`\rho(\Phi)^k`, from elsewhere like :math:`k\,\rho(\Phi)^k`.

    Parameters
    ----------
    step
        ``step(x, *params) -> x``, in PyTorch; see :func:`~foldopt.fold`.
    x_star
        The fixed point, as accurate as can be had: its error is the floor of every curve.
    *params
        As for :func:`~foldopt.fold`. The gradient is taken in those that require grad, or in all
        floating ones if none does.
    loss
        ``loss(x)``: a tensor, which is summed. By default L(x) = gᵀx.
    cotangent
        g, in the structure and shapes of x, instead of a loss. If neither is given, a fixed
        generic vector, which has a component along every eigenvector of Φᵀ.
    start
        Where the unrolling begins: ``"fixed_point"``, ``"random"`` (uniform on [0, 1)), or a
        point in the structure of x, projected or clipped as the step needs it.
    iterations
        How many iterations to unroll. All are kept in memory, and each gradient goes back through
        all before it: the work is iterations² / (2 every) products.
    products
        How many products with Φᵀ to allow a linear solver. None: as many as ``iterations``. LFPI
        takes one at a time; a Krylov method is run again for each number, as above.
    every
        Measure at every so many iterations or products.
    adjoints
        Iterative linear solvers. None: ``LFPI()``, ``GMRES()``, ``BiCGSTAB()``, and ``CG()`` if
        the step says that its Φ is symmetric.
    generator
        For ``start="random"``. None: one with seed 0; the global one is not touched.
    batch_dims
        How many leading dimensions of x count independent samples. Errors are those of the whole
        batch, in which the slowest sample shows in the end.

    Returns
    -------
    Trace
        The errors, with :meth:`Trace.fitted_rate` to compare with −log ρ(Φ), and
        :meth:`Trace.as_dict`.

    Raises
    ------
    FoldError
        If the adjoint system is singular, the converged gradient is zero, or for the reasons of
        :func:`~foldopt.spectral_radius`.
    TypeError, ValueError
        If an argument is not of its kind.

    Warns
    -----
    FoldWarning
        If the step moves ``x_star``.

    Notes
    -----
    The reference is a direct solve, once refined, where Φ fits in memory, and GMRES elsewhere. A
    Krylov method is run once for each number of iterations, with nothing but that to stop it; the
    products it spends are counted, the last look at its residual included. LFPI's v_k is reached
    with k products.

    Not every g shows ρ(Φ): one without a component in the dominant eigenspace of Φᵀ, or a Ψ that
    does not see it, converges faster.

    References
    ----------
    arXiv 2301.12047, Definition 2, Figure 3 and Corollary 2.

    Examples
    --------
    >>> import math, torch, foldopt as fo
    >>> c = torch.ones(1, 2, dtype=torch.float64)
    >>> trace = fo.backward_trace(lambda x, c: 0.5 * x + c, 2 * c, c, iterations=40)
    >>> trace.backward.error[:4]
    tensor([1.0000, 0.5000, 0.2500, 0.1250], dtype=torch.float64)
    >>> round(trace.fitted_rate() / math.log(2), 4)
    1.0
    """
    _whole("iterations", iterations, 0)
    products = iterations if products is None else products
    _whole("products", products, 0)
    _whole("every", every, 1)
    solvers = _named(step, adjoints)
    if loss is not None and cotangent is not None:
        raise ValueError("give loss or cotangent, not both: the cotangent is the loss's gradient")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be callable, loss(x) -> tensor, got {type(loss).__name__}")
    with _no_inference_mode(), torch.no_grad():
        call, jacobian = record_step(
            "backward_trace", step, x_star, params, batch_dims, differentiate_params=True
        )
        if jacobian.residual.numel() == 0:
            raise ValueError(f"backward_trace: x_star is empty: {describe(jacobian.x)}")
        refuse_mixing(jacobian)
        warn_if_moved("backward_trace", jacobian, stacklevel=4)
        begin = _start(start, call, jacobian, generator)
        value = _loss(loss, cotangent, call, jacobian)
        g = _slope(value, jacobian)
        reference = Gradient.of(jacobian, adjoint(jacobian, g))
        curves = {
            name: curve(solver, jacobian, g, reference, products, every)
            for name, solver in solvers.items()
        }
        k, forward, backward = unrolled(call, jacobian, begin, value, reference, iterations, every)
        kind = start if isinstance(start, str) else "given"
        eps = torch.finfo(g.dtype).eps
        return Trace(kind, k, forward, Curve(k, backward, eps), curves)


def _named(step: Any, adjoints: Sequence[LinearSolver] | None) -> dict[str, Iterative]:
    """The solvers by the name of their class, told apart by their options where need be."""
    if adjoints is None:
        adjoints = (LFPI(), GMRES(), BiCGSTAB())
        if getattr(step, "symmetric", False):
            adjoints = (*adjoints, CG())
    named: dict[str, Iterative] = {}
    for solver in adjoints:
        if not isinstance(solver, (LFPI, GMRES, BiCGSTAB, CG)):
            raise TypeError(
                "adjoints must be iterative solvers, LFPI(), GMRES(), BiCGSTAB() or CG(), got "
                f"{solver!r}"
            )
        name = type(solver).__name__
        named[repr(solver) if name in named else name] = solver
    return named


def _start(start: Any, call: Call, jacobian: StepJacobian, generator: Any) -> Leaves:
    """Where the unrolling begins, as leaves."""
    here = tuple(leaf.detach() for leaf in jacobian.x)
    if isinstance(start, str):
        if start == "fixed_point":
            return here
        if start != "random":
            raise ValueError(
                f"start must be 'fixed_point', 'random' or a point like x, got {start!r}"
            )
        if generator is None:
            generator = torch.Generator(here[0].device).manual_seed(0)
        return tuple(
            torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype, device=leaf.device)
            for leaf in here
        )
    return _like_x("start", start, call, here)


def _like_x(name: str, given: Any, call: Call, x: Leaves) -> Leaves:
    """A tree of tensors in the structure, shapes and dtype of x, as leaves."""
    leaves, spec = flatten(given)
    tensors = tuple(torch.as_tensor(leaf) for leaf in leaves)
    if spec != call.x_spec or [leaf.shape for leaf in tensors] != [leaf.shape for leaf in x]:
        raise ValueError(
            f"{name} must have the structure and shapes of x, {describe(x)}, got "
            f"{describe(tensors)}"
        )
    return tuple(leaf.detach().to(like) for leaf, like in zip(tensors, x, strict=True))


def _loss(
    loss: Loss | None, cotangent: Any, call: Call, jacobian: StepJacobian
) -> Callable[[Leaves], Tensor]:
    """The loss as a function of leaves of x that returns one number."""
    if loss is not None:
        spec = call.x_spec
        assert spec is not None
        return lambda x: loss(unflatten(x, spec)).sum()
    if cotangent is None:
        g = jacobian.layout.unravel(jacobian._generic(0.6180339887498949))
    else:
        g = _like_x("cotangent", cotangent, call, jacobian.x)
    return lambda x: torch.stack([(one * leaf).sum() for one, leaf in zip(g, x, strict=True)]).sum()


def _slope(value: Callable[[Leaves], Tensor], jacobian: StepJacobian) -> Tensor:
    """g = ∂L/∂x at x*, shape ``(B, n)``."""
    with torch.enable_grad():
        x = tuple(_leaf(leaf, True) for leaf in jacobian.x)
        total = value(x)
        if not total.requires_grad:
            raise ValueError(
                "loss: it does not depend on x as far as autograd can see. Likely causes: "
                "detach(), no_grad(), item() or numpy inside the loss"
            )
        grads = torch.autograd.grad(total, x, allow_unused=True)
    return jacobian.layout.ravel(
        tuple(
            torch.zeros_like(leaf) if grad is None else grad
            for leaf, grad in zip(x, grads, strict=True)
        )
    )
