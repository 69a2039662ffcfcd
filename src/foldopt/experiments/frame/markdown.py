"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from foldopt.experiments.frame.report import Report, Table

__all__ = ["markdown"]


def markdown(title: str, report: Report, facts: Sequence[str], figures: str = "") -> str:
    """A report as Markdown, figures as links.

    Parameters
    ----------
    title
        The heading.
    report
        What is said.
    facts
        Time, versions and the like; a line each at the end.
    figures
        Where the files of the figures are: a prefix of their names.

    Returns
    -------
    str
        Ending in a newline.
    """
    return "\n".join(_lines(title, report, facts, figures)) + "\n"


def _lines(title: str, report: Report, facts: Sequence[str], figures: str) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield f"**Claim.** {report.claim}"
    yield ""
    yield f"**Verdict: {report.verdict}.** {report.why}"
    yield ""
    yield f"**What was run.** {report.ran}"
    yield ""
    for figure in report.figures:
        yield f"![{figure.caption}]({figures}{figure.file})"
        yield ""
        yield f"*{figure.caption}*"
        yield ""
    if report.findings:
        yield from (f"- {line}" for line in report.findings)
        yield ""
    for table in report.tables:
        yield from _table(table)
    if report.choices:
        yield "**What was chosen, and why**"
        yield ""
        yield from (f"- {line}" for line in report.choices)
        yield ""
    yield from (f"{line}  " for line in facts)


def _table(table: Table) -> Iterator[str]:
    yield f"**{table.title}**"
    yield ""
    yield _row(table.columns)
    yield _row(["---", *["---:"] * (len(table.columns) - 1)])
    yield from (_row(row) for row in table.rows)
    yield ""
    if table.note:
        yield table.note
        yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
