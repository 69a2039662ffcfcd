"""``fold-opt run NAME``: a flag for each field of the study's config, and those of all studies."""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from foldopt.experiments.frame import collect, terminal
from foldopt.experiments.frame.runner import JobsError, Run, SettingsError, run
from foldopt.experiments.frame.study import Study, quickly
from foldopt.solvers._run.executors import cores

__all__ = ["add_commands", "parse", "prepare_folder"]


def add_commands(
    group: typer.Typer, studies: dict[str, Study], require: Callable[..., None]
) -> None:
    """Give each study its command.

    Parameters
    ----------
    group
        Where the commands go.
    studies
        By name.
    require
        ``require(*modules)`` ends the program unless they can be imported.
    """
    for study in studies.values():
        group.command(study.name, help=f"{study.question}.")(_command(study, require))


def _command(study: Study, require: Callable[..., None]) -> Callable[..., None]:
    fields = {field.name: field for field in dataclasses.fields(study.config)}
    types = typing.get_type_hints(study.config)

    def command(
        quick: bool, out: Path | None, workers: int | None, restart: bool, **given: Any
    ) -> None:
        require("scipy", *study.needs)
        asked = {name: text for name, text in given.items() if text is not None}
        chosen = {name: parse(name, text, types[name]) for name, text in asked.items()}
        config = _configured(study, {**(quickly(study.config) if quick else {}), **chosen})
        folder = out or Path("runs") / (f"{study.name}-quick" if quick else study.name)
        _folder_or_usage_error(folder)
        _run(Run(study, config, folder), workers or cores(), restart)

    small = ", ".join(f"{name} {_text(value)}" for name, value in quickly(study.config).items())
    shared = {
        "quick": (bool, typer.Option(False, "--quick", help=f"Small: {small}.")),
        "out": (
            Path | None,
            typer.Option(None, help=f"Folder to write to; runs/{study.name} if none is named."),
        ),
        "workers": (
            int | None,
            typer.Option(None, min=1, help="Jobs at once; as many as there are cores if not set."),
        ),
        "restart": (
            bool,
            typer.Option(False, "--restart", help="Begin anew; an old run is kept beside it."),
        ),
    }
    own = {
        name: (
            str | None,
            typer.Option(
                None,
                f"--{name.replace('_', '-')}",
                help=f"{field.metadata['help']} ({_text(field.default)})",
                show_default=False,
            ),
        )
        for name, field in fields.items()
    }
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in {**own, **shared}.items()
    ]
    # typer reads a function's signature: this one is written by the config.
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _configured(study: Study, settings: dict[str, Any]) -> Any:
    try:
        return study.config(**settings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def parse(name: str, text: str, kind: Any) -> Any:
    """The value of a flag, by the type of its field.

    Parameters
    ----------
    name
        Of the field, for the message.
    text
        What was typed. Several values are separated by commas.
    kind
        ``int``, ``float``, ``str``, ``bool``, a ``tuple`` of them, or one of these or None.

    Returns
    -------
    int, float, str, bool, tuple or None
        The value; None for the word ``none``, where that is allowed.

    Raises
    ------
    typer.BadParameter
        If it is no such value.

    Examples
    --------
    >>> parse("sizes", "1,2,5", tuple[int, ...])
    (1, 2, 5)
    """
    allowed = typing.get_args(kind)
    if type(None) in allowed:
        if text.lower() == "none":
            return None
        (kind,) = (one for one in allowed if one is not type(None))
    if typing.get_origin(kind) is tuple:
        (inner, *_) = typing.get_args(kind)
        return tuple(parse(name, part.strip(), inner) for part in text.split(",") if part.strip())
    if kind is bool:
        if text.lower() in ("true", "yes", "1"):
            return True
        if text.lower() in ("false", "no", "0"):
            return False
        raise typer.BadParameter(f"{text!r} is neither yes nor no", param_hint=_flag(name))
    try:
        return kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise typer.BadParameter(f"{text!r} is not {wanted}", param_hint=_flag(name)) from error


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _folder_or_usage_error(path: Path) -> None:
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


def _run(given: Run, workers: int, restart: bool) -> None:
    console = Console()
    moved = given.move_away() if restart else None
    if moved is not None:
        console.print(f"the old run is now {moved}", markup=False, highlight=False)
    jobs = given.jobs
    total, done = sum(job.work for job in jobs), given.done()
    if done and done < total:
        console.print(f"going on with {given.folder}: {done} of {total} done", highlight=False)
    try:
        with terminal.progress(console) as bar:
            task = bar.add_task(
                f"{given.study.name}, {len(jobs)} jobs", total=total, completed=done
            )
            run(given, workers, lambda finished: bar.update(task, completed=finished))
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error
    except JobsError as error:
        console.print(str(error), markup=False, highlight=False, style="red")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("\ninterrupted: the same command goes on from here", highlight=False)
        raise typer.Exit(130) from None
    found = collect.Found.of(given)
    assert found.report is not None
    terminal.show(console, found.report)
    written = collect.write_markdown(found)
    for path in (*(given.folder / figure.file for figure in found.report.figures), written):
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    console.print(found.facts[0], markup=False, highlight=False)
