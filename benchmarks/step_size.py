"""How good the step sizes of ``tune_step_size`` and of ``"auto"`` are, on random problems.

The best of 200 step sizes, evenly spaced in log α over four decades, is what they are compared
with. ``tune_step_size`` knows nothing of these bounds.

    python benchmarks/step_size.py
"""

from __future__ import annotations

import math
import warnings

import torch
from _problems import DESCENT, Family
from _timing import machine
from rich.console import Console
from rich.table import Table

import foldopt as fo

PROBLEMS = 40
POINTS = 200


def radius(family: Family, alpha: float | str) -> float:
    """ρ(Φ) of the slowest sample."""
    step = family.make_step(alpha)  # pyright: ignore[reportArgumentType]
    return float(fo.spectral_radius(step, family.x, *family.params).radius.max())


def best_of_grid(family: Family) -> tuple[float, float]:
    """The α of the least ρ(Φ), and that ρ."""
    scale = float(torch.linalg.matrix_norm(family.params[1], 2).max())
    alphas = (torch.logspace(-2, 2, POINTS) / scale).tolist()
    radii = [radius(family, alpha) for alpha in alphas]
    index = min(range(POINTS), key=radii.__getitem__)
    return alphas[index], radii[index]


def iterations(radius: float) -> float:
    """How many iterations of LFPI bring the error down by 1e-10, at least one."""
    return max(1.0, 10 * math.log(10) / -math.log(max(radius, 1e-300))) if radius < 1 else math.inf


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore", fo.FoldWarning)
    table = Table(title=f"tune_step_size against the best of {POINTS} step sizes")
    table.add_column("step")
    for column in (
        "problems",
        "α within 5 %",
        "or ρ no worse",
        "ρ − ρ best, worst",
        "iterations / best",
        "auto",
        "products",
        "at most",
        "evaluations",
    ):
        table.add_column(column, justify="right")
    for name, make in DESCENT.items():
        torch.manual_seed(0)
        near, fine, gaps, ratios, autos, products, evaluations = 0, 0, [], [], [], [], []
        for _ in range(PROBLEMS):
            family = make()
            tuned = fo.tune_step_size(family.make_step, family.x, *family.params)
            alpha, least = best_of_grid(family)
            close = abs(math.log(tuned.step_size / alpha)) <= math.log(1.05)
            near += close
            fine += close or tuned.radius <= least + 1e-3 * (1 - least)
            gaps.append(tuned.radius - least)
            ratios.append(iterations(tuned.radius) / iterations(least))
            autos.append(iterations(radius(family, "auto")) / iterations(least))
            products.append(tuned.products)
            evaluations.append(tuned.evaluations)
        table.add_row(
            name,
            str(PROBLEMS),
            str(near),
            str(fine),
            f"{max(gaps):+.1e}",
            f"{max(ratios):.3f}",
            f"{max(autos):.3f}",
            str(middle(products)),
            str(max(products)),
            str(max(evaluations)),
        )
    console = Console(width=140)
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
