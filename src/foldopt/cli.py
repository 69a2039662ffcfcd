"""The command ``fold-opt``: list the studies, and run one.

What the studies need beyond torch and numpy, typer and rich included, is in an extra. Nothing of
it is imported before it is needed, so that a bare installation can say what is missing.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from foldopt import __version__

if TYPE_CHECKING:
    import typer
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["application", "main"]

STUDIES = {
    "bilinear": "Nonconvex bilinear decisions: regret against error, global optima, the need for ε",
    "convergence": "How the backward pass converges: Figure 3, step sizes, nested loops, ρ(Φ)",
    "portfolio": "S&P 500 portfolios: a network trained on regret against one trained on error",
}
NEEDS = {
    "bilinear": ("scipy", "matplotlib", "pyscipopt", "loky"),
    "convergence": ("qpsolvers", "piqp", "scipy", "matplotlib", "pypower"),
    "portfolio": ("qpsolvers", "piqp", "scipy", "matplotlib", "skfolio"),
}

QUICK = {"seeds": 2, "epochs": 3}


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
    for name in modules:
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

    from foldopt.experiments.bilinear.command import add_command

    app = typer.Typer(
        help="fold-opt: make any solver differentiable. The studies behind the library.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # a plain traceback can be searched and pasted
    )
    run = typer.Typer(help="Run a study; `fold-opt list` names them.", no_args_is_help=True)
    app.add_typer(run, name="run")

    def show_version(wanted: bool) -> None:
        if wanted:
            _console().print(f"fold-opt {__version__}", highlight=False)
            raise typer.Exit

    version = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Print the version."
    )
    seeds = typer.Option(None, min=1, help="Trainings of each model (8; 2 with --quick).")
    epochs = typer.Option(None, min=1, help="Passes over the training data (30; 3 with --quick).")
    quick = typer.Option(
        False, "--quick", help="2 seeds, 3 epochs: done in seconds, and proof of nothing."
    )
    out = typer.Option(Path("runs/portfolio"), help="Folder for the figure and the numbers.")

    @app.callback()
    def common(version: bool = version) -> None:
        pass

    @app.command("list", help="List the studies.")
    def list_studies() -> None:
        _list_studies()

    @run.command("portfolio", help=f"{STUDIES['portfolio']}.")
    def portfolio(
        seeds: int | None = seeds,
        epochs: int | None = epochs,
        quick: bool = quick,
        out: Path = out,
    ) -> None:
        require(*NEEDS["portfolio"])
        _folder_or_usage_error(out)
        given = {"seeds": seeds, "epochs": epochs}
        chosen = {name: value for name, value in given.items() if value is not None}
        _portfolio({**(QUICK if quick else {}), **chosen}, out)

    @app.command("solvers", help="List the engines of the solvers, and how to install more.")
    def list_solvers() -> None:
        _list_solvers()

    seed = typer.Option(0, min=0, help="Of the scores and the random starts.")
    brief = typer.Option(False, "--quick", help="A smaller problem and coarser grids.")
    folder = typer.Option(Path("runs/convergence"), help="Folder for the figures and the numbers.")

    @run.command("convergence", help=f"{STUDIES['convergence']}.")
    def convergence(seed: int = seed, quick: bool = brief, out: Path = folder) -> None:
        require(*NEEDS["convergence"])
        _folder_or_usage_error(out)
        _convergence(seed, quick, out)

    def prepare(out: Path, *modules: str) -> None:
        require(*NEEDS["bilinear"], *modules)
        _folder_or_usage_error(out)

    add_command(run, STUDIES["bilinear"], prepare)
    return app


def _folder_or_usage_error(path: Path) -> None:
    import typer

    try:
        prepare_folder(path)
    except OSError as error:
        raise typer.BadParameter(
            f"cannot write to {path}: {error}. Name a folder that you may write to.",
            param_hint="--out",
        ) from error


def prepare_folder(path: Path) -> None:
    """Make a folder, and see that files can be written there: before hours of work, not after.

    Parameters
    ----------
    path
        The folder; its parents are made too.

    Raises
    ------
    OSError
        If it cannot be made or written to.
    """
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def _list_studies() -> None:
    from rich.table import Table

    shown = Table("study", "what it asks", box=None)
    for name, question in STUDIES.items():
        shown.add_row(name, question)
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


def _portfolio(settings: dict[str, int], out: Path) -> None:
    from foldopt.experiments.market import load_sp500, observe
    from foldopt.experiments.markowitz import report
    from foldopt.experiments.markowitz.figure import write_figure
    from foldopt.experiments.markowitz.training import Config, run, workload

    console = _console()
    config = Config(**settings)
    with console.status("reading the prices"):
        market = observe(*load_sp500(), holding=config.holding, window=config.window)
    console.print(report.introduction(config, market), highlight=False)
    with _progress(console) as progress:
        task = progress.add_task("training", total=workload(config, market))
        result = run(config, market, lambda solved: progress.advance(task, solved))
    console.print(report.table(result))
    for line in report.verdict(result):
        console.print(f"• {line}", markup=False, highlight=False)
    console.print(
        f"{result.problems:,} quadratic programs by PIQP, folded; largest fixed-point residual "
        f"{result.residual:.0e}; {result.seconds:.0f} s.",
        highlight=False,
    )
    figure, numbers = out / "portfolio.png", out / "portfolio.json"
    write_figure(result, figure)
    report.write_numbers(result, numbers)
    for path in (figure, numbers):
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def _convergence(seed: int, quick: bool, out: Path) -> None:
    import torch

    from foldopt.experiments.convergence import report
    from foldopt.experiments.convergence.figure import write_figures
    from foldopt.experiments.convergence.measure import Config, run

    console = _console()
    small = {"n": 20, "k": 3, "step_size": 0.06, "step_sizes": 9, "inner": (2, 10, 60)}
    config = Config(seed=seed, **(small if quick else {}))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # over tensors as small as these a second one costs more
    try:
        with console.status("measuring") as status:
            result = run(config, lambda part: status.update(part))
    finally:
        torch.set_num_threads(threads)
    console.print(report.introduction(result), highlight=False)
    for table in report.tables(result):
        console.print(table)
    for line in report.verdict(result):
        console.print(f"• {line}", markup=False, highlight=False)
    numbers = out / "convergence.json"
    report.write_numbers(result, numbers)
    for path in (*write_figures(result, out), numbers):
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{result.seconds:.0f} s.", highlight=False)


def _console() -> Console:
    from rich.console import Console

    return Console()


def _progress(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("portfolios,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        # The two models take turns, one a good deal slower: average over several turns.
        speed_estimate_period=120,
    )
