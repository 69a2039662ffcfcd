"""Whether the backward pass converges at the rate −log ρ(Φ), on random problems of each kind.

LFPI from the fixed point is run until its error is rounding, a rate is fitted to the errors, and
compared with ρ(Φ); so is the recorded iteration (unfolding) where it is short. A loss whose
gradient has little in the dominant eigenspace converges faster for long. So each problem is run
with five random cotangents on its slowest sample, and the middle one counts; "any g" is the worst
that a single cotangent does.

    python benchmarks/rates.py
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from _problems import DESCENT, Family
from _steps import MORE
from _timing import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils import _pytree as pytree

import foldopt as fo

PROBLEMS = 25
COTANGENTS = 5
# Slower ones take too many products to be run down to rounding.
SLOWEST = 0.015
UNFOLD_UP_TO = 100
# So many points of a curve are enough.
POINTS = 200


# A step, its fixed point (a tensor or a tree of them), and its params.
Case = tuple[Any, Any, tuple[Any, ...]]


class Fit(NamedTuple):
    rate: float  # −log ρ(Φ) of the slowest sample
    folded: list[float]  # fitted to LFPI, for each cotangent
    unfolded: list[float]  # fitted to the recorded iteration; empty where that was too long
    oscillates: bool


def at_random_step_size(make: Callable[[], Family]) -> Callable[[], Case]:
    """A family's step with an α between well below and well above the best."""

    def draw() -> Case:
        family = make()
        best = fo.tune_step_size(family.make_step, family.x, *family.params).step_size
        alpha = best * float(0.4 + 0.7 * torch.rand(()))
        return family.make_step(alpha), family.x, family.params

    return draw


def network() -> Case:
    """tanh(Mx + c): Φ is not normal, and its dominant eigenvalue is complex more often than not."""
    n = int(torch.randint(4, 20, ()))
    m = torch.randn(n, n)
    m = float(0.5 + 0.45 * torch.rand(())) * m / torch.linalg.eigvals(m).abs().max()
    c = torch.randn(2, n)

    def step(x: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(x @ m.T + c)

    x = fo.fixed_point(step, torch.zeros_like(c), c, rtol=1e-14, max_iterations=10000)
    return step, x.detach(), (c,)


# Another kind of step: one more line.
KINDS: dict[str, Callable[[], Case]] = {
    **{name: at_random_step_size(make) for name, make in DESCENT.items()},
    **MORE,
    "network": network,
}


def fits(make: Callable[[], Case]) -> Iterator[Fit]:
    """Rates of random problems with ρ(Φ) < 1, as fitted."""
    # Its own generator, so that the problems do not depend on how many cotangents there are.
    generator = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(20 * PROBLEMS):
        if found == PROBLEMS:
            break
        step, x, params = make()
        spectral = fo.spectral_radius(step, x, *params)
        rate = float(spectral.rate.min())
        if not SLOWEST < rate < 5:
            continue
        found += 1
        products = max(40, math.ceil(36 / rate))
        unfold = products if products <= UNFOLD_UP_TO else 0
        slowest = int(spectral.radius.argmax())
        folded, unfolded = [], []
        for _ in range(COTANGENTS):
            trace = fo.backward_trace(
                step,
                x,
                *params,
                cotangent=pytree.tree_map(
                    functools.partial(on_one, sample=slowest, generator=generator), x
                ),
                iterations=unfold,
                products=products,
                every=max(1, products // POINTS),
                adjoints=[fo.LFPI()],
            )
            folded.append(trace.fitted_rate("LFPI"))
            unfolded += [trace.fitted_rate()] if unfold else []
        yield Fit(rate, folded, unfolded, bool(spectral.eigenvalue[slowest].imag > 0))


def on_one(leaf: Tensor, sample: int, generator: torch.Generator) -> Tensor:
    """A random cotangent for one sample."""
    g = torch.zeros_like(leaf)
    g[sample] = torch.randn(leaf[sample].shape, generator=generator)
    return g


def main() -> None:
    torch.set_default_dtype(torch.float64)
    table = Table(title="Fitted backward rate over −log ρ(Φ), less 1")
    for column in (
        "step",
        "problems",
        "complex",
        "−log ρ",
        "median",
        "largest",
        "over 5 %",
        "any g",
        "unfolded",
        "largest",
    ):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, make in KINDS.items():
        torch.manual_seed(0)
        found = list(fits(make))
        gaps = sorted(abs(statistics.median(one.folded) / one.rate - 1) for one in found)
        single = max(abs(fit / one.rate - 1) for one in found for fit in one.folded)
        unfolded = [
            abs(statistics.median(one.unfolded) / one.rate - 1) for one in found if one.unfolded
        ]
        table.add_row(
            name,
            str(len(found)),
            str(sum(one.oscillates for one in found)),
            f"{min(one.rate for one in found):.3f} … {max(one.rate for one in found):.2f}",
            f"{gaps[len(gaps) // 2]:.2%}",
            f"{gaps[-1]:.1%}",
            str(sum(gap > 0.05 for gap in gaps)),
            f"{single:.1%}",
            str(len(unfolded)),
            f"{max(unfolded, default=0):.1%}",
        )
    console = Console(width=130)
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
