"""What a report on a step holds, and how it reads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from foldopt.diagnose.radius import SpectralRadius

__all__ = ["Report"]


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`report` found; ``str(report)`` is for reading, and ``rich`` renders it too.

    Attributes
    ----------
    name
        The step's name.
    samples, n
        How many samples, and of how many numbers each.
    dtype
        Of x.
    residual
        ‖U(x) − x‖ / (1 + ‖x‖) for each sample, in the shape of the batch.
    spectral
        ρ(Φ) and what it predicts, a :class:`SpectralRadius`.
    declared_symmetric, symmetry_defect
        What the step says of Φ, and |uᵀΦt − tᵀΦu| relative to the products, for each sample.
    singular_value, singular_value_method
        σ_min(I − Φ) of each sample, and how it was found.
    kinks
        Which samples seem to sit at a kink of U, such as a weakly active constraint; a heuristic.
    captured
        The shapes of tensors that require grad and that the step closes over.
    unused
        The params that the step does not use, by name.
    solver, products, reason
        The solver of the adjoint system that suits, about how many products with Φᵀ it takes, and
        why.
    warnings
        What is wrong or doubtful, each with its remedy.
    """

    name: str
    samples: int
    n: int
    dtype: torch.dtype
    residual: Tensor
    spectral: SpectralRadius
    declared_symmetric: bool
    symmetry_defect: Tensor
    singular_value: Tensor
    singular_value_method: str
    kinks: Tensor
    captured: tuple[tuple[int, ...], ...]
    unused: tuple[str, ...]
    solver: str
    products: float
    reason: str
    warnings: tuple[str, ...]

    def rows(self) -> Iterator[tuple[str, str]]:
        """What the report says, line by line: a label and a text."""
        radius = worst(self.spectral.radius)
        iterations = worst(self.spectral.iterations)
        yield "step", f"{self.name}, {self.samples} sample(s) of n = {self.n}, {self.dtype}"
        yield "fixed-point residual", f"{worst(self.residual):.1e}  (‖U(x) − x‖ / (1 + ‖x‖))"
        yield "spectral radius of Φ", f"{radius:.6g}{_which(self.spectral.radius)}"
        speed = f"{iterations:.0f} iterations" if math.isfinite(iterations) else "diverges"
        speed = "unknown" if math.isnan(iterations) else speed
        yield "LFPI, unrolling", f"{speed}  (−log ρ(Φ) = {least_of(self.spectral.rate) + 0.0:.4g})"
        defect = worst(self.symmetry_defect)
        said = "declared symmetric" if self.declared_symmetric else "not declared symmetric"
        yield "symmetry defect of Φ", f"{defect:.1e}  ({said})"
        least = least_of(self.singular_value)
        yield "σ_min(I − Φ)", f"{least:.3g}  ({self.singular_value_method})"
        count = int(self.kinks.sum())
        yield "kinks", f"{count} of {self.samples} samples  (heuristic)"
        yield "captured tensors", ", ".join(map(str, self.captured)) or "none"
        yield "unused params", ", ".join(self.unused) or "none"
        yield "adjoint solver", f"{self.solver}, about {math.ceil(self.products)} products"
        yield "because", self.reason

    def __str__(self) -> str:
        width = max(len(label) for label, _ in self.rows())
        lines = [f"{label:<{width}}  {text}" for label, text in self.rows()]
        lines += [f"! {warning}" for warning in self.warnings] or ["no warnings"]
        return "\n".join(lines)

    def __rich__(self) -> Any:
        """The report as a panel of ``rich``, which is imported here and nowhere else."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for label, text in self.rows():
            table.add_row(Text(label, style="bold"), Text(text))
        notes = [Text(f"! {warning}", style="yellow") for warning in self.warnings]
        return Panel(Group(table, *(notes or [Text("no warnings", style="green")])), title="fold")


def worst(values: Tensor) -> float:
    """The largest value, NaN if there is one; 0 for an empty batch."""
    return float(values.max()) if values.numel() else 0.0


def least_of(values: Tensor) -> float:
    return float(values.min()) if values.numel() else math.inf


def _which(values: Tensor) -> str:
    if values.numel() < 2:
        return ""
    return f" in sample {int(values.flatten().argmax())}, {float(values.min()):.6g} at the least"
