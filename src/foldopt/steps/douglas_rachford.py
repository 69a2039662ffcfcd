"""Douglas–Rachford splitting: two proximal operators, neither of them a gradient."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from foldopt._functions import check_functions, positions_of
from foldopt.step import Step
from foldopt.steps._step import positive_step_size, select

__all__ = ["douglas_rachford"]


def douglas_rachford(
    prox_f: Callable[..., Tensor],
    prox_g: Callable[..., Tensor],
    step_size: float = 1.0,
    relaxation: float = 1.0,
    *,
    f_params: Sequence[int] = (),
    g_params: Sequence[int] = (),
) -> Step:
    r"""Douglas–Rachford splitting for min f(x) + g(x), as an iteration of one vector s.

    .. math:: x = \operatorname{prox}_{\alpha f}(s), \quad
              U(s, c) = s + \theta\, (\operatorname{prox}_{\alpha g}(2x - s) - x).

    With :math:`R_f = 2\,\partial\operatorname{prox}_{\alpha f} - I` and R_g likewise,
    :math:`\Phi = (1 - \tfrac\theta2) I + \tfrac\theta2 R_g R_f`: not symmetric, complex eigenvalues
    are the rule. For convex f and g, ρ(Φ) ≤ 1, and below 1 where, for instance, f is smooth and
    strongly convex, or where two subspaces (constraints that are active) meet at an angle
    φ > 0: ρ = cos φ for θ = 1.

    Parameters
    ----------
    prox_f, prox_g
        ``prox(y, step_size, *selected)``: the proximal operator of ``step_size`` times the
        function; for a constraint, the projection, whatever the step size.
    step_size
        α > 0.
    relaxation
        θ, 0 < θ < 2.
    f_params, g_params
        Which of the params, by position, each operator takes after the step size.

    Returns
    -------
    Step
        ``step(s, *params)``. ``step.solution(s, *params)`` is x = prox_{αf}(s).

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind or out of its range, or a position does not exist.

    References
    ----------
    P.-L. Lions, B. Mercier, SIAM J. Numer. Anal. 16 (1979), 964–979; H. H. Bauschke et al.,
    J. Approx. Theory 185 (2014), 63–79 (the rate for two subspaces).

    Examples
    --------
    The point of the simplex nearest to c, from two simpler sets:

    >>> import torch, foldopt as fo
    >>> step = fo.steps.douglas_rachford(
    ...     lambda y, a, c: fo.projections.affine((y + a * c) / (1 + a), torch.ones(1, 2),
    ...                                           torch.ones(1)),
    ...     lambda y, a: fo.projections.nonnegative(y), f_params=(0,))
    >>> c = torch.tensor([[0.5, 0.7]], requires_grad=True)
    >>> s = fo.fixed_point(step, torch.zeros(1, 2), c)
    >>> x = step.solution(s, c)
    >>> x
    tensor([[0.4000, 0.6000]], grad_fn=...)
    >>> x[0, 0].backward()
    >>> torch.round(c.grad, decimals=4)
    tensor([[ 0.5000, -0.5000]])
    """
    check_functions(prox_f=prox_f, prox_g=prox_g)
    positive_step_size(step_size)
    if not isinstance(relaxation, numbers.Real) or not 0 < relaxation < 2:
        raise ValueError(f"relaxation must be a number between 0 and 2, got {relaxation!r}")
    of_f = positions_of("f_params", f_params)
    of_g = positions_of("g_params", g_params)

    def first(s: Tensor, *params: Any) -> Tensor:
        return prox_f(s, step_size, *select(params, of_f, "f_params"))

    def update(s: Tensor, *params: Any) -> Tensor:
        x = first(s, *params)
        other = prox_g(2 * x - s, step_size, *select(params, of_g, "g_params"))
        return s + relaxation * (other - x)

    return Step(update, readout=first, name="douglas_rachford")
