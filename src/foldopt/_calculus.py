"""Products with the derivative of a plain function, under whatever differentiation is going on.

Two engines can differentiate a function of tensors. ``torch.autograd.grad`` accepts every
operation, also old-style ``autograd.Function``s (qpth holds one), but does not work inside
``torch.func`` transforms. ``torch.func.vjp`` is the reverse. So the first serves, unless a
transform is active.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad

from foldopt._tree import Leaves
from foldopt.status import FoldError

Function = Callable[..., Leaves]
Custom = TypeVar("Custom", bound=type[torch.autograd.Function])


def nested_forward_mode() -> bool:
    """Whether one ``torch.func.jvp`` or ``jacfwd`` runs inside another.

    PyTorch drops the outer tangent inside ``autograd.Function.jvp`` (seen in 2.13 with a plain
    cube), so that a fold there would be silently wrong.
    """
    if not transforms_active():
        return False
    stack = functorch.get_interpreter_stack() or []
    kinds = [level.key() for level in stack]
    return kinds.count(functorch.TransformType.Jvp) > 1


def wrapped_by_a_transform(tensor: Tensor) -> bool:
    """Whether a tensor belongs to a level of a ``torch.func`` transform."""
    return functorch.is_functorch_wrapped_tensor(tensor)


def transforms_active() -> bool:
    """Whether a ``torch.func`` transform (grad, vjp, jvp, vmap, ...) is being traced."""
    return torch._C._are_functorch_transforms_active()


def forward_mode_active() -> bool:
    """Whether a ``torch.autograd.forward_ad.dual_level`` is open."""
    return getattr(forward_ad, "_current_level", -1) >= 0


def batched_the_old_way(tensor: Tensor) -> bool:
    """Whether a tensor belongs to the vmap before ``torch.func``, which autograd still uses."""
    return functorch.is_legacy_batchedtensor(tensor)


def plain() -> bool:
    """Whether what is computed now is nobody's to differentiate or to map."""
    return not (torch.is_grad_enabled() or transforms_active() or forward_mode_active())


def alias(tensor: Tensor) -> Tensor:
    """The same tensor as a new node of the graph, so that derivatives can be taken *at* it.

    x* depends on the parameters through the fold itself. The partial derivative of U(x*, c) in c
    must not see that path; an alias of c that enters U alone ends the search there. A view, unlike
    ``detach``, keeps a forward-mode tangent.
    """
    node = tensor.view_as(tensor)
    return node if node.requires_grad else node.requires_grad_()


def vjp(function: Function, inputs: Leaves, cotangents: Leaves) -> Leaves:
    """uᵀ ∂f(inputs): one tensor for each input; itself differentiable."""
    if not inputs:
        return ()
    if transforms_active():
        # The gradient of uᵀf, and not torch.func.vjp: that pulls back after its level has ended,
        # and asserts ("escaped?", torch 2.13) where an input goes unused below another transform.
        def weighted(*at: Tensor) -> Tensor:
            pairs = zip(function(*at), cotangents, strict=True)
            return torch.stack([(leaf * u).sum() for leaf, u in pairs]).sum()

        return torch.func.grad(weighted, tuple(range(len(inputs))))(*inputs)
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        nodes = tuple(alias(leaf) for leaf in inputs)
        outputs = function(*nodes)
        return pullback(outputs, nodes, cotangents, create_graph=differentiable)


def jvp(function: Function, inputs: Leaves, tangents: Leaves, like: Leaves) -> Leaves:
    """∂f(inputs) t by two transposed products, for an f whose outputs have the shapes of ``like``.

    u ↦ uᵀ ∂f is linear in u, so that its own vector-Jacobian product at any u is ∂f t. This asks
    nothing of the operations but reverse mode, and nests where forward mode does not.
    """
    zeros = tuple(torch.zeros_like(leaf) for leaf in like)
    if not inputs:
        return zeros
    product = vjp(lambda *u: vjp(function, inputs, u), zeros, tangents)
    if not transforms_active():
        with torch.no_grad():
            u = tuple(torch.cos(torch.arange(leaf.numel()).to(leaf)).view_as(leaf) for leaf in like)
            check_transpose(u, product, vjp(function, inputs, u), tangents)
    return product


def check_transpose(u: Leaves, forward: Leaves, back: Leaves, t: Leaves) -> None:
    """Raise unless uᵀ(J t) = (Jᵀu)ᵀ t, with J t given as ``forward`` and Jᵀu as ``back``.

    J t comes from differentiating twice. An operation that does not record its own backward leaves
    J t without its share, and autograd says nothing of it.
    """

    def dot(a: Leaves, b: Leaves) -> float:
        return sum(float((x.detach() * y.detach()).sum()) for x, y in zip(a, b, strict=True))

    def norm(a: Leaves) -> float:
        return math.sqrt(dot(a, a))

    if not u or not t:
        return
    eps = torch.finfo(u[0].dtype).eps
    gap = abs(dot(u, forward) - dot(back, t))
    size = norm(u) * norm(forward) + norm(back) * norm(t)
    # Where J = 0, both products are rounding, of the order of ε times the vectors.
    if gap > eps**0.5 * size + 100 * eps * norm(u) * norm(t):
        raise FoldError(
            "fold: the step cannot be differentiated twice: one of its operations does not record "
            "its own backward pass (once_differentiable, or numpy inside a custom "
            "autograd.Function). First-order reverse mode works; forward mode and second "
            "derivatives need that operation written in PyTorch."
        )


def pullback(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    *,
    create_graph: bool = False,
) -> Leaves:
    """``torch.autograd.grad`` where a missing path means zero, and the graph is kept."""
    if len(outputs) == len(inputs) == 1 and outputs[0].requires_grad:
        (grad,) = torch.autograd.grad(
            outputs[0],
            inputs[0],
            cotangents[0],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
        return (torch.zeros_like(inputs[0]) if grad is None else grad,)
    live = [index for index, leaf in enumerate(outputs) if leaf.requires_grad]
    if not live or not inputs:
        return tuple(torch.zeros_like(leaf) for leaf in inputs)
    grads = torch.autograd.grad(
        [outputs[index] for index in live],
        list(inputs),
        [cotangents[index] for index in live],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
    )
    return tuple(
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(inputs, grads, strict=True)
    )


def mapped(
    update: Callable[[Leaves, Leaves], Leaves], in_dims: Sequence[int | None]
) -> Callable[[Leaves, Leaves], Leaves]:
    """A step on leaves with one more batch dimension in front, which all leaves of x have."""

    def many(x: Leaves, params: Leaves) -> Leaves:
        count = len(x)

        def flat(*leaves: Tensor) -> Leaves:
            return update(leaves[:count], leaves[count:])

        return torch.func.vmap(flat, in_dims=(*([0] * count), *in_dims))(*x, *params)

    return many


class _Bound(NamedTuple):
    """What ``Function.apply`` looks at in bound arguments."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def apply_defaults(self) -> None:
        """There are none."""


class _AsGiven(inspect.Signature):
    """A signature whose arguments are all given, and by position."""

    def bind(self, *args: Any) -> Any:
        return _Bound(args, {})


def bind_as_given(function: Custom) -> Custom:
    """Spare a custom function what ``apply`` does at every call: read and bind a signature.

    That takes longer than a small fold does.
    """
    forward: Any = function.forward
    forward.__signature__ = _AsGiven(list(inspect.signature(forward).parameters.values()))
    return function
