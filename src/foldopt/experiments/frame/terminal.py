"""Reports and progress on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from foldopt.experiments.frame.report import Report, Table

__all__ = ["progress", "show"]


def show(console: Console, report: Report) -> None:
    """Print what a study found; its choices are for the written report."""
    for heading, text in (
        ("Claim", report.claim),
        ("Run", report.ran),
        (f"Verdict: {report.verdict}", report.why),
    ):
        console.print(Text.assemble((f"{heading}. ", "bold"), text))
    for line in report.findings:
        console.print(f"• {line}", markup=False, highlight=False)
    for table in report.tables:
        console.print(_table(table))
        if table.note:
            console.print(table.note, markup=False, highlight=False, style="dim")


def _table(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, heading in enumerate(table.columns):
        shown.add_column(Text(heading), justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def progress(console: Console) -> Progress:
    """A bar with what is done, the time gone and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        speed_estimate_period=120,  # jobs take turns, some a good deal slower than others
    )
