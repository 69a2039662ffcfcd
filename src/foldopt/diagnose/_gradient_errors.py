"""The two ways to ∂L/∂c that a trace compares: linear solves, and recorded iterations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foldopt._call import Call
from foldopt._tree import Leaves, flatten, unflatten
from foldopt.certify import backward_message
from foldopt.diagnose.trace import Curve
from foldopt.jacobian import StepJacobian, _leaf
from foldopt.linear import CG, GMRES, LFPI, BiCGSTAB, Dense, LinearOperator, solve
from foldopt.linear.auto import _DENSE_BYTES
from foldopt.status import FoldError
from foldopt.step import bind


@dataclasses.dataclass(frozen=True)
class CountingOperator(LinearOperator):
    """A = I − Φᵀ, which notes each of its products in ``calls``."""

    calls: list[None] = dataclasses.field(default_factory=list)

    def phi(self, v: Tensor) -> Tensor:
        self.calls.append(None)
        return super().phi(v)


@dataclasses.dataclass(frozen=True)
class Gradient:
    """∂L/∂c in those params that are wanted, to measure others by."""

    parts: tuple[Tensor, ...]
    size: float

    @staticmethod
    def of(jacobian: StepJacobian, v: Tensor) -> Gradient:
        """Ψᵀ v, the converged gradient."""
        parts = Gradient.wanted(jacobian, v)
        size = sum(float(part.abs().sum(dtype=torch.float64)) for part in parts)
        if not 0 < size < float("inf"):
            raise FoldError(
                f"backward_trace: the converged gradient has ‖∂L/∂c‖₁ = {size}: there is nothing "
                "that an error could be relative to. Likely causes: the loss or cotangent does "
                "not depend on x, the solution does not move with the params (all of it at "
                "bounds), or the step does not use them, or it is not finite there."
            )
        return Gradient(parts, size)

    @staticmethod
    def wanted(jacobian: StepJacobian, v: Tensor) -> tuple[Tensor, ...]:
        return tuple(part for part in jacobian.params_vjp(v) if part is not None)

    def error(self, parts: Sequence[Tensor | None]) -> float:
        """‖parts − self‖₁ / ‖self‖₁; a missing part is zero."""
        gap = 0.0
        for mine, other in zip(self.parts, parts, strict=True):
            difference = mine if other is None else other - mine
            gap += float(difference.abs().sum(dtype=torch.float64))
        return gap / self.size


def adjoint(jacobian: StepJacobian, g: Tensor) -> Tensor:
    """v of (I − Φᵀ) v = g, as accurately as it can be had."""
    operator = LinearOperator(jacobian)
    samples, n = g.shape
    fits = 3 * samples * n * n * g.dtype.itemsize <= _DENSE_BYTES
    method = Dense() if fits else GMRES(max_iterations=20 * n)
    solution = solve(method, operator, g)
    if not solution.solved:
        message = backward_message(solution.status, solution.residual, solution.method, True)
        raise FoldError(message.replace("fold:", "backward_trace: the reference:", 1))
    v = solution.value
    return v + solve(method, operator, g - operator(v)).value


def curve(
    solver: LFPI | GMRES | BiCGSTAB | CG,
    jacobian: StepJacobian,
    g: Tensor,
    reference: Gradient,
    products: int,
    every: int,
) -> Curve:
    """The error of Ψᵀv by the products that a solver spent on v."""

    def error(v: Tensor) -> float:
        return reference.error(Gradient.wanted(jacobian, v))

    if isinstance(solver, LFPI):
        spent, errors, v = [0], [error(g)], g
        for k in range(1, products + 1):
            v = g + jacobian.vjp(v)  # eq. 25
            if k % every == 0:
                spent.append(k)
                errors.append(error(v))
    else:
        spent, errors = [0], [1.0]  # v = 0
        a_step = 2 if isinstance(solver, BiCGSTAB) else 1
        for k in range(every, products // a_step + 1, every):
            limited = dataclasses.replace(solver, rtol=0.0, atol=0.0, max_iterations=k)
            operator = CountingOperator(jacobian)
            v = limited.solve(operator, g).value
            if len(operator.calls) <= spent[-1]:
                break  # it has ended by itself: more would change nothing
            spent.append(len(operator.calls))
            errors.append(error(v))
    eps = torch.finfo(g.dtype).eps
    return Curve(torch.tensor(spent), torch.tensor(errors, dtype=torch.float64), eps)


def unrolled(
    call: Call,
    jacobian: StepJacobian,
    x: Leaves,
    value: Callable[[Leaves], Tensor],
    reference: Gradient,
    iterations: int,
    every: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The errors of x_k and of ∂L(x_k)/∂c, every step recorded."""
    x_star = tuple(leaf.detach() for leaf in jacobian.x)
    size = sum(float(leaf.abs().sum(dtype=torch.float64)) for leaf in x_star) or 1.0
    tensors = tuple(_leaf(leaf, leaf.requires_grad) for leaf in jacobian.params)
    targets = [leaf for leaf in tensors if leaf.requires_grad]
    ks, forward, backward = [], [], []
    with torch.enable_grad():
        update = _bound(call, tensors)
        for k in range(iterations + 1):
            if k % every == 0:
                total = value(x)
                grads: Sequence[Tensor | None] = [None] * len(targets)
                if total.requires_grad:
                    grads = torch.autograd.grad(
                        total, targets, retain_graph=True, allow_unused=True
                    )
                gap = sum(
                    float((a.detach() - b).abs().sum(dtype=torch.float64))
                    for a, b in zip(x, x_star, strict=True)
                )
                ks.append(k)
                forward.append(gap / size)
                backward.append(reference.error(grads))
            if k < iterations:
                x = update(x)
    double = torch.float64
    return (
        torch.tensor(ks),
        torch.tensor(forward, dtype=double),
        torch.tensor(backward, dtype=double),
    )


def _bound(call: Call, tensors: Leaves) -> Callable[[Leaves], Leaves]:
    """The step on leaves of x, with what it precomputes from the params computed once."""
    weights, params = call.params(tensors)
    if weights is not None:
        return lambda x: call.update(x, tensors)
    step, prepared = bind(call.step, params)
    spec = call.x_spec
    assert spec is not None
    return lambda x: tuple(flatten(step(unflatten(x, spec), *prepared))[0])
