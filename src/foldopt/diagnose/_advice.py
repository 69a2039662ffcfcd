"""What is wrong or doubtful in a report, each with its remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from foldopt.certify import Certify
from foldopt.diagnose._health import is_singular
from foldopt.diagnose.health_report import Report, least_of, worst


def advice(found: Report, certify: Certify, mixing: str | None) -> Iterator[str]:
    """The warnings, the worst first; ``mixing`` is what a fold says of samples that touch."""
    error_above, warn_above = certify.limits(found.dtype)
    residual = worst(found.residual)
    radius, least = worst(found.spectral.radius), least_of(found.singular_value)
    eps = torch.finfo(found.dtype).eps
    if not math.isfinite(residual) or math.isnan(radius):
        yield (
            "Not finite: x_star, the step there or its derivative holds NaN or inf. Check the "
            "params, and the step's domain (log, sqrt, norm or division at x_star)."
        )
    elif residual > warn_above:
        what = "Not a fixed point" if residual > error_above else "Not quite a fixed point"
        yield (
            f"{what}: the step moves x_star by {residual:.1e} (warning above {warn_above:.0e}, "
            f"error above {error_above:.0e}). Tighten the solver; check that it solves the same "
            "problem as the step (a sign, a factor ½, a constraint) and that the params come in "
            "the same order."
        )
    if mixing:
        yield mixing
    if found.captured:
        yield (
            f"Captured tensors: the step uses {len(found.captured)} tensor(s) that require grad "
            "and are not among its params; their gradient would be lost. Pass them as params, or "
            "hold them in an nn.Module that is itself the step."
        )
    for name in found.unused:
        yield (
            f"{name} is not used by the step: its gradient is zero. If the solution depends on "
            "it, the step must too (a detach() inside the step hides it)."
        )
    if is_singular(least, found.n, found.dtype):
        yield (
            f"Singular: σ_min(I − Φ) = {least:.1e}: the solution is not unique, or not a smooth "
            "function of the params. Regularise the problem, or ask for the minimum-norm "
            "derivative with Dense(least_squares=True)."
        )
    elif least < eps**0.5:
        yield (
            f"Nearly singular: σ_min(I − Φ) = {least:.1e}: errors of x_star are enlarged by about "
            f"{1 / least:.0e} in the gradient. Solve more accurately, or regularise the problem."
        )
    if radius >= 1:
        yield (
            f"ρ(Φ) = {radius:.4g} ≥ 1: LFPI and unrolling diverge. Keep Auto(), Dense() or "
            "GMRES(), for which ρ(Φ) does not matter, or use a smaller step size "
            "(tune_step_size)."
        )
    if not bool((found.spectral.converged | found.spectral.radius.isnan()).all()):
        yield (
            "ρ(Φ) is an estimate: several eigenvalues have nearly the largest modulus. "
            "spectral_radius(..., max_products=...) looks longer."
        )
    defect = worst(found.symmetry_defect)
    if found.declared_symmetric and defect > eps**0.5:
        yield (
            f"Φ is declared symmetric and is not (defect {defect:.1e}): CG, and Auto with it, may "
            "fail. Declare symmetric=False."
        )
    elif not found.declared_symmetric and defect < 1e3 * eps and found.n > 16 and radius > 0:
        yield (
            "Φ seems to be symmetric and the step does not say so: if it is at every solution, "
            "Step(..., symmetric=True) lets Auto use CG."
        )
    if bool(found.kinks.any()):
        count = int(found.kinks.sum())
        yield (
            f"A kink at {count} of {found.samples} samples: Φ jumps next to x_star, as where a "
            "constraint is active with multiplier 0. The derivative is one of several; the "
            "solution's own is one-sided there. Perturb the params, or smooth the problem, if "
            "gradients are erratic."
        )
