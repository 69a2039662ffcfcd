"""The tables of docs/scale.md, from what scale.py has measured."""

from __future__ import annotations

import math
import pathlib
import re
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from _scale_jobs import CASES

__all__ = ["TABLES", "told", "write"]

Row = dict[str, Any]


def write(page: pathlib.Path, rows: dict[str, Row], figures: dict[str, Any]) -> None:
    """Put each table between its two marks.

    Raises
    ------
    ValueError
        If the page lacks the marks of a table.
    """
    text = page.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        marks = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        table = make(list(rows.values()), figures)
        text, count = marks.subn(lambda found, new=table: f"{found[1]}\n{new}\n{found[2]}", text)
        if count != 1:
            raise ValueError(f"{page}: needs the marks of table {name!r} once, has {count}")
    page.write_text(text, encoding="utf-8")


def told(figures: dict[str, Any]) -> str:
    """The errors of one case at sizes left out, in words."""
    parts = []
    for part, one in figures["parts"].items():
        inside, beyond = one["errors"]["inside"], one["errors"]["beyond"]
        said = [
            f"{where} {percent(statistics.median(some))} (worst {percent(max(some))})"
            for where, some in (("inside", inside), ("beyond", beyond))
            if some
        ]
        parts.append(f"{part}: error " + ", ".join(said) if said else f"{part}: nothing left out")
    return "; ".join(parts)


# -- tables ----------------------------------------------------------------------------------------


def adjoint(rows: list[Row], figures: dict[str, Any]) -> str:
    heads = ("", "unknowns", "dtype", "forward", "adjoint", "products", "ns / product, unknown",
             "peak", "bytes / unknown", "residual")  # fmt: skip
    cells = []
    for row in of_group(rows, "adjoint"):
        n, products = row["n"], row["iterations"]
        cells.append((
            name_of(row), f"{n:,}", row["dtype"], seconds(row["forward"]),
            seconds(row["backward"]), str(products),
            f"{1e9 * row['backward'] / n / products:,.0f}", *peak(row["memory"], n),
            f"{row['residual']:.0e}",
        ))  # fmt: skip
    return table(heads, cells)


def batch(rows: list[Row], figures: dict[str, Any]) -> str:
    heads = ("", "n", "samples", "forward", "backward", "µs / sample", "peak", "bytes / sample",
             "residual")  # fmt: skip
    cells = []
    for row in of_group(rows, "batch"):
        both = row["forward"] + row["backward"]
        cells.append((
            name_of(row), str(row["n"]), f"{row['batch']:,}", seconds(row["forward"]),
            seconds(row["backward"]), f"{1e6 * both / row['batch']:,.1f}",
            *peak(row["memory"], row["batch"]), f"{row['residual']:.0e}",
        ))  # fmt: skip
    return table(heads, cells)


def parallel(rows: list[Row], figures: dict[str, Any]) -> str:
    return shared(rows, "train", "step", 1, "processes")


def dask(rows: list[Row], figures: dict[str, Any]) -> str:
    return shared(rows, "dask", "solve", 0, "workers")


def transfer(rows: list[Row], figures: dict[str, Any]) -> str:
    cells = []
    for row in rows:
        if row["case"] == "transfer" and "error" not in row:
            bytes_ = 8 * row["n"]
            rate = f"{bytes_ / row['sum'] / 1e6:,.0f}"
            cells.append((size(bytes_), seconds(row["sum"]), rate))
    return table(("summed", "time", "MB/s"), cells)


def model(rows: list[Row], figures: dict[str, Any]) -> str:
    heads = ("case", "part", "seconds", "p", "error inside, median", "worst", "error beyond")
    cells = []
    for name, one in figures.items():
        for part, fitted in one["parts"].items():
            inside, beyond = fitted["errors"]["inside"], fitted["errors"]["beyond"]
            power = f"{fitted['power']:.2f}" if fitted["coefficients"].get("work") else "–"
            cells.append((
                CASES[name].title, part, formula(fitted), power,
                percent(statistics.median(inside)) if inside else "–",
                percent(max(inside)) if inside else "–",
                percent(max(beyond)) if beyond else "–",
            ))  # fmt: skip
    return table(heads, cells)


