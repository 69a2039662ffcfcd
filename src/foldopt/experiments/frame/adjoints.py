"""What the backward pass of a trained layer costs: ρ(Φ), and each solver of the adjoint system."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foldopt._arguments import Step
from foldopt._tree import flatten
from foldopt.diagnose._gradient_errors import CountingOperator, Gradient
from foldopt.diagnose._point import record_step
from foldopt.experiments.frame.report import Table
from foldopt.jacobian import StepJacobian
from foldopt.linear import GMRES, LFPI, Auto, BiCGSTAB, Dense, LinearSolver, solve

__all__ = ["adjoint_table", "compare_adjoints"]

_REPEATS = 3


def compare_adjoints(
    step: Step,
    x_star: Any,
    *params: Any,
    cotangent: Any,
    solvers: Sequence[LinearSolver] | None = None,
) -> dict[str, Any]:
    r"""Measure the adjoint system :math:`(I - \Phi^\top) v = g` of a batch.

    Parameters
    ----------
    step, x_star, params
        As for :func:`~foldopt.fold`; the gradient is taken in those params that require grad, or
        in all floating ones if none does.
    cotangent
        g, in the structure and shapes of x.
    solvers
        What to compare; None: LFPI, GMRES, BiCGSTAB, Dense and Auto.

    Returns
    -------
    dict
        ``"median"``, ``"worst"`` of ρ(Φ) over the samples; ``"singular"``: I − Φ has no inverse in
        some sample, and the reference is the least-squares answer of least norm; ``"solvers"``:
        for each by name ``"products"`` with Φᵀ, ``"seconds"`` (the best of three), ``"error"`` of
        the gradient relative to the reference (1-norm), ``"failed"`` samples.

    Raises
    ------
    FoldError
        If the gradient of the batch is zero: then there is nothing to compare.

    Examples
    --------
    >>> c = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    >>> found = compare_adjoints(lambda x, c: (x + c) / 2, c, c, cotangent=torch.ones_like(c))
    >>> round(found["worst"], 6), found["solvers"]["GMRES"]["error"] < 1e-10
    (0.5, True)
    """
    _, jacobian = record_step(
        "compare_adjoints", step, x_star, params, 1, differentiate_params=True
    )
    # Φ is small enough to be written out, and its eigenvalues are then beyond doubt.
    radius = torch.linalg.eigvals(jacobian.dense()).abs().amax(-1)
    g = jacobian.layout.ravel(tuple(flatten(cotangent)[0])).detach()
    exact, singular = _reference(jacobian, g)
    gradient = Gradient.of(jacobian, exact)
    found = {}
    for solver in solvers or (LFPI(), GMRES(), BiCGSTAB(), Dense(), Auto()):
        seconds, operator, solution = float("inf"), CountingOperator(jacobian), None
        for _ in range(_REPEATS):
            jacobian.cache.clear()  # a training never asks twice at the same point
            operator = CountingOperator(jacobian)
            begin = time.perf_counter()
            solution = solve(solver, operator, g)
            seconds = min(seconds, time.perf_counter() - begin)
        assert solution is not None
        dense = not operator.calls
        found[type(solver).__name__] = {
            "products": jacobian.layout.n if dense else len(operator.calls),
            "dense": dense,
            "seconds": seconds,
            "error": gradient.error(Gradient.wanted(jacobian, solution.value)),
            "failed": int((solution.status != 0).sum()),
        }
    known = radius.flatten()
    return {
        "n": jacobian.layout.n,
        "samples": jacobian.layout.samples,
        "median": float(known.median()),
        "worst": float(known.max()),
        "singular": singular,
        "solvers": found,
    }


def _reference(jacobian: StepJacobian, g: Tensor) -> tuple[Tensor, bool]:
    """v as exactly as it can be had, and whether some system is singular."""
    A = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device) - jacobian.dense().mT
    values = torch.linalg.svdvals(A)
    singular = bool((values[..., -1] < 1e3 * torch.finfo(g.dtype).eps * values[..., 0]).any())
    if singular:
        v = torch.linalg.pinv(A, rtol=1e-10) @ g.unsqueeze(-1)
        return v.squeeze(-1), True
    v = torch.linalg.solve(A, g)
    return v + torch.linalg.solve(A, g - (A @ v.unsqueeze(-1)).squeeze(-1)), False


def adjoint_table(measured: dict[str, dict[str, Any]]) -> Table:
    """The measurements of several layers.

    Parameters
    ----------
    measured
        What :func:`compare_adjoints` gave, by the name of the layer.

    Returns
    -------
    Table
        A row for each layer and solver.
    """
    rows = []
    for name, of in measured.items():
        radius = f"{of['median']:.3g} / {of['worst']:.3g}"
        for solver, row in of["solvers"].items():
            products = f"{row['products']}, at once" if row["dense"] else f"{row['products']}"
            failed = f" ({row['failed']} of {of['samples']} failed)" if row["failed"] else ""
            error = "–" if row["error"] is None else f"{row['error']:.0e}"
            rows.append(
                (name, radius, solver, products, f"{1e3 * row['seconds']:.2f}", error + failed)
            )
            name = radius = ""
    singular = [name for name, of in measured.items() if of["singular"]]
    note = "One batch of the trained layer; ρ(Φ) is the spectral radius of the step, over samples."
    if singular:
        note += (
            f" I − Φ is singular in some sample of {', '.join(singular)}: there the reference is "
            "the least-squares answer of least norm."
        )
    return Table(
        "The adjoint system of the trained layer",
        ("layer", "ρ(Φ) median / worst", "solver", "products with Φᵀ", "ms", "gradient error"),
        tuple(rows),
        note,
    )
