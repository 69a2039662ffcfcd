"""What scale.py has measured, in a file, row by row; and who measures a row."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
from typing import Any

import torch
from _scale_jobs import CASES, Job
from _scale_model import Errors, Fit, Size, errors, fit

__all__ = ["FOLDER", "Row", "figures_of", "load", "measure_all", "saved_figures", "size_of"]

FOLDER = pathlib.Path(__file__).parents[1] / "runs" / "scale"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
LONGEST = 1800  # seconds that a row may take
Row = dict[str, Any]


def load(folder: pathlib.Path) -> dict[str, Row]:
    """The rows measured so far, by the key of their job."""
    file = folder / "rows.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def measure_all(jobs: list[Job], folder: pathlib.Path, again: bool = False) -> dict[str, Row]:
    """Measure what is not there yet, each row in a process of its own, and save each at once.

    A job that fails leaves a row with its error, and is tried again the next time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        there = load(folder).get(job.key, {"error": ""})
        if not again and "error" not in there:
            continue
        load_before, begin = os.getloadavg(), time.perf_counter()
        row = in_a_process(job)
        rows = load(folder)  # another command may have added to it
        rows[job.key] = {
            **dataclasses.asdict(job), **row, "load": load_before[0],
            "wall": time.perf_counter() - begin, "machine": machine(),
        }  # fmt: skip
        part = folder / "rows.json.part"
        part.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        part.replace(folder / "rows.json")
        print(
            f"{job.key}: {line(row)} ({rows[job.key]['wall']:.0f} s, load {load_before[0]:.1f})",
            flush=True,
        )
    return load(folder)


def machine() -> str:
    """What ran this: one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cores} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}"
    )


def in_a_process(job: Job) -> Row:
    """Measure one job in a fresh process, whose peak of memory is its own."""
    script = pathlib.Path(__file__).parent / "scale.py"
    pages = {"THP_MEM_ALLOC_ENABLE": "1"} if job.huge_pages else {}
    child = subprocess.Popen(
        [sys.executable, str(script), "run", json.dumps(dataclasses.asdict(job))],
        env={**os.environ, **ONE_THREAD, **pages}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        out, said = child.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {LONGEST} s"}
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # with the processes that it started
    if child.returncode:
        reason = (said.strip().splitlines() or [f"ended with {child.returncode}"])[-1]
        return {"error": reason[:300]}
    return json.loads(out.strip().splitlines()[-1])


def line(row: Row) -> str:
    if "error" in row:
        return row["error"]
    return ", ".join(f"{part} {row[part]:.3g} s" for part in parts_of(row))


def parts_of(row: Row) -> list[str]:
    return [part for part in ("forward", "backward", "step", "sum", "solve") if part in row]


# -- the model's figures ---------------------------------------------------------------------------


def size_of(row: Row, part: str) -> Size:
    """What the time of a part of a row depends on."""
    # The iterations are the adjoint's; in a batch of small systems n says what they are.
    iterative = part == "backward" and CASES[row["case"]].group == "adjoint"
    workers = row["workers"]
    remote = workers > 0 if row["case"] == "dask" else workers > 1
    moved = CASES[row["case"]].moved(row["n"], row["batch"])
    iterations = row["iterations"] if iterative else 1
    return Size(row["n"], row["batch"], workers, iterations, remote, moved)


def figures_of(rows: dict[str, Row], device: str = "cpu") -> dict[str, Any]:
    """The fits of all cases, with their errors at sizes left out, as JSON holds them.

    Fitted to float64 with huge pages, where a case has more than one kind of row.
    """
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        own = [
            row
            for row in rows.values()
            if row["case"] == name and row["device"] == device and "error" not in row
            and row["dtype"] == "float64" and row["huge_pages"]
        ]  # fmt: skip
        if len(own) < 3 or not case.terms:
            continue
        parts = {}
        for part, terms in case.terms.items():
            sizes = [size_of(row, part) for row in own]
            seconds = [row[part] for row in own]
            parts[part] = {
                **dataclasses.asdict(fit(sizes, seconds, terms, case.powers)),
                "errors": dataclasses.asdict(errors(sizes, seconds, terms, case.powers)),
            }
        largest = max(own, key=lambda row: row["n"] * row["batch"])
        count = largest["n"] * largest["batch"]
        found[name] = {
            "parts": parts,
            "bytes_each": largest["memory"] / count if "memory" in largest else None,
            "largest": [max(row[of] for row in own) for of in ("n", "batch", "workers")],
            "load": max(row["load"] for row in own),
        }
    return found


def saved_figures(folder: pathlib.Path) -> dict[str, Any]:
    """What ``fit`` has saved.

    Raises
    ------
    SystemExit
        If nothing has been fitted yet.
    """
    file = folder / "figures.json"
    if not file.exists():
        raise SystemExit(f"{file} is not there: run `python benchmarks/scale.py all --quick` first")
    return json.loads(file.read_text(encoding="utf-8"))


def fits_of(figures: dict[str, Any]) -> dict[str, Fit]:
    """The fits of one case's parts."""
    return {
        part: Fit(one["coefficients"], one["power"], one["iterations"])
        for part, one in figures["parts"].items()
    }


def errors_of(figures: dict[str, Any]) -> dict[str, Errors]:
    """The errors of one case's parts."""
    return {
        part: Errors(tuple(one["errors"]["inside"]), tuple(one["errors"]["beyond"]))
        for part, one in figures["parts"].items()
    }
