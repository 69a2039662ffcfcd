"""A command of ``fold-opt``, run in this process, and what it said."""

from __future__ import annotations

import dataclasses
import re

from typer.testing import CliRunner

from foldopt import cli


@dataclasses.dataclass(frozen=True)
class Outcome:
    exit_code: int
    output: str


def invoke(*arguments: str) -> Outcome:
    """What a command did and said, without colours, boxes and line breaks."""
    result = CliRunner().invoke(cli.application(), arguments, env={"COLUMNS": "120"})
    plain = re.sub(r"\x1b\[[0-9;]*m|[─│╭╮╰╯]", "", result.output)
    return Outcome(result.exit_code, " ".join(plain.split()))
