"""A small study, and what its journals hold, for the tests of the frame."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from foldopt.experiments.frame import Figure, Job, Journal, Report, Study, Table, option

# The smallest picture that there is: one grey pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)


@dataclasses.dataclass(frozen=True)
class Config:
    epochs: int = option(4, "Passes.", quick=2)
    rate: float = option(0.5, "Of learning.")
    sizes: tuple[int, ...] = option((1, 2, 3), "What to try.", quick=(1,))
    device: str = option("cpu", "Where.")
    limit: int | None = option(None, "Of time.")
    careful: bool = option(True, "Or not.")
    wait: float = option(0.0, "Seconds an epoch.")
    check: int = option(0, "Raise here where the file 'mend' is not beside the jobs.")

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"Config: epochs must be at least 1, got {self.epochs}")


def jobs(config: Config) -> list[Job]:
    timed = Job("timed", alone=True)
    return [timed, *(Job(f"size-{size}", work=config.epochs) for size in config.sizes)]


def work(config: Config, key: str, journal: Journal) -> dict[str, Any]:
    if key == "timed":
        return {"seconds": 0.5, "epochs": config.epochs}
    size = int(key.split("-")[1])
    begun = int(journal.checkpoint.read_text()) if journal.checkpoint.exists() else 0
    for epoch in range(begun, config.epochs):
        if epoch == 2 and size == config.check and not (journal.folder / "mend").exists():
            raise RuntimeError("size 2 is too much")
        time.sleep(config.wait)
        journal.checkpoint.write_text(str(epoch + 1))
        journal.epoch(loss=size / (epoch + 1))
    return {"square": size**2, "loss": float("nan")}


def report(config: Config, results: dict[str, Any], folder: Path) -> Report:
    (folder / "figure.png").write_bytes(PIXEL)
    rows = tuple((key, str(found["square"])) for key, found in results.items() if key != "timed")
    return Report(
        claim="squares grow <fast>",
        ran=f"{len(rows)} sizes",
        choices=("epochs: few, for time",),
        verdict="reproduced",
        why="they do",
        findings=("a | b",),
        tables=(Table("Squares", ("size", "square | area"), rows, "by hand"),),
        figures=(Figure("figure.png", 'a "grey" pixel'),),
    )


STUDY = Study("squares", "How squares grow", ("numpy",), Config, jobs, work, report)


def epochs_of(journal: Journal) -> list[int]:
    return [line["epoch"] for line in journal.lines() if "epoch" in line]
