"""The command ``fold-opt run bilinear``: its options, and nothing that takes long to import."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path

import typer

__all__ = ["Engine", "add_command"]


class Engine(str, enum.Enum):
    """Who solves the layer's programs in training."""

    ascent = "ascent"
    scip = "scip"
    gurobi = "gurobi"


def add_command(run: typer.Typer, question: str, prepare: Callable[..., None]) -> None:
    """Add the study to the command line.

    Parameters
    ----------
    run
        The group of studies.
    question
        What the study asks, for the help.
    prepare
        ``prepare(out, *modules)``: ends the command unless these modules can be imported, and the
        folder written to.
    """
    seeds = typer.Option(0, min=0, help="Of the first Q, its examples and the initial weights.")
    matrices = typer.Option(None, min=1, help="How many Q (15; 1 with --quick).")
    engine = typer.Option(
        Engine.ascent, help="Solves the layer in training: a local search, or a global solver."
    )
    brief = typer.Option(False, "--quick", help="One Q, 3 epochs, fewer checks: about a minute.")
    folder = typer.Option(Path("runs/bilinear"), help="Folder for the figure and the numbers.")

    @run.command("bilinear", help=f"{question}.")
    def bilinear(
        seed: int = seeds,
        problems: int | None = matrices,
        solver: Engine = engine,
        quick: bool = brief,
        out: Path = folder,
    ) -> None:
        prepare(out, *(["gurobipy"] if solver is Engine.gurobi else []))
        from rich.console import Console

        from foldopt.experiments.bilinear.report import show

        show(Console(), quick, seed, out, solver.value, problems)
