"""Reports as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from foldopt.experiments.frame.report import Report, Table

__all__ = ["page", "section"]

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;font-size:.9em;display:block;overflow-x:auto}
caption{text-align:left;font-weight:600;padding:.3em 0}
td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd;vertical-align:top}
td:first-child,th:first-child{text-align:left}
img{max-width:100%}figure{margin:1em 0}figcaption,.facts,.note{font-size:.85em;color:#555}
.verdict{border-left:.3em solid #888;padding:.2em 1em;background:#f6f6f6}
.reproduced{border-color:#2a7}.not{border-color:#c33}.partly{border-color:#da2}
h2{border-top:2px solid #ddd;padding-top:1em;margin-top:2em}
"""


def page(title: str, introduction: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page.

    Parameters
    ----------
    title, introduction
        Text.
    sections
        The heading and the HTML of each: see :func:`section`.

    Returns
    -------
    str
        HTML.
    """
    places = "".join(
        f'<li><a href="#{n}">{escape(name)}</a></li>' for n, (name, _) in _count(sections)
    )
    body = "".join(
        f'<h2 id="{n}">{escape(name)}</h2>\n{content}\n' for n, (name, content) in _count(sections)
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>"
        f"<h1>{escape(title)}</h1><p>{escape(introduction)}</p><ul>{places}</ul>\n{body}"
        "</body></html>\n"
    )


def section(report: Report, folder: Path, facts: Sequence[str]) -> str:
    """One report, its pictures included.

    Parameters
    ----------
    report
        What is said.
    folder
        Where its figures lie.
    facts
        Time, versions and the like.

    Returns
    -------
    str
        HTML.
    """
    return "\n".join(_section(report, folder, facts))


def _count(sections: Sequence[tuple[str, str]]) -> Iterator[tuple[str, tuple[str, str]]]:
    return ((f"s{number}", one) for number, one in enumerate(sections))


def _section(report: Report, folder: Path, facts: Sequence[str]) -> Iterator[str]:
    kind = report.verdict.split()[0]
    yield f"<p><b>Claim.</b> {escape(report.claim)}</p>"
    yield f'<p class="verdict {kind}"><b>Verdict: {report.verdict}.</b> {escape(report.why)}</p>'
    yield f"<p><b>What was run.</b> {escape(report.ran)}</p>"
    for figure in report.figures:
        picture = base64.b64encode((folder / figure.file).read_bytes()).decode("ascii")
        caption = escape(figure.caption, quote=True)
        yield (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{picture}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    yield _list(report.findings)
    for table in report.tables:
        yield _table(table)
    if report.choices:
        yield f"<p><b>What was chosen, and why</b></p>{_list(report.choices)}"
    yield f'<p class="facts">{"<br>".join(map(escape, facts))}</p>'


def _list(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table>{note}"
    )