def conditions(rows: list[Row], figures: dict[str, Any]) -> str:
    """Where and how all this was measured."""
    if not rows:
        return "Nothing has been measured yet."
    where = "; ".join(sorted({row["machine"] for row in rows}))
    loads = sorted(row["load"] for row in rows)
    said = (
        f"{where}. One thread a process. The load average of the machine before each row was "
        f"{statistics.median(loads):.1f} in the median and {loads[-1]:.1f} at most"
    )
    shares = [row["share"] for row in rows if "share" in row and row["device"] == "cpu"]
    if shares:
        said += f"; a row of one process had {percent(statistics.median(shares))} of a core"
    if statistics.median(loads) > 2:
        said += ": **a busy machine, on which times and speed-ups say little**"
    if "cuda" not in {row["device"] for row in rows}:
        said += ". No GPU was at hand: there are no GPU rows"
    return "\n".join(textwrap.wrap(said + ".", 100, break_long_words=False))


TABLES: dict[str, Callable[[list[Row], dict[str, Any]], str]] = {
    "conditions": conditions,
    "adjoint": adjoint,
    "batch": batch,
    "parallel": parallel,
    "transfer": transfer,
    "dask": dask,
    "model": model,
}


# -- pieces ----------------------------------------------------------------------------------------


def shared(rows: list[Row], case: str, part: str, alone: int, who: str) -> str:
    """Throughput of several workers, and over that of the fewest."""
    own = [row for row in rows if row["case"] == case and "error" not in row]
    first = {(row["n"], row["batch"]): row[part] for row in own if row["workers"] == alone}
    cells = []
    for row in sorted(own, key=lambda row: (row["n"], row["batch"], row["workers"])):
        base = first.get((row["n"], row["batch"]))
        gain = math.nan if base is None else base / row[part]
        workers = max(1, row["workers"])
        cells.append((
            str(row["n"]), f"{row['batch']:,}", str(row["workers"]), seconds(row[part]),
            f"{row['batch'] / row[part]:,.0f}", f"{gain:.2f}", percent(gain / workers),
        ))  # fmt: skip
    return table(("n", "samples", who, "time", "samples / s", "speed-up", "efficiency"), cells)


def of_group(rows: Iterable[Row], group: str) -> list[Row]:
    names = list(CASES)
    own = [row for row in rows if CASES[row["case"]].group == group and "error" not in row]

    def order(row: Row) -> tuple[Any, ...]:
        usual = row["huge_pages"], row["dtype"] == "float64"
        return (names.index(row["case"]), row["device"], row["batch"], row["n"], usual)

    return sorted(own, key=order)


def name_of(row: Row) -> str:
    name = CASES[row["case"]].title
    if row["device"] != "cpu":
        name += f", {row['device']}"
    return name if row["huge_pages"] else f"{name}, usual pages"


def formula(fitted: dict[str, Any]) -> str:
    """The terms that are not zero."""
    shown = {
        "overhead": "", "pass": " k", "sample": " k B/W", "work": " k B/W n^p", "serial": " B",
        "message": " if remote", "bytes": " bytes",
    }  # fmt: skip
    terms = [
        f"{value:.1e}{shown[term]}" for term, value in fitted["coefficients"].items() if value > 0
    ]
    return " + ".join(terms)


def seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    return f"{1e3 * value:.3g} ms"


def size(value: float) -> str:
    if value < 1e6:
        return f"{value / 1e3:.3g} kB"
    return f"{value / 1e6:.3g} MB" if value < 1e9 else f"{value / 1e9:.3g} GB"


def peak(memory: float, count: int) -> tuple[str, str]:
    """The peak, and that of one of so many; small ones drown in what a process takes anyway."""
    return ("< 10 MB", "–") if memory < 1e7 else (size(memory), f"{memory / count:,.0f}")


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def table(heads: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" + "---:|" * (len(heads) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)])
