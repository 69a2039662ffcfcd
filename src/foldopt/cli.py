"""The command ``fold-opt``: list the studies, run one, and make one page of all that was run.

What the studies need beyond torch and numpy, typer and rich included, is in an extra. Nothing of
it is imported before it is needed, so that a bare installation can say what is missing.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from foldopt import __version__

if TYPE_CHECKING:
    import typer
    from rich.console import Console

__all__ = ["application", "main"]


def main() -> None:
    """Run the command line."""
    require("typer", "rich")
    application()(prog_name="fold-opt")


def require(*modules: str) -> None:
    """Import modules of the ``experiments`` extra, or exit and say how to install them.

    Parameters
    ----------
    modules
        Names to import.

    Raises
    ------
    SystemExit
        If one cannot be imported; its message reaches stderr, with exit code 1.

    Examples
    --------
    >>> require("torch")
    """
    missing = []
    for name in dict.fromkeys(modules):
        try:
            importlib.import_module(name)
        except ImportError as error:
            # It may be there, and itself lack something: the error's text tells the two apart.
            missing.append(f"{name} ({error})")
    if missing:
        raise SystemExit(
            f"fold-opt: cannot import {', '.join(missing)}. The command needs the experiments "
            'extra: pip install "fold-opt[experiments]"'
        )


def application() -> typer.Typer:
    """Build the command line; needs typer and rich."""
    import typer

    from foldopt.experiments.frame import studies
    from foldopt.experiments.frame.command import add_commands

    app = typer.Typer(
        help="fold-opt: make any solver differentiable. The studies behind the library.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # a plain traceback can be searched and pasted
    )
    run = typer.Typer(help="Run a study; `fold-opt list` names them.", no_args_is_help=True)
    app.add_typer(run, name="run")
    add_commands(run, studies(), require)

    def show_version(wanted: bool) -> None:
        if wanted:
            _console().print(f"fold-opt {__version__}", highlight=False)
            raise typer.Exit

    version = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Print the version."
    )
    runs = typer.Option(Path("runs"), help="Where the runs are, a folder each.")
    out = typer.Option(None, help="The page to write; report.html among the runs if not named.")

    @app.callback()
    def common(version: bool = version) -> None:
        pass

    @app.command("list", help="List the studies.")
    def list_studies() -> None:
        _list_studies()

    @app.command("solvers", help="List the engines of the solvers, and how to install more.")
    def list_solvers() -> None:
        _list_solvers()

    @app.command("report", help="Write a page of all that was run, as HTML and as Markdown.")
    def report(runs: Path = runs, out: Path | None = out) -> None:
        require("scipy", "matplotlib")
        _report(runs, out or runs / "report.html")

    return app


def _list_studies() -> None:
    from rich.table import Table

    from foldopt.experiments.frame import studies

    shown = Table("study", "what it asks", box=None)
    for name, study in studies().items():
        shown.add_row(name, study.question)
    console = _console()
    console.print(shown)
    console.print("Run one: fold-opt run convergence [--quick]", markup=False, highlight=False)


def _list_solvers() -> None:
    from rich.table import Table

    from foldopt.solvers import available

    console, engines = _console(), available()
    for solver in dict.fromkeys(engine.solver for engine in engines):
        mine = [engine for engine in engines if engine.solver == solver]
        console.print(f"[bold]{solver}[/bold]: {mine[0].problems}", highlight=False)
        shown = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
        for engine in mine:
            here = engine.version or f"not installed: {engine.install}"
            shown.add_row(engine.name or "in torch", here, engine.workers, engine.licence)
        console.print(shown, highlight=False)


def _report(runs: Path, target: Path) -> None:
    import typer

    from foldopt.experiments.frame import collect, studies

    known = studies()
    found = collect.collect(runs, known)
    if not found:
        raise typer.BadParameter(
            f"there are no runs in {runs}: run a study first (fold-opt list names them), or say "
            "where they are",
            param_hint="--runs",
        )
    collect.write_report(found, known, target)
    console = _console()
    for one in found:
        verdict = "not finished" if one.report is None else one.report.verdict
        console.print(f"{one.run.study.name}: {verdict}", markup=False, highlight=False)
    for path in (target, target.with_suffix(".md")):
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    return Console()
