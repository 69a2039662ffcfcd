"""A job's own file of JSON lines: what has been done, written down as it is done."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foldopt.experiments.frame.certificates import running

__all__ = ["Journal", "plain"]


@dataclasses.dataclass(frozen=True)
class Journal:
    """What one job writes down, and where it keeps what it needs to go on after an interruption.

    Every line of its file is one JSON object: ``{"epoch": 3, "loss": …}`` for each call of
    :meth:`epoch`, ``{"result": …}`` at the end. A process that is killed leaves at most half a
    line behind, which is not read.

    Parameters
    ----------
    folder
        Where its files lie; also the place for arrays that the report needs.
    key
        The job's.
    """

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """The file of lines."""
        return self.folder / f"{self.key}.jsonl"

    @property
    def checkpoint(self) -> Path:
        """Where a training saves itself after each epoch; see ``foldopt.learning``."""
        return self.folder / f"{self.key}.pt"

    def epoch(self, **metrics: Any) -> None:
        """Write a line, and move the progress bar by one.

        Parameters
        ----------
        metrics
            What to write: numbers and text.
        """
        entry: dict[str, Any] = {"epoch": self.epochs + 1, **metrics}
        seen = running()
        if seen is not None:
            entry.setdefault("certificates", seen.summary())
        self._append(entry)

    def finish(self, result: dict[str, Any], seconds: float) -> None:
        """Write the result of the job; what it needed to go on is removed."""
        self._append({"result": result, "seconds": round(seconds, 3)})
        self.checkpoint.unlink(missing_ok=True)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines that are whole."""
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue  # the half of a line, ended by the next process

    @property
    def epochs(self) -> int:
        """How many epochs are written down: those of a run that is resumed count once."""
        return max((line.get("epoch", 0) for line in self.lines()), default=0)

    @property
    def certificates(self) -> dict[str, Any] | None:
        """The sums that the last epoch wrote down, for a training that goes on from there."""
        found = None
        for line in self.lines():
            found = line.get("certificates", found)
        return found

    @property
    def result(self) -> dict[str, Any] | None:
        """What :meth:`finish` wrote; None: the job is not done."""
        return next((line["result"] for line in self.lines() if "result" in line), None)

    @property
    def seconds(self) -> float:
        """The working time of a finished job."""
        return next((line["seconds"] for line in self.lines() if "result" in line), 0.0)

    def begin(self) -> None:
        """Make the file fit for this try: epochs that no checkpoint has kept are done again."""
        lines = list(self.lines()) if self.checkpoint.exists() else []
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_text("".join(_line(line) for line in lines), encoding="utf-8")
        os.replace(fresh, self.path)

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(plain(entry), allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """What JSON can hold: tuples as lists, paths as text, numbers without value as null.

    Parameters
    ----------
    value
        Numbers, text, None, and lists, tuples and dicts of them; numpy's and torch's numbers too.

    Returns
    -------
    Any
        The same in JSON's own types.

    Raises
    ------
    TypeError
        If something else is in it.

    Examples
    --------
    >>> plain({"a": (1, float("nan")), "b": Path("x")})
    {'a': [1, None], 'b': 'x'}
    """
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(
        f"a result must be made of numbers, text, lists and dicts, and holds a "
        f"{type(value).__name__}: {value!r:.80}"
    )
