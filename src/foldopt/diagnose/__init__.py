"""Measurements of a step at a solution: ρ(Φ), backward-pass traces, step sizes, a report, plots."""

from __future__ import annotations

from foldopt.diagnose.backward import backward_trace
from foldopt.diagnose.health_report import Report
from foldopt.diagnose.plots import plot_spectrum, plot_step_size, plot_trace
from foldopt.diagnose.radius import SpectralRadius, spectral_radius
from foldopt.diagnose.reports import diagnose
from foldopt.diagnose.step_size import StepSize, tune_step_size
from foldopt.diagnose.trace import Curve, Trace

__all__ = [
    "Curve",
    "Report",
    "SpectralRadius",
    "StepSize",
    "Trace",
    "backward_trace",
    "diagnose",
    "plot_spectrum",
    "plot_step_size",
    "plot_trace",
    "spectral_radius",
    "tune_step_size",
]
