"""What a study has to say, before it is known where it will be read."""

from __future__ import annotations

import dataclasses
from typing import Literal

__all__ = ["Figure", "Report", "Table", "Verdict"]

Verdict = Literal["reproduced", "not reproduced", "partly reproduced", "cannot be tested"]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text.

    Parameters
    ----------
    title
        What it shows.
    columns
        The headings; the first is that of the rows' names.
    rows
        As many cells each as there are columns.
    note
        What is said below it.

    Raises
    ------
    ValueError
        If a row has another number of cells.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Table {self.title!r}: a row has {len(row)} cells for "
                    f"{len(self.columns)} columns: {row}"
                )


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture: the name of a PNG in the study's folder, and what it shows."""

    file: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What came out of a study.

    Parameters
    ----------
    claim
        What the paper says, and where; for a study of our own, what it asks.
    ran
        What was run: sizes, seeds, data and where they are from.
    choices
        What the paper leaves open or gets wrong, what was chosen, and why: a sentence each.
    verdict
        Whether the claim holds here.
    why
        The reasons, with figures.
    findings
        What else was seen, a sentence each.
    tables, figures
        In the order in which they are shown.
    """

    claim: str
    ran: str
    choices: tuple[str, ...]
    verdict: Verdict
    why: str
    findings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
