"""What the convergence study says: a verdict, a sentence on each pitfall, and tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from foldopt.experiments.convergence.figure import FIGURES, write_figures
from foldopt.experiments.convergence.measure import Result
from foldopt.experiments.convergence.numbers import restored
from foldopt.experiments.convergence.plan import ADJOINTS, MEASUREMENTS, Config
from foldopt.experiments.convergence.starts import TARGET
from foldopt.experiments.convergence.tables import tables
from foldopt.experiments.frame import Figure, Report, adjoint_table
from foldopt.experiments.frame.report import Verdict

__all__ = ["findings", "judge", "write_report"]

CLAIM = (
    "arXiv 2301.12047, Fig. 3, Theorem 1 and Appendix D: unfolded from the solution itself, the "
    "backward pass converges at the rate −log ρ(Φ), somewhat faster than from a random start; "
    "larger step sizes need fewer iterations, until gradients explode."
)
CHOICES = (
    "The paper states neither n, k, c, the step size nor the loss of Fig. 3: those above are ours.",
    "Eq. 19 prints + before the entropy of a maximum, whose solution would be a vertex: it is −.",
    "Errors are relative to the closed-form solution and its exact derivative, not to a long "
    "iteration.",
    "Nothing is trained here, and so there are no certificates of a training. The layers of the "
    "other experiments are measured at one solution each, on data of our own where the paper's are "
    "not stated.",
)
CAPTIONS = {
    "figure3": "Relative L1 errors by iteration, from the solution and from a random start.",
    "step_sizes": "What a step size costs the backward pass, and two that are too large.",
    "nested": "A projection by ADMM inside the step: unrolled, and folded.",
    "adjoints": "The same adjoint system by each linear solver, by products with Φᵀ.",
    "starts": "Rates and delays by the distance of the starting point.",
}
_CLOSE = 0.1  # a fitted rate and the theory's, relative: the fit itself is no better
_STANDS_STILL = 1e-12


def write_report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    """Draw the figures, and say what came out.

    Parameters
    ----------
    config
        The settings.
    results
        Of both jobs, by key.
    folder
        Where the figures go.

    Returns
    -------
    Report
        Claim, verdict, findings, tables and figures.
    """
    result = restored(config, results[MEASUREMENTS])
    verdict, why = judge(result)
    write_figures(result, folder)
    return Report(
        claim=CLAIM,
        ran=_ran(result),
        choices=CHOICES,
        verdict=verdict,
        why=why,
        findings=tuple(findings(result)),
        tables=(*tables(result), adjoint_table({"top-k of Fig. 3, untrained": results[ADJOINTS]})),
        figures=tuple(Figure(f"{name}.png", CAPTIONS[name]) for name in FIGURES),
    )


def _ran(result: Result) -> str:
    config = result.config
    return (
        f"Smooth top-k selection (eq. 19, corrected): {config.k} of {config.n}, ε = 1, scores on a "
        f"sphere of radius {1 / config.temperature:g}, seed {config.seed}; projected gradient "
        f"descent with α = {config.step_size:g}, {config.iterations} iterations; loss −log x_y. "
        f"ρ(Φ) = {result.radius:.4f} by Arnoldi, {result.analytic_radius:.4f} from the eigenvalues "
        "of the Hessian on Σt = 0."
    )


def judge(result: Result) -> tuple[Verdict, str]:
    """Whether the figure and the theorem hold, and the numbers that say so.

    Parameters
    ----------
    result
        The measurements.

    Returns
    -------
    verdict, why
        ``"reproduced"`` if the rate is the theorem's, the forward pass stands still, the random
        start needs more iterations, and some step size on the grid is too large.
    """
    rate = -math.log(result.radius)
    fitted = _or_nan(lambda: result.from_solution.fitted_rate()) / rate
    still = float(result.from_solution.forward.max())
    near, far = (
        trace.backward.first_below(TARGET) for trace in (result.from_solution, result.from_random)
    )
    counted = [row for row in result.step_sizes if row.radius < 1]
    exploding = len(result.step_sizes) - len(counted)
    checks = (
        abs(fitted - 1) <= _CLOSE,
        still <= _STANDS_STILL,
        near is not None and (far is None or far > near),
        exploding > 0,
    )
    random = _or_nan(lambda: result.from_random.fitted_rate()) / rate
    why = (
        f"From the solution the forward error is at most {still:.0e} throughout, and the backward "
        f"error falls at {fitted:.3f} times −log ρ(Φ). It is below {TARGET:g} after "
        f"{_whole(near)} iterations, from a random start after {_whole(far)}. That is a delay, not "
        f"another rate: fitted as k ρ^k, the random start has {random:.3f} times −log ρ(Φ). Of "
        f"{len(result.step_sizes)} step sizes, {exploding} have ρ(Φ) ≥ 1, where the gradient "
        "explodes."
    )
    if all(checks):
        return "reproduced", why
    return ("partly reproduced" if any(checks) else "not reproduced"), why


def findings(result: Result) -> list[str]:
    """What was seen, in sentences that hold for these numbers."""
    rate = -math.log(result.radius)
    solution = _or_nan(lambda: result.from_solution.fitted_rate()) / rate
    random = _or_nan(lambda: result.from_random.fitted_rate()) / rate
    counted = [row for row in result.step_sizes if math.isfinite(row.counted)]
    fastest = min(counted, key=lambda row: row.counted) if counted else None
    unrolled = [row for row in result.nested if row.name == "unrolled"]
    lines = [
        f"Fitted backward rate over −log ρ(Φ): {solution:.3f} from the solution, {random:.3f} from "
        "a random start (as k ρ^k). It is one rate; the lag is the factor k."
    ]
    if result.lag:
        row = max(result.lag, key=lambda row: row.backward / row.forward)
        lines.append(
            f"Stopping at a forward error of {row.tolerance:g} leaves a gradient that is "
            f"{row.backward / row.forward:.0f} times worse, after {row.iterations} iterations."
        )
    if fastest is not None:
        lines.append(
            f"tune_step_size: α = {result.tuned.step_size:.4f} from {result.tuned.products} "
            f"products; the fastest on the grid {fastest.step_size:.4f}; the formula "
            f"2/(μ_min + μ_max) = {result.analytic_step_size:.4f}."
        )
    if unrolled:
        first, last = unrolled[0], unrolled[-1]
        lines.append(
            f"Unrolled inner loop: gradient error {first.backward:.0e} with {first.inner} and "
            f"{last.backward:.0e} with {last.inner} iterations; each adds "
            f"{1e3 * _slope(unrolled):.1f} kB to every outer one. Folded: nothing."
        )
    return lines


def _slope(rows: list[Any]) -> float:
    """Megabytes for each further inner iteration."""
    first, last = rows[0], rows[-1]
    return (last.megabytes - first.megabytes) / max(1, last.inner - first.inner)


def _whole(value: int | None) -> str:
    return "never" if value is None else str(value)


def _or_nan(fit: Any) -> float:
    try:
        return fit()
    except ValueError:
        return math.nan
