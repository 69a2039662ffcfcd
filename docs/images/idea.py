"""Draws the pictures of idea.md: `python docs/images/idea.py`. It needs matplotlib."""

from __future__ import annotations

import pathlib

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import foldopt as fo

HERE = pathlib.Path(__file__).parent
QUIET = {"Date": None}  # the same file at each run  # the same file at each run
BLUE, ORANGE, GREY = "#3f51b5", "#e07b00", "#777777"


def box(ax: plt.Axes, x: float, y: float, width: float, text: str, colour: str) -> None:
    """A rounded box with a text in it."""
    ax.add_patch(
        FancyBboxPatch(
            (x, y), width, 0.7, boxstyle="round,pad=0.05", facecolor="white", edgecolor=colour,
            linewidth=1.8,
        )
    )  # fmt: skip
    ax.text(x + width / 2, y + 0.35, text, ha="center", va="center", fontsize=9.5)


def arrow(ax: plt.Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """An arrow."""
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=13, color=colour, linewidth=1.6
        )
    )


def folding() -> None:
    """The forward and the backward pass of a fold."""
    fig, ax = plt.subplots(figsize=(7.4, 2.7))
    box(ax, 0.0, 1.6, 1.3, "params c", GREY)
    box(ax, 2.3, 1.6, 2.2, "your solver\n(any code)", BLUE)
    box(ax, 5.5, 1.6, 1.3, "x*", GREY)
    box(ax, 7.8, 1.6, 1.1, "loss", GREY)
    for start, end in (((1.4, 1.95), (2.2, 1.95)), ((4.6, 1.95), (5.4, 1.95)),
                       ((6.9, 1.95), (7.7, 1.95))):  # fmt: skip
        arrow(ax, start, end, BLUE)
    box(ax, -0.35, 0.1, 1.65, "∂L/∂c = Ψᵀv", GREY)
    box(ax, 2.3, 0.1, 4.5, "one recorded step:  (I − Φᵀ) v = g", ORANGE)
    box(ax, 7.8, 0.1, 1.1, "g", GREY)
    for start, end in (((7.7, 0.45), (6.9, 0.45)), ((2.2, 0.45), (1.4, 0.45)),
                       ((8.35, 1.5), (8.35, 0.9))):  # fmt: skip
        arrow(ax, start, end, ORANGE)
    ax.text(3.4, 2.5, "forward: nothing is recorded", ha="center", fontsize=9, color=BLUE)
    ax.text(4.55, 1.12, "backward: the solver is not asked", ha="center", fontsize=9, color=ORANGE)
    ax.set_xlim(-0.5, 9.2)
    ax.set_ylim(-0.1, 2.75)
    ax.axis("off")
    fig.savefig(HERE / "folding.svg", bbox_inches="tight", metadata=QUIET)


def slopes() -> None:
    """The graph of U(·, c) for two c: how the fixed point moves."""

    def update(x: np.ndarray, c: float) -> np.ndarray:
        return 0.5 * (x + c / x)

    x = np.linspace(1.1, 3.2, 200)
    fig, ax = plt.subplots(figsize=(4.6, 3.2))
    ax.plot(x, x, color=GREY, linewidth=1, label="x")
    for c, colour in ((4.0, BLUE), (5.0, ORANGE)):
        ax.plot(x, update(x, c), color=colour, label=f"U(x, {c:g})")
        root = np.sqrt(c)
        ax.plot(root, root, "o", color=colour)
        ax.plot([root, root], [1.75, root], ":", color=colour)
    ax.annotate("x*(4) = 2", (2, 2), (1.35, 1.83), color=BLUE, fontsize=9)
    ax.annotate("x*(5) = 2.24", (2.24, 2.24), (2.35, 1.83), color=ORANGE, fontsize=9)
    ax.set_xlabel("x")
    ax.set_ylim(1.75, 3.0)
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.6))
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(HERE / "fixed-point.svg", bbox_inches="tight", metadata=QUIET)


def costs() -> None:
    """The error of the gradient by products with Φᵀ: unrolled, unfolded, folded."""
    torch.manual_seed(0)
    n = 40
    scale = torch.linspace(1.0, 20.0, n, dtype=torch.float64)

    def cost(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (scale * torch.cosh(x) - c * x).sum(-1)

    step = fo.steps.gradient(cost, 0.085)
    c = torch.randn(1, n, dtype=torch.float64, requires_grad=True)
    loss = torch.randn(n, dtype=torch.float64)
    x_star = torch.asinh(c / scale).detach()
    exact = loss / (scale * torch.cosh(x_star))
    counts = list(range(1, 81, 2))

    def error(x: torch.Tensor) -> float:
        (found,) = torch.autograd.grad((x * loss).sum(), c)
        return float((found - exact).norm() / exact.norm())

    start = 0.4 * torch.randn(1, n, dtype=torch.float64)
    lines = {
        "unrolled from a random start": [
            error(fo.unroll(step, start, c, iterations=k)) for k in counts
        ],
        "unfolded from the solution": [
            error(fo.unfold(step, x_star, c, iterations=k)) for k in counts
        ],
    }
    fig, ax = plt.subplots(figsize=(4.6, 3.2))
    for (label, values), style in zip(lines.items(), ("-", "--"), strict=True):
        ax.semilogy(counts, values, style, label=label, color=GREY)
    seen = []
    for k in counts:
        rough = fo.fold(step, x_star, c, adjoint=fo.GMRES(rtol=1e-15, max_iterations=k),
                        on_failure="warn")  # fmt: skip
        seen.append(max(error(rough), 1e-16))
    ax.semilogy(counts, seen, color=ORANGE, label="folded, GMRES")
    ax.set_xlabel("products with Φᵀ")
    ax.set_ylabel("relative error of the gradient")
    ax.legend(frameon=False, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(HERE / "three-modes.svg", bbox_inches="tight", metadata=QUIET)


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore", fo.FoldWarning)  # the cut-off adjoints say that they are
    plt.rcParams["svg.fonttype"] = "path"
    plt.rcParams["svg.hashsalt"] = "fold-opt"
    folding()
    slopes()
    costs()
