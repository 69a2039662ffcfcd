"""Plots of traces, spectra and step sizes; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from foldopt._arguments import Step
from foldopt.diagnose._point import record_step
from foldopt.diagnose.radius import dominant_of, summarise
from foldopt.diagnose.step_size import check_bounds
from foldopt.diagnose.trace import Trace
from foldopt.status import FoldError
from foldopt.unroll import _whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_spectrum", "plot_step_size", "plot_trace"]

# Wong's palette, which readers with any colour vision can tell apart.
_COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def plot_trace(trace: Trace, ax: Axes | None = None) -> Axes:
    r"""Draw a trace: relative errors on a log scale, by iteration or product.

    The error :math:`\|x_k - x^\star\|_1 / \|x^\star\|_1` is dashed, that of
    :math:`\partial L/\partial c` solid, one line for unrolling and one for each linear solver.

    Parameters
    ----------
    trace
        From :func:`backward_trace`.
    ax
        Where to draw. None: new axes of a new pyplot figure.

    Returns
    -------
    Axes
        What was drawn on.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    References
    ----------
    arXiv 2301.12047, Figure 3.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> from matplotlib.figure import Figure
    >>> c = torch.ones(1, 2, dtype=torch.float64)
    >>> trace = fo.backward_trace(lambda x, c: 0.5 * x + c, 2 * c, c, iterations=20)
    >>> ax = fo.diagnose.plot_trace(trace, Figure().subplots())
    >>> ax.get_yscale()
    'log'
    """
    ax = _axes(ax)
    lines = [
        ("forward", trace.iterations, trace.forward, "--"),
        ("backward, unrolled", trace.iterations, trace.backward.error, "-"),
    ]
    lines += [
        (f"backward, {name}", one.spent, one.error, "-") for name, one in trace.adjoints.items()
    ]
    for index, (label, spent, error, dashes) in enumerate(lines):
        # Zero has no place on a log scale: a gap, and not a line that ends.
        shown = torch.where(error > 0, error, torch.nan)
        color = _COLORS[max(index - 1, 0) % len(_COLORS)]
        ax.plot(spent.tolist(), shown.tolist(), dashes, color=color, label=label)
    where = {"fixed_point": "the fixed point", "random": "a random point"}
    ax.set(
        xlabel="iterations, or products with Φᵀ",
        ylabel="relative L1 error",
        yscale="log",
        title=f"Unrolled from {where.get(trace.start, 'a given point')}",
    )
    ax.legend()
    return ax


@torch.no_grad()
def plot_spectrum(
    step: Step, x_star: Any, *params: Any, batch_dims: int = 1, ax: Axes | None = None
) -> Axes:
    r"""Draw the eigenvalues of Φ over the unit circle.

    LFPI and unrolling converge if all lie inside, :math:`\rho(\Phi) < 1`; the adjoint system is
    singular if one is 1.

    Parameters
    ----------
    step, x_star, *params, batch_dims
        As for :func:`~foldopt.spectral_radius`. Φ is written out: n products and an eigenvalue
        decomposition for each sample.
    ax
        Where to draw. None: new axes of a new pyplot figure.

    Returns
    -------
    Axes
        What was drawn on.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    FoldError
        If Φ is not finite.
    TypeError, ValueError
        If an argument is not of its kind.

    References
    ----------
    arXiv 2301.12047, eq. 9.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> from matplotlib.figure import Figure
    >>> c = torch.ones(1, 2)
    >>> ax = fo.diagnose.plot_spectrum(
    ...     lambda x, c: 0.5 * x + c, 2 * c, c, ax=Figure().subplots())
    >>> ax.get_title()
    'ρ(Φ) = 0.5'
    """
    ax = _axes(ax)
    _, jacobian = record_step("plot_spectrum", step, x_star, params, batch_dims)
    phi = jacobian.dense()
    if not bool(torch.isfinite(phi).all()):
        raise FoldError(
            "plot_spectrum: Φ holds NaN or inf. Check x_star and the params, and the step's "
            "derivative there (log, sqrt, norm or division)."
        )
    values = torch.linalg.eigvals(phi.cpu().double()).flatten()
    angle = torch.linspace(0, 2 * math.pi, 361).tolist()
    ax.plot([math.cos(a) for a in angle], [math.sin(a) for a in angle], color="#999999", lw=1)
    ax.plot(values.real.tolist(), values.imag.tolist(), "o", color=_COLORS[1], ms=4, alpha=0.6)
    radius = float(values.abs().max()) if values.numel() else 0.0
    ax.set(
        xlabel="real part", ylabel="imaginary part", title=f"ρ(Φ) = {radius:.4g}", aspect="equal"
    )
    return ax


@torch.no_grad()
def plot_step_size(
    make_step: Callable[[float], Step],
    x_star: Any,
    *params: Any,
    bounds: tuple[float, float],
    points: int = 50,
    batch_dims: int = 1,
    ax: Axes | None = None,
) -> Axes:
    r"""Draw ρ(Φ(α)), and the iterations that it predicts, against the step size α.

    :math:`\log(1/\varepsilon) / -\log \rho` iterations of LFPI to ε = 1e-6, on the right-hand axis,
    for the slowest sample.

    Parameters
    ----------
    make_step
        ``make_step(alpha) -> step``, with the same fixed point for every α.
    x_star, *params, batch_dims
        As for :func:`~foldopt.tune_step_size`.
    bounds
        (l, u) with 0 < l < u: from where to where.
    points
        At how many step sizes, evenly spaced in log α.
    ax
        Where to draw. None: new axes of a new pyplot figure.

    Returns
    -------
    Axes
        What ρ was drawn on; the right-hand axis is its twin.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError, ValueError
        If an argument is not of its kind.

    References
    ----------
    arXiv 2301.12047, Appendix D (the effect of the step size).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> from matplotlib.figure import Figure
    >>> def make_step(alpha):
    ...     return fo.steps.gradient(lambda x, c: 0.5 * ((x - c) ** 2).sum(-1), alpha)
    >>> c = torch.ones(1, 2)
    >>> ax = fo.diagnose.plot_step_size(
    ...     make_step, c, c, bounds=(0.1, 2.0), points=5, ax=Figure().subplots())
    >>> ax.get_ylabel()
    'ρ(Φ)'
    """
    check_bounds(bounds)
    _whole("points", points, 2)
    ax = _axes(ax)
    alphas = torch.logspace(math.log10(bounds[0]), math.log10(bounds[1]), points).double().tolist()
    radii, iterations = [], []
    for alpha in alphas:
        _, jacobian = record_step("plot_step_size", make_step(alpha), x_star, params, batch_dims)
        found = summarise(jacobian, dominant_of(jacobian, None, 1000), 1e-6, warn=False)
        radii.append(float(found.radius.max()))
        count = float(found.iterations.max())
        iterations.append(count if math.isfinite(count) else math.nan)
    ax.plot(alphas, radii, color=_COLORS[1])
    ax.axhline(1.0, color="#999999", lw=1)
    ax.set(xlabel="step size α", ylabel="ρ(Φ)", xscale="log")
    twin = ax.twinx()
    twin.plot(alphas, iterations, color=_COLORS[2])
    twin.set(yscale="log")
    twin.set_ylabel("LFPI iterations to 1e-6", color=_COLORS[2])
    return ax


def _axes(ax: Axes | None) -> Axes:
    """The given axes, or new ones."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            'plots need matplotlib, which is not installed: pip install "fold-opt[experiments]"'
        ) from error
    return pyplot.subplots()[1]
