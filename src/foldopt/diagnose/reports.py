"""One report on a step at a solution, for a person to read."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from foldopt._arguments import CERTIFY, Step
from foldopt._call import graph_break
from foldopt._tree import Leaves
from foldopt.certify import Certify, _graph_leaves
from foldopt.diagnose import _health as health
from foldopt.diagnose._advice import advice
from foldopt.diagnose._point import in_batch, moved, record_step, refuse_mixing
from foldopt.diagnose.health_report import Report, least_of, worst
from foldopt.diagnose.radius import dominant_of, summarise
from foldopt.jacobian import StepJacobian, _no_inference_mode
from foldopt.status import FoldError

__all__ = ["diagnose"]


@graph_break
def diagnose(
    step: Step, x_star: Any, *params: Any, batch_dims: int = 1, certify: Certify = CERTIFY
) -> Report:
    r"""Examine a step at a solution: whether it fits, what its Φ is like, how to fold it.

    Measures :math:`\|U(x^\star) - x^\star\|`, :math:`\rho(\Phi)`, the symmetry of Φ,
    :math:`\sigma_{\min}(I - \Phi)` and kinks of U, looks for captured tensors and unused params,
    and recommends a solver of :math:`(I - \Phi^\top) v = g`. A step that does not fit, mixes
    samples or is not finite is reported, and not refused.

    Parameters
    ----------
    step
        ``step(x, *params) -> x``, in PyTorch; see :func:`~foldopt.fold`.
    x_star
        The solution.
    *params
        As for :func:`~foldopt.fold`.
    batch_dims
        How many leading dimensions of x count independent samples.
    certify
        The thresholds for the fixed-point residual.

    Returns
    -------
    Report
        The numbers, and ``warnings`` with remedies; print it.

    Raises
    ------
    FoldError
        If the step returns another structure, shape or dtype than that of x, is not PyTorch, or a
        ``torch.func`` transform is active.
    TypeError, ValueError
        If an argument is not of its kind.

    Notes
    -----
    σ_min is that of I − Φ written out for n ≤ 256; above, Golub–Kahan bidiagonalisation and
    inverse iteration give an upper bound, which is close unless I − Φ is nearly singular.
    Whether x* sits at a kink is guessed from Φ at x* ± δ: a jump that stays when δ shrinks. A
    kink next to x*, within δ (1e-5 in float64), counts; one that these two directions miss does
    not.

    References
    ----------
    arXiv 2301.12047, eq. DFP and Corollary 2.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.tensor([[4.0], [9.0]], dtype=torch.float64)
    >>> found = fo.diagnose.diagnose(lambda x, c: 0.5 * (x + c / x), c.sqrt(), c)  # Newton's step
    >>> found.solver, found.warnings
    ('Auto()', ())
    """
    with _no_inference_mode(), torch.no_grad():
        call, jacobian = record_step(
            "diagnose", step, x_star, params, batch_dims, differentiate_params=True
        )
        unused, captured = _inputs(call.options.names, jacobian)
        residual = moved(jacobian)
        spectral = summarise(jacobian, dominant_of(jacobian, None, 500), None, warn=False)
        defect = health.symmetry_defect(jacobian)
        least, method = health.least_singular_value(jacobian)

        def record(x: Leaves) -> StepJacobian:
            none = [False] * len(call.tensors)
            return StepJacobian(call.update, x, call.tensors, batch_dims, none)

        kinks = health.kinks(record, jacobian)
        declared = bool(getattr(step, "symmetric", False))
        solver, products, reason = health.recommend(
            jacobian, worst(spectral.radius), least_of(least), declared
        )
        found = Report(
            name=str(getattr(step, "name", getattr(step, "__name__", type(step).__name__))),
            samples=jacobian.layout.samples,
            n=jacobian.layout.n,
            dtype=residual.dtype,
            residual=in_batch(jacobian, residual),
            spectral=spectral,
            declared_symmetric=declared,
            symmetry_defect=in_batch(jacobian, defect),
            singular_value=in_batch(jacobian, least),
            singular_value_method=method,
            kinks=in_batch(jacobian, kinks),
            captured=captured,
            unused=unused,
            solver=solver,
            products=float(products),
            reason=reason,
            warnings=(),
        )
        return dataclasses.replace(found, warnings=tuple(advice(found, certify, _mixing(jacobian))))


def _mixing(jacobian: StepJacobian) -> str | None:
    """What a fold would say of samples that depend on one another; None if they do not."""
    try:
        refuse_mixing(jacobian)
    except FoldError as error:
        message = str(error).removeprefix("fold: ")
        return message[0].upper() + message[1:]
    return None


def _inputs(
    names: tuple[str, ...], jacobian: StepJacobian
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """The params that the step does not use, and the shapes of what it captures."""
    ends = _graph_leaves(jacobian)
    own = {id(leaf) for leaf in (*jacobian.x, *jacobian.params)}
    unused = [
        name
        for name, param in zip(names, jacobian.params, strict=True)
        if name and param.requires_grad and id(param) not in ends
    ]
    captured = [tuple(leaf.shape) for key, leaf in ends.items() if key not in own]
    return tuple(unused), tuple(captured)
