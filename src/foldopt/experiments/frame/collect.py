"""All that has been run, on one page."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foldopt.experiments.frame.markdown import markdown
from foldopt.experiments.frame.page import page, section
from foldopt.experiments.frame.report import Report
from foldopt.experiments.frame.runner import FORMAT, Run
from foldopt.experiments.frame.study import Study

__all__ = ["Found", "collect", "write_markdown", "write_report"]

# The paper's experiments in its order; others follow.
PAPER = ("bilinear", "denoising", "multilabel", "portfolio", "acopf")
TITLE = "fold-opt: what was run"
INTRODUCTION = (
    "Each study with the paper's claim, what was run, what came out, and whether the claim holds "
    "here. A claim that does not hold is reported as such."
)


@dataclasses.dataclass(frozen=True)
class Found:
    """A run that was found in a folder.

    Attributes
    ----------
    run
        The study, its settings and the folder.
    report
        What it says; None: it is not finished.
    facts
        How much is done, the time, the settings and the versions.
    """

    run: Run
    report: Report | None
    facts: tuple[str, ...]

    @staticmethod
    def of(given: Run) -> Found:
        """Read the results of a run, and have its report made if all are there."""
        results, jobs = given.results(), given.jobs
        report = None
        if len(results) == len(jobs):
            report = given.study.report(given.config, results, given.folder)
        return Found(given, report, _facts(given, len(results), len(jobs)))

    @property
    def title(self) -> str:
        """The study, and the folder where that has another name."""
        name, folder = self.run.study.name, self.run.folder.name
        return f"{name}: {self.run.study.question}" + ("" if folder == name else f" ({folder})")


def _facts(given: Run, done: int, jobs: int) -> tuple[str, ...]:
    there = json.loads((given.folder / "run.json").read_text(encoding="utf-8"))
    settings = ", ".join(f"{name} {value}" for name, value in there["config"].items())
    versions = ", ".join(f"{name} {version}" for name, version in there["versions"].items())
    return (
        f"{done} of {jobs} jobs done; {given.seconds():.0f} s of work, added up over the jobs",
        f"Settings: {settings}",
        f"Versions: {versions}; {there['machine']}",
    )


def collect(folder: Path, studies: dict[str, Study]) -> list[Found]:
    """The runs in the folders below one, the paper's experiments first.

    Parameters
    ----------
    folder
        Where to look: each folder in it with a ``run.json`` is a run.
    studies
        By name.

    Returns
    -------
    list of Found
        Runs of studies that are not known, or of an older format, are left out.
    """
    found = []
    for path in sorted(folder.glob("*/run.json")):
        there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        study = studies.get(there.get("study", ""))
        if study is None or there.get("format") != FORMAT:
            continue
        config = _restored(study.config, there["config"])
        if config is not None:
            found.append(Found.of(Run(study, config, path.parent)))
    order = {name: number for number, name in enumerate(PAPER)}
    return sorted(found, key=lambda one: order.get(one.run.study.name, len(PAPER)))


def _restored(config: type, settings: dict[str, Any]) -> Any | None:
    """The config of a run; None if the study has other settings by now."""
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    if {field.name for field in dataclasses.fields(config)} != set(lists):
        return None
    return config(**lists)


def write_markdown(found: Found) -> Path:
    """Write the report of one run into its folder.

    Parameters
    ----------
    found
        A finished run.

    Returns
    -------
    Path
        The file.
    """
    assert found.report is not None
    path = found.run.folder / "report.md"
    path.write_text(markdown(found.title, found.report, found.facts), encoding="utf-8")
    return path


def write_report(found: Sequence[Found], studies: dict[str, Study], target: Path) -> None:
    """Write an HTML page with all in it, and the same as Markdown with its figures beside it.

    Parameters
    ----------
    found
        What was run.
    studies
        By name; the paper's experiments that were not run are named.
    target
        The HTML file. The Markdown file has the ending ``.md``, and the folder of its figures
        none.
    """
    sections, texts = [], [f"# {TITLE}\n\n{INTRODUCTION}\n"]
    for one in found:
        if one.report is None:
            why = f"Not finished: {one.facts[0]}. The same command goes on with it."
            sections.append((one.title, f"<p>{why}</p>"))
            texts.append(f"## {one.title}\n\n{why}\n")
            continue
        sections.append((one.title, section(one.report, one.run.folder, one.facts)))
        texts.append(markdown(one.title, one.report, one.facts, _copy_figures(one, target)))
    ran = {one.run.study.name for one in found}
    for name in PAPER:
        if name not in ran:
            here = name in studies
            why = f"Not run: fold-opt run {name}." if here else "This study is not written yet."
            sections.append((name, f"<p>{why}</p>"))
            texts.append(f"## {name}\n\n{why}\n")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(TITLE, INTRODUCTION, sections), encoding="utf-8")
    target.with_suffix(".md").write_text("\n".join(texts), encoding="utf-8")


def _copy_figures(found: Found, target: Path) -> str:
    """Put a run's figures beside the Markdown file, and say how their names begin there."""
    assert found.report is not None
    folder, name = target.with_suffix(""), found.run.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    for figure in found.report.figures:
        shutil.copyfile(found.run.folder / figure.file, folder / f"{name}-{figure.file}")
    return f"{folder.name}/{name}-"
