"""How exactly each solver solves eq. 20, and what that does to the gradient."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foldopt.experiments.frame import Journal
from foldopt.experiments.portfolio.data import Instances, synthetic
from foldopt.experiments.portfolio.engines import engine_of
from foldopt.experiments.portfolio.layers import ConeLayer, folded_portfolio
from foldopt.experiments.portfolio.plan import ENGINES, Config, Spec
from foldopt.nn._portfolio.interior_points import residual, solve
from foldopt.operators import PrimalDual
from foldopt.status import FoldWarning, Status

__all__ = ["measure", "score"]

CONES: dict[str, dict[str, Any]] = {
    "cvxpylayers, SCS, eps = 1e-4 (default)": {},
    "cvxpylayers, SCS, eps = 1e-9": {"solver_args": {"eps": 1e-9}},
    "cvxpylayers, SCS, ‖Lᵀx‖ ≤ √γ": {"norm": True},
    "cvxpylayers, Clarabel": {"solver_args": {"solve_method": "Clarabel"}},
}
SCALES = (1.0, 1e6)


def measure(config: Config, spec: Spec, journal: Journal) -> dict[str, Any]:
    """Solve the same programs by every solver, in both scales, and compare with the exact answer.

    Parameters
    ----------
    config, spec, journal
        As for a job of the study; ``spec.task`` gives τ and the degree.

    Returns
    -------
    dict
        ``"rows"``: for each solver and scale what :func:`score` gives; ``"reference"``: the largest
        violation of an optimality condition by the exact answer.
    """
    data = synthetic(
        config.programs, degree=spec.task.degree, noise=spec.task.noise, assets=config.assets
    )
    exact = solve(data.returns, data.covariance, data.risk)
    worst = residual(exact.x, data.returns, data.covariance, data.risk).max()
    rows = []
    for scale in SCALES:
        for name in ENGINES:
            try:
                engine = engine_of(name, scale)
            except ImportError:
                continue
            layer = folded_portfolio(engine)
            rows.append({"solver": name, "scale": scale, **score(engine, layer, data)})
        for name, how in CONES.items():
            cones = ConeLayer(data.covariance[0], float(data.risk[0]), scale, **how)
            rows.append({"solver": name, "scale": scale, **score(cones, cones, data)})
    journal.epoch()
    V = data.covariance[0]
    sizes = {"V": float(V.abs().max()), "risk": float(data.risk[0])}
    return {"rows": rows, "reference": float(worst), "programs": len(data), **sizes}


def score(
    forward: Callable[..., Any], layer: Callable[..., Tensor], data: Instances
) -> dict[str, Any]:
    r"""Compare one solver with the exact one.

    Parameters
    ----------
    forward
        ``forward(c, covariance, risk)``: a Solution, or x.
    layer
        The same with its gradient.
    data
        The programs: ``returns`` are the c.

    Returns
    -------
    dict
        ``"seconds"`` a program, ``"median"`` and ``"worst"`` of ‖x − x*‖∞, ``"risk"`` (the largest
        xᵀVx / γ), ``"budget"`` (the largest \|Σx − 1\|), ``"least"`` (the smallest weight),
        ``"failed"`` programs by the solver's own word, and ``"gradient"``: the error of a random
        cotangent's gradient, relative, over the batch. NaN where nothing came back.
    """
    c, known = data.returns, (data.covariance, data.risk)
    begin = time.perf_counter()
    with torch.no_grad():
        found = forward(c, *known)
    seconds = time.perf_counter() - begin
    status = getattr(found, "status", None)
    x = found if isinstance(found, Tensor) else found.x
    x = (x.x if isinstance(x, PrimalDual) else x).detach()
    errors = (x - solve(c, *known).x.x).abs().amax(-1)
    risks = torch.einsum("bi,bij,bj->b", x, known[0], x) / known[1]
    return {
        "seconds": seconds / len(c),
        "median": float(errors.median()),
        "worst": float(errors.max()),
        "risk": float(risks.max()),
        "budget": float((x.sum(-1) - 1).abs().max()),
        "least": float(x.min()),
        "failed": getattr(forward, "refused", 0)
        if status is None
        else int(Status.failed(torch.as_tensor(status)).sum()),
        "gradient": _gradient_error(layer, c, known),
    }


def _gradient_error(layer: Callable[..., Tensor], c: Tensor, known: tuple[Tensor, ...]) -> float:
    random = torch.Generator().manual_seed(0)
    cotangent = torch.randn(c.shape, generator=random, dtype=c.dtype)

    def gradient(of: Callable[..., Tensor]) -> Tensor:
        own = c.clone().requires_grad_()
        return torch.autograd.grad(of(own, *known), own, cotangent)[0]

    wanted = gradient(folded_portfolio(solve))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FoldWarning)  # inaccurate answers are what is studied
        error = float((gradient(layer) - wanted).norm() / wanted.norm())
    return error if math.isfinite(error) else math.nan
