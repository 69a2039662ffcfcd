"""The α of a step of gradient type: a constant, a function of the params, or chosen on the spot."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt._gradient import objective_gradient, ordinary
from foldopt._tree import Layout, Leaves, flatten, unflatten
from foldopt.diagnose._lanczos import best_step_size, ends, ends_on_set, krylov
from foldopt.steps._step import positive_step_size

StepSizeLike = float | Tensor | Callable[..., Any] | Literal["auto"]
Chooser = Callable[[Any, tuple[Any, ...]], "float | list[Tensor]"]
LeafMap = Callable[[Leaves], Leaves]

# Products with the Hessian from which "auto" takes both ends of its spectrum.
_PRODUCTS = 12


def is_uniform(step_size: StepSizeLike) -> bool:
    """Whether α is known to be one number within each sample."""
    if isinstance(step_size, Tensor):
        return step_size.numel() == 1
    return not callable(step_size)  # a number, or "auto"


def chooser(
    step_size: Any,
    objective: Callable[..., Tensor],
    operator: Callable[[Any, Any, tuple[Any, ...]], Any] | None = None,
) -> Chooser:
    """α as a function of (x, params): a number, or a tensor for each leaf of x.

    A fixed point of a step of gradient type is one for every α > 0. So α may depend on x and the
    params and still be held constant in every derivative, of any order.

    Parameters
    ----------
    step_size
        As the user gave it.
    operator
        ``operator(y, alpha, params)``: the projection or proximal operator; None for neither.
    """
    if isinstance(step_size, str):
        if step_size == "auto":
            return lambda x, params: _automatic(objective, operator, x, params)
        raise TypeError(
            f"step_size must be a number or a tensor, got str {step_size!r}; 'auto' or a function "
            "step_size(*params) will also do"
        )
    if callable(step_size) and not isinstance(step_size, Tensor):
        return lambda x, params: _from_params(step_size, x, params)
    positive_step_size(step_size)
    if isinstance(step_size, Tensor):
        return lambda x, _params: [step_size] * len(flatten(x)[0])
    return lambda _x, _params: step_size


def descend_by(x: Any, gradient: Any, alpha: float | list[Tensor]) -> Any:
    """x − α ∇f, leaf by leaf."""
    leaves, spec = flatten(x)
    alphas = alpha if isinstance(alpha, list) else [alpha] * len(leaves)
    moved = [
        leaf - one * slope
        for leaf, one, slope in zip(leaves, alphas, flatten(gradient)[0], strict=True)
    ]
    return unflatten(moved, spec)


def of_first_leaf(alpha: float | list[Tensor]) -> float | Tensor:
    """α for an operator: for several leaves, in the shape for the first."""
    return alpha[0] if isinstance(alpha, list) else alpha


def _from_params(step_size: Callable[..., Any], x: Any, params: tuple[Any, ...]) -> list[Tensor]:
    """``step_size(*params)``, looked at where values may be looked at, and cut off its graph."""
    leaves = flatten(x)[0]
    alpha = step_size(*_detached(params))
    if not isinstance(alpha, (numbers.Real, Tensor)):
        raise TypeError(
            f"step_size(*params) must return a number or a tensor, got {type(alpha).__name__}"
        )
    alpha = torch.as_tensor(alpha).detach().to(leaves[0].device, leaves[0].dtype)
    for leaf in leaves:
        seen, wanted = tuple(alpha.shape), tuple(leaf.shape)
        tail = wanted[len(wanted) - len(seen) :]
        if len(seen) > len(wanted) or any(k not in (1, m) for k, m in zip(seen, tail, strict=True)):
            raise ValueError(
                f"step_size(*params) of shape {seen} does not broadcast against x, {wanted}; one "
                "for each sample has shape (B, 1): alpha.unsqueeze(-1), or keepdim=True"
            )
    sound = (alpha > 0) & torch.isfinite(alpha)
    if _values_are_hidden():
        alpha = torch.where(sound, alpha, torch.nan)
    elif not bool(sound.all()):
        wrong = float(alpha[~sound].flatten()[0])
        raise ValueError(f"step_size(*params) must be finite and above 0, and holds {wrong}")
    return [alpha] * len(leaves)


def _automatic(
    objective: Callable[..., Tensor],
    operator: Callable[[Any, Any, tuple[Any, ...]], Any] | None,
    x: Any,
    params: tuple[Any, ...],
) -> list[Tensor]:
    """2/(μ_min + μ_max) of the Hessian at (x, params) on the space in which the operator moves.

    With ∂P = c T for an orthogonal projector T (a polyhedron, the l1 norm: c = 1; a ball), that
    is the spectrum of T H T, and the α for which ρ(∂P (I − αH)) is least; see
    :func:`~foldopt.diagnose._lanczos.ends_on_set` for the others.
    """
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():  # records nothing
        with torch.inference_mode(False):
            return _automatic(objective, operator, ordinary(x), ordinary(params))
    leaves, spec = flatten(_detached(x))
    params = _detached(params)
    state = tuple(leaves)
    layout = Layout(state, _batch_dims(objective, state, spec, params))
    if layout.n * layout.samples == 0:
        return [torch.ones_like(leaf) for leaf in state]

    def slope(*point: Tensor) -> Leaves:
        return tuple(flatten(objective_gradient(objective, unflatten(point, spec), params))[0])

    pull_hessian = _recorded(slope, state)

    def hessian(v: Tensor) -> Tensor:
        return layout.ravel(pull_hessian(layout.unravel(v)))

    start = _generic(layout, state[0])
    if operator is None:
        return _for_leaves(best_step_size(ends(*krylov(hessian, start, _PRODUCTS))), layout)
    curved = hessian(start)
    size = _norm(hessian(curved)) / _floored(_norm(curved))  # one step of the power method
    first = torch.where(size > 0, 1 / _floored(size), 1).detach()
    alphas = _for_leaves(first, layout)
    y = flatten(descend_by(unflatten(state, spec), unflatten(slope(*state), spec), alphas))[0]

    def operate(*point: Tensor) -> Leaves:
        return tuple(flatten(operator(unflatten(point, spec), of_first_leaf(alphas), params))[0])

    pull_operator = _recorded(operate, tuple(leaf.detach() for leaf in y))

    def tangent(v: Tensor) -> Tensor:
        return layout.ravel(pull_operator(layout.unravel(v)))

    start = tangent(start)
    V, HV = krylov(hessian, start, _PRODUCTS, tangent)
    PV, PHV = (torch.stack([tangent(v) for v in rows.unbind(-2)], -2) for rows in (V, HV))
    found = best_step_size(ends_on_set(V, HV, PV, PHV, first))
    still = _norm(start) == 0  # a vertex: any α will do
    return _for_leaves(torch.where(still, first, found), layout)


def _recorded(function: Callable[..., Leaves], at: Leaves) -> LeafMap:
    """u ↦ uᵀ ∂function(at), from one evaluation, in whatever mode PyTorch is."""
    # In this order: while it compiles, torch 2.4 cannot be asked for transforms.
    if torch.compiler.is_compiling() or calculus.transforms_active():
        pull = torch.func.vjp(function, *at)[1]
        return lambda u: pull(u)
    with torch.enable_grad():
        nodes = tuple(leaf.detach().requires_grad_() for leaf in at)
        outputs = function(*nodes)
    return lambda u: tuple(leaf.detach() for leaf in calculus.pullback(outputs, nodes, u))


def _batch_dims(
    objective: Callable[..., Tensor], state: Leaves, spec: Any, params: tuple[Any, ...]
) -> int:
    """How many leading dimensions of x are samples: as many as the objective's values have.

    Values for single entries say nothing of what their step sizes may be: one α for each row.
    """
    with torch.no_grad():
        values = objective(unflatten(state, spec), *params)
    least = min(leaf.dim() for leaf in state)
    entrywise = values.dim() == max(leaf.dim() for leaf in state)
    return min(values.dim() - entrywise, least)


def _for_leaves(alpha: Tensor, layout: Layout) -> list[Tensor]:
    """One α for each sample, ``(B,)``, as ``(*batch, 1, …)`` for each leaf of x."""
    alpha = alpha.detach().reshape(layout.batch)
    return [alpha.reshape(*layout.batch, *([1] * len(event))) for event in layout.events]


def _generic(layout: Layout, like: Tensor) -> Tensor:
    """A vector ``(B, n)`` that no structure is orthogonal to; no generator is touched."""
    position = torch.arange(layout.n, device=like.device, dtype=torch.float64)
    row = (0.5 + torch.frac(position * 0.7548776662466927 + 0.1)).to(like.dtype)
    return row.expand(layout.samples, layout.n)


def _detached(tree: Any) -> Any:
    leaves, spec = flatten(tree)
    return unflatten([leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)


def _norm(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=-1)


def _floored(value: Tensor) -> Tensor:
    return value.clamp_min(torch.finfo(value.dtype).tiny)


def _values_are_hidden() -> bool:
    """Whether a look at a value is impossible here."""
    return calculus.transforms_active() or torch.compiler.is_compiling()
