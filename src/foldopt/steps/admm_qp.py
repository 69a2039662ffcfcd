"""The alternating direction method of multipliers for quadratic programs."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foldopt.operators import _admm
from foldopt.step import Step

__all__ = ["admm_qp"]

# Each kind of constraint and the params that it takes, in this order.
CONSTRAINTS = {
    "equality": ("A", "b"),
    "nonnegative": (),
    "box": ("lower", "upper"),
    "inequality": ("G", "h"),
}
_EVENT = {"Q": "nn", "p": "n", "A": "kn", "b": "k", "lower": "n", "upper": "n", "G": "mn", "h": "m"}


def admm_qp(
    constraints: Sequence[str] = ("equality", "nonnegative"), penalty: float | Tensor = 1.0
) -> Step:
    r"""ADMM for :math:`\min \tfrac12 x^\top Q x + p^\top x`, as an iteration of one vector w.

    The constraint set is split as z = Cx, l ≤ z ≤ u, with the scaled multiplier s and w = Cx + s:
    from :math:`z = \operatorname{clip}(w, l, u)` and :math:`s = w - z`,

    .. math:: x^+ = \operatorname{argmin}_{Ax = b}\ \tfrac12 x^\top Q x + p^\top x +
              \tfrac\rho2 \|C x - z + s\|^2, \qquad U(w) = C x^+ + s.

    The KKT matrix of the minimization is inverted once for a fold or a loop, and serves every step
    of the forward and of the backward pass, each of which is then one matrix product.

    With D = diag(l < w < u) and S the matrix that gives :math:`C x^+` from z − s,
    :math:`\Phi = S (2D - I) + I - D`: not symmetric, its eigenvalues in the disc of radius ½ about
    ½, so that ρ(Φ) ≤ 1 for every penalty; ρ(Φ) < 1 where x and the multipliers are unique and
    strictly complementary. The penalty decides how far below 1, and too small a one is as bad as
    too large.

    Parameters
    ----------
    constraints
        Any of these, each of which adds its params to those of the step, in this order:
        ``"equality"`` (A x = b: A, b), ``"nonnegative"`` (x ≥ 0: none), ``"box"``
        (l ≤ x ≤ u: lower, upper; ±inf is allowed), ``"inequality"`` (G x ≤ h: G, h).
    penalty
        ρ > 0, a number or a tensor with one value for each sample.

    Returns
    -------
    Step
        ``step(w, Q, p, *constraint_params)``. Shapes: Q ``(n, n)`` or ``(*batch, n, n)``, p
        ``(*batch, n)``, and so on; a param without batch dimensions is shared. w has shape
        ``(*batch, n)``, or ``(*batch, m)`` with inequalities only, or ``(*batch, n + m)`` with
        both, bounds first. ``step.solution(w, Q, p, *constraint_params)`` is x.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, or the number or a shape of the params does not fit.

    References
    ----------
    arXiv 2301.12047, eq. 29 and 30 (a minimum, though printed as a maximum).

    Examples
    --------
    The projection of −p on the simplex:

    >>> import torch, foldopt as fo
    >>> step = fo.steps.admm_qp(("equality", "nonnegative"))
    >>> Q, A, b = torch.eye(2), torch.ones(1, 2), torch.ones(1)
    >>> p = torch.tensor([[-0.5, -0.7]], requires_grad=True)
    >>> w = fo.fixed_point(step, torch.zeros(1, 2), Q, p, A, b)
    >>> x = step.solution(w, Q, p, A, b)
    >>> x
    tensor([[0.4000, 0.6000]], grad_fn=...)
    >>> x[0, 0].backward()
    >>> p.grad
    tensor([[-0.5000,  0.5000]])
    """
    kinds = _check_kinds(constraints)
    if not isinstance(penalty, (numbers.Real, Tensor)):
        raise TypeError(f"penalty must be a number or a tensor, got {type(penalty).__name__}")
    rho = torch.as_tensor(penalty).detach()
    if not bool(((rho > 0) & torch.isfinite(rho)).all()):
        raise ValueError(f"penalty must be finite and above 0, got {penalty!r}")
    names = ("Q", "p", *(name for kind in kinds for name in CONSTRAINTS[kind]))

    def precompute(*params: Tensor) -> tuple[Any, ...]:
        given = _check_params(names, params)
        Q, p = given["Q"], given["p"]
        n = p.shape[-1]
        A = given.get("A", p.new_zeros(0, n))
        b = given.get("b", p.new_zeros(0))
        C, lower, upper = _split(kinds, given, p)
        return _admm.precompute(
            (Q + Q.mT) / 2, p, A, b, C, lower, upper, rho.to(p.dtype).to(p.device)
        )

    def readout(w: Tensor, *prepared: Any) -> Tensor:
        return _admm.readout(w, *prepared).x

    return Step(_admm.update, precompute=precompute, readout=readout, name="admm_qp")


def _split(
    kinds: tuple[str, ...], given: dict[str, Tensor], p: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """C, l and u of l ≤ Cx ≤ u; C is None for the identity, a bound for none at all."""
    lower, upper = given.get("lower"), given.get("upper")
    if "nonnegative" in kinds:
        lower = torch.zeros_like(p.detach())
    if "inequality" not in kinds:
        return None, lower, upper
    G, h = given["G"], given["h"]
    if lower is None:
        return G, None, h
    n, batch = p.shape[-1], p.shape[:-1]
    eye = torch.eye(n, dtype=p.dtype, device=p.device).expand(*G.shape[:-2], n, n)

    def beside(of_x: Tensor, of_rows: Tensor) -> Tensor:
        return torch.cat([of_x.expand(*batch, n), of_rows.expand(*batch, h.shape[-1])], -1)

    above = torch.full_like(p.detach(), torch.inf) if upper is None else upper
    below = torch.full_like(h.detach(), -torch.inf)
    return torch.cat([eye, G], -2), beside(lower, below), beside(above, h)


def _check_kinds(constraints: Any) -> tuple[str, ...]:
    known = ", ".join(repr(kind) for kind in CONSTRAINTS)
    if isinstance(constraints, str) or not isinstance(constraints, Sequence):
        raise TypeError(f"constraints must be a sequence of some of {known}, got {constraints!r}")
    if any(kind not in CONSTRAINTS for kind in constraints) or len(set(constraints)) < len(
        constraints
    ):
        raise ValueError(
            f"constraints must be some of {known}, each at most once, got {constraints!r}"
        )
    if {"box", "nonnegative"} <= set(constraints):
        raise ValueError("constraints: 'box' with lower = 0 already holds what 'nonnegative' says")
    return tuple(kind for kind in CONSTRAINTS if kind in constraints)


def _check_params(names: tuple[str, ...], params: tuple[Any, ...]) -> dict[str, Tensor]:
    if len(params) != len(names) or not all(isinstance(param, Tensor) for param in params):
        seen = [type(param).__name__ for param in params]
        raise TypeError(
            f"steps.admm_qp: this step takes the tensors {', '.join(names)}, and got "
            f"{len(params)} param(s): {', '.join(seen)}"
        )
    given = dict(zip(names, params, strict=True))
    p = given["p"]
    sizes: dict[str, int] = {}
    for name, param in given.items():
        event = _EVENT[name]
        seen = tuple(param.shape)
        fits = len(seen) >= len(event)
        for letter, size in zip(event, seen[len(seen) - len(event) :], strict=fits):
            fits = fits and sizes.setdefault(letter, size) == size
        lead = seen[: max(0, len(seen) - len(event))]
        if not fits or lead not in ((), tuple(p.shape[:-1])):
            raise ValueError(
                f"steps.admm_qp: {name} of shape {seen} does not fit, it must end in "
                f"({', '.join(event)}), before that nothing or the batch shape of p "
                f"{tuple(p.shape)}, and agree with the params before it: {sizes}"
            )
    return given
