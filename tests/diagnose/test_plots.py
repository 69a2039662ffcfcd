"""Plots: what they draw, on whose axes, and without matplotlib."""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import foldopt as fo
from tests.systems import F64

C = torch.ones(1, 2, dtype=F64)


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def halving(x: Tensor, c: Tensor) -> Tensor:
    return 0.5 * x + c


def make_step(alpha: float) -> fo.steps.Step:
    h = torch.tensor([1.0, 4.0], dtype=F64)
    return fo.steps.gradient(lambda x, c: 0.5 * (h * (x - c) ** 2).sum(-1), alpha)


def data(line: Any) -> tuple[list[float], list[float]]:
    return list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))


def test_a_trace_has_a_line_for_each_error(ax: Axes) -> None:
    trace = fo.backward_trace(halving, 2 * C, C, start=0 * C, iterations=6)
    assert fo.diagnose.plot_trace(trace, ax) is ax
    lines = {str(line.get_label()): line for line in ax.get_lines()}
    assert list(lines) == [
        "forward",
        "backward, unrolled",
        "backward, LFPI",
        "backward, GMRES",
        "backward, BiCGSTAB",
    ]
    assert data(lines["backward, unrolled"]) == (
        trace.iterations.tolist(),
        trace.backward.error.tolist(),
    )
    assert ax.get_yscale() == "log"
    assert "a given point" in ax.get_title()
    assert ax.get_legend() is not None


def test_errors_of_zero_are_gaps(ax: Axes) -> None:
    trace = fo.backward_trace(halving, 2 * C, C, iterations=4, adjoints=[])
    fo.diagnose.plot_trace(trace, ax)
    assert all(math.isnan(y) for y in data(ax.get_lines()[0])[1])  # at the fixed point
    assert "the fixed point" in ax.get_title()


def test_the_spectrum_lies_over_the_unit_circle(ax: Axes) -> None:
    M = torch.tensor([[0.0, -0.5], [0.5, 0.0]], dtype=F64)
    found = fo.diagnose.plot_spectrum(lambda x, c: x @ M.T + c, 0 * C, C, ax=ax)
    assert found is ax
    circle, points = ax.get_lines()
    assert all(math.hypot(x, y) == pytest.approx(1) for x, y in zip(*data(circle), strict=True))
    values = sorted(zip(*data(points), strict=True), key=lambda point: point[1])
    assert [x for point in values for x in point] == pytest.approx([0, -0.5, 0, 0.5])
    assert ax.get_title() == "ρ(Φ) = 0.5"
    assert ax.get_aspect() == 1


def test_radius_and_iterations_by_step_size(ax: Axes) -> None:
    fo.diagnose.plot_step_size(make_step, C, C, bounds=(0.1, 1.6), points=3, ax=ax)
    alphas, radii = data(ax.get_lines()[0])
    assert alphas == pytest.approx([0.1, 0.4, 1.6])
    assert radii == pytest.approx([0.9, 0.6, 5.4])
    figure = ax.figure
    assert figure is not None
    (twin,) = [other for other in figure.axes if other is not ax]
    counts = data(twin.get_lines()[0])[1]
    assert counts[:2] == pytest.approx([6 * math.log(10) / -math.log(r) for r in (0.9, 0.6)])
    assert math.isnan(counts[2])  # it diverges
    assert (ax.get_xscale(), twin.get_yscale()) == ("log", "log")


def test_axes_are_made_where_none_are_given() -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    trace = fo.backward_trace(halving, 2 * C, C, iterations=2)
    found = fo.diagnose.plot_trace(trace)
    assert found.figure is not None
    assert pyplot.get_fignums() == [1]
    pyplot.close("all")


def test_given_axes_leave_pyplot_alone(ax: Axes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert fo.diagnose.plot_spectrum(halving, 2 * C, C, ax=ax) is ax


def test_without_matplotlib_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    trace = fo.backward_trace(halving, 2 * C, C, iterations=2)
    says = re.escape('plots need matplotlib, which is not installed: pip install "fold-opt[exper')
    with pytest.raises(ImportError, match=says):
        fo.diagnose.plot_trace(trace)


def test_arguments_of_another_kind(ax: Axes) -> None:
    with pytest.raises(ValueError, match="bounds must be"):
        fo.diagnose.plot_step_size(make_step, C, C, bounds=(1.0, 0.5), ax=ax)
    with pytest.raises(ValueError, match="points must be an integer of 2 or more, got 1"):
        fo.diagnose.plot_step_size(make_step, C, C, bounds=(0.5, 1.0), points=1, ax=ax)
    with pytest.raises(fo.FoldError, match="Φ holds NaN or inf"):
        fo.diagnose.plot_spectrum(lambda x, c: x.log() + c, 0 * C, C, ax=ax)
