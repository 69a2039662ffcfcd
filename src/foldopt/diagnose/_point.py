"""One step recorded at a point, for whatever is to be measured there."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from foldopt._arguments import AUTO, CERTIFY, Step
from foldopt._calculus import forward_mode_active, transforms_active
from foldopt._call import Call, prepare
from foldopt._tree import Leaves
from foldopt.certify import _check_mixing, fixed_point_residual
from foldopt.jacobian import StepJacobian
from foldopt.status import FoldError, FoldWarning


def take_apart(
    caller: str, step: Step, x_star: Any, params: tuple[Any, ...], batch_dims: int
) -> tuple[Call, Leaves]:
    """The arguments of a measurement as leaves, looked at as :func:`~foldopt.fold` does."""
    if transforms_active() or forward_mode_active():
        raise FoldError(
            f"{caller}: called inside a torch.func transform or a forward-mode level. It measures "
            "numbers and carries no derivative: call it outside, on plain tensors."
        )
    call = prepare(step, params, AUTO, batch_dims, "raise", CERTIFY)
    return call, call.take_solution(x_star)


def record_step(
    caller: str,
    step: Step,
    x: Any,
    params: tuple[Any, ...],
    batch_dims: int,
    *,
    differentiate_params: bool = False,
) -> tuple[Call, StepJacobian]:
    """The step recorded at (x, params), also where it does not leave x fixed.

    A step with ``precompute`` is not bound first: it is recorded once, and its params are those of
    the user. If they are to be differentiated, then those that require grad, or all floating ones
    if none does.
    """
    call, starts = take_apart(caller, step, x, params, batch_dims)
    wanted = call.options.wanted
    if not any(wanted):
        wanted = tuple(leaf.is_floating_point() for leaf in call.tensors)
    wanted = [differentiate_params and want for want in wanted]
    return call, StepJacobian(call.update, starts, call.tensors, batch_dims, wanted)


def refuse_mixing(jacobian: StepJacobian) -> None:
    """Raise where one sample's update depends on another's x: there is no Φ of each sample."""
    if jacobian.layout.samples > 1 and jacobian.layout.n > 0:
        _check_mixing(jacobian)


def in_batch(jacobian: StepJacobian, value: Tensor) -> Tensor:
    """One number for each sample, ``(B,)``, in the shape of the batch."""
    return value.reshape(jacobian.layout.batch)


def moved(jacobian: StepJacobian) -> Tensor:
    """‖U(x) − x‖ / (1 + ‖x‖) for each sample, ``(B,)``."""
    x = jacobian.layout.ravel(jacobian.x).detach()
    return fixed_point_residual(x + jacobian.residual, x)


def warn_if_moved(caller: str, jacobian: StepJacobian, stacklevel: int) -> None:
    """Warn where the step does not leave x where it is, by the default certificate of a fold."""
    distance = moved(jacobian)
    limit = CERTIFY.limits(distance.dtype)[1]
    if distance.numel() and not float(distance.max()) <= limit:
        warnings.warn(
            f"{caller}: the step moves x_star by up to ‖U(x) − x‖ / (1 + ‖x‖) = "
            f"{float(distance.max()):.1e} (above {limit:.0e}), so that Φ is not that of a fixed "
            "point. Likely causes: the solver stopped early or solves another problem than the "
            "step. Tighten its tolerance, and check step(x_star, *params) against x_star by hand.",
            FoldWarning,
            stacklevel=stacklevel,
        )
