"""Traps: small problems on which a wrong answer or a wrong gradient would look like a right one.

Each is put to fold-opt and to every rival that can be posed it, and judged by one rule for all
(``judge`` in ``_traps.py``), against a truth that none of them computed: a closed form, the KKT
system of the active set that a search over all of them finds, or forty digits. A number is the
larger of the relative errors of x and of the gradients, right up to 1e-3; ``raises`` and ``says
so`` are honest: an exception, a warning, a status. WRONG is wrong in silence, with the error. Each
library runs at its defaults, but for moreau.torch (by interior points, which it recommends for
gradients) and dQP (by DAQP, to 1e-9). A second table has the traps of the general ``fo.fold``,
which the other libraries cannot be posed.

    python benchmarks/traps.py [--markdown FILE] [--only WORD]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import pathlib
import sys
import time
import warnings

import torch
from _timing import machine
from _traps import Trap, Verdict, judge
from _traps_cones import traps as cones
from _traps_folds import traps as folds
from _traps_layers import LIBRARIES, there
from _traps_quadratic import traps as quadratic
from rich.console import Console
from rich.table import Table

COLOURS = {"right": "green", "said": "yellow", "wrong": "bold red", "none": "dim"}
PACKAGES = ("qpth", "proxsuite", "moreau", "libdqp", "daqp", "cvxpylayers", "diffcp", "cvxpy")
MARKS = "<!-- traps: from here -->", "<!-- traps: to here -->"
Row = tuple[Trap, dict[str, Verdict]]


def answer(trap: Trap, library: str) -> Verdict:
    if library not in trap.pose:
        return Verdict("none", "–")
    if not there(library):
        return Verdict("none", "not installed")
    try:
        layer = trap.pose[library]()
    except Exception as failure:
        return Verdict("said", f"raises {type(failure).__name__}")
    return judge(trap, layer)


def shown(verdict: Verdict) -> str:
    return f"WRONG: {verdict.words}" if verdict.kind == "wrong" else verdict.words


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def console_tables(rows: list[Row], general: list[tuple[str, str, Verdict]]) -> list[Table]:
    first = Table(title="Traps", show_lines=True)
    for heading in ("trap", *LIBRARIES):
        first.add_column(heading)
    for trap, verdicts in rows:
        cells = [f"[{COLOURS[v.kind]}]{shown(v)}[/]" for v in verdicts.values()]
        first.add_row(trap.name, *cells)
    first.add_row("wrong in silence", *(str(count(rows, name)) for name in LIBRARIES))
    second = Table(title="Traps of a general fold", show_lines=True)
    for heading in ("trap", "what", "fold-opt"):
        second.add_column(heading)
    for name, what, verdict in general:
        second.add_row(name, what, f"[{COLOURS[verdict.kind]}]{shown(verdict)}[/]")
    return [first, second]


def count(rows: list[Row], name: str) -> int:
    return sum(verdicts[name].kind == "wrong" for _, verdicts in rows)


def markdown(rows: list[Row], general: list[tuple[str, str, Verdict]]) -> str:
    """Both tables, as Markdown."""

    def cell(verdict: Verdict) -> str:
        return f"**{shown(verdict)}**" if verdict.kind == "wrong" else verdict.words

    lines = [f"Run on {machine()}; {versions()}.", ""]
    lines += ["| trap | " + " | ".join(LIBRARIES) + " |", "|---" * (len(LIBRARIES) + 1) + "|"]
    for trap, verdicts in rows:
        lines.append(f"| {trap.name} | " + " | ".join(map(cell, verdicts.values())) + " |")
    totals = (f"**{count(rows, name)}**" for name in LIBRARIES)
    lines += [f"| *wrong in silence* | {' | '.join(totals)} |", ""]
    lines += ["| trap | what it is |", "|---|---|"]
    lines += [f"| {trap.name} | {trap.what} |" for trap, _ in rows]
    lines += ["", "| trap of a general fold | what it is | fold-opt |", "|---|---|---|"]
    lines += [f"| {name} | {what} | {cell(verdict)} |" for name, what, verdict in general]
    return "\n".join(lines) + "\n"


def put(path: pathlib.Path, text: str) -> None:
    """Write the text between the two marks of a page that has them, else the whole file."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if all(mark in page for mark in MARKS):
        before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        text = f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Traps for differentiable optimization layers.")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the tables there too")
    parser.add_argument("--only", default="", help="the traps whose name holds this")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # Some libraries say something of a general kind once in a process. Not of the first trap alone.
    for name in LIBRARIES:
        answer(next(quadratic()), name)
    rows: list[Row] = []
    for trap in (trap for make in (quadratic, cones) for trap in make()):
        if asked.only in trap.name:
            begin = time.perf_counter()
            rows.append((trap, {name: answer(trap, name) for name in LIBRARIES}))
            sys.stderr.write(f"{trap.name}: {time.perf_counter() - begin:.1f} s\n")
    general = [found for found in folds() if asked.only in found[0]]
    console = Console(width=200)
    console.print(f"{machine()}; {versions()}")
    for table in console_tables(rows, general):
        console.print(table)
    if asked.markdown:
        put(asked.markdown, markdown(rows, general))


if __name__ == "__main__":
    main()
