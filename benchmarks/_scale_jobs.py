"""The jobs that scale.py measures: what is computed, and the sizes at which it is.

A job runs in a process of its own, on one thread, so that its peak of memory is its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from _scale_layers import (
    FEATURES,
    Job,
    Layer,
    equilibrium,
    exact_image,
    interior_image,
    layered,
    quadratic,
    simplex,
    smooth_image,
)

__all__ = ["CASES", "GROUPS", "Case", "Job", "measure"]


def trained(job: Job) -> dict[str, Any]:
    """A step of data-parallel training: a linear predictor, and a program a sample."""
    from _scale_processes import steps_of_training

    return {"step": steps_of_training(job.n, job.batch, job.workers)}


def summed(job: Job) -> dict[str, Any]:
    """Numbers summed over processes."""
    from _scale_processes import all_reduce

    return {"sum": all_reduce(job.n, job.workers)}


def spread(job: Job) -> dict[str, Any]:
    """Programs solved one by one by Clarabel, here or on dask's workers."""
    from _scale_processes import on_dask

    return {"solve": on_dask(job.n, job.batch, job.workers)}


# -- the cases -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured together, and how its time is made up.

    Attributes
    ----------
    group
        The command that measures it.
    title
        For tables.
    run
        Measures one job.
    jobs
        All of them, and those of ``--quick``.
    terms
        For each part of its time, the terms of the cost model.
    powers
        Of n, among which the model chooses.
    moved
        Bytes that travel, of (n, batch); to the workers, or of the numbers that they sum.
    devices
        Where it can run.
    """

    group: str
    title: str
    run: Callable[[Job], dict[str, Any]]
    jobs: tuple[Job, ...]
    quick: tuple[Job, ...]
    terms: dict[str, tuple[str, ...]]
    powers: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5, 3.0)
    moved: Callable[[int, int], int] = lambda n, batch: 0
    devices: tuple[str, ...] = ("cpu",)


PIXELS = 427 * 640
SIDES = (10, 32, 100, 316, 1000, 2048)
LINEAR = (1.0,)  # a pass over vectors
ONE = {"forward": ("overhead", "work"), "backward": ("overhead", "pass", "work")}
MANY: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("forward", "backward"), ("overhead", "sample", "work")
)


def sizes(case: str, sides: tuple[int, ...], **options: Any) -> tuple[Job, ...]:
    return tuple(Job(case, n, **options) for n in sides)


def grid(case: str, pairs: list[tuple[int, int]], workers: tuple[int, ...] = (1,)) -> Any:
    return tuple(Job(case, n, batch, w) for n, batch in pairs for w in workers)


def still(case: str, title: str, make: Callable[[Job], Layer], quick: bool) -> Case:
    job = (Job(case, PIXELS),)
    return Case(
        "adjoint", title, functools.partial(layered, make, 100), job, job if quick else (), {}
    )


_LARGE = tuple(Job("image", side**2, dtype="float32") for side in (1000, 2048, 4096))
_BATCHES = [(20, 10**k) for k in range(6)] + [(5, 1000), (10, 1000), (50, 1000), (50, 10_000)]
_FEW = [(20, 1), (20, 100), (20, 10_000), (5, 1000), (50, 1000)]
_TRAINED = [(10, 64), (10, 1024), (20, 64), (20, 256), (20, 1024), (20, 4096), (40, 256)]
_SPREAD = [(20, 64), (20, 256), (20, 1024), (40, 256), (60, 64), (60, 256), (60, 512)]

CASES = {
    "image": Case(
        "adjoint", "image, smooth", functools.partial(layered, smooth_image, 100),
        sizes("image", tuple(side**2 for side in SIDES)) + _LARGE,
        sizes("image", tuple(side**2 for side in SIDES[:5])), ONE, LINEAR, devices=("cpu", "cuda"),
    ),
    "china": still("china", "china.jpg, smooth", smooth_image, True),
    "flower": still("flower", "flower.jpg, smooth", smooth_image, True),
    "china exact": still("china exact", "china.jpg, exact", exact_image, False),
    "china layer": still(
        "china layer", "china.jpg, `nn.TotalVariation(dimensions=2)`", interior_image, False
    ),
    "equilibrium": Case(
        "adjoint", "equilibrium", functools.partial(layered, equilibrium, 100),
        (
            *sizes("equilibrium", (100, 1000, 10_000, 100_000, 1_000_000, 10_000_000)),
            Job("equilibrium", 10_000_000, huge_pages=False),
        ),
        sizes("equilibrium", (100, 1000, 10_000, 100_000, 1_000_000)), ONE,
        LINEAR, devices=("cpu", "cuda"),
    ),
    "qp": Case(
        "batch", "`nn.QP`", functools.partial(layered, quadratic, 4),
        grid("qp", _BATCHES), grid("qp", _FEW), MANY,
    ),
    "simplex": Case(
        "batch", "folded step on the simplex", functools.partial(layered, simplex, 4),
        grid("simplex", _BATCHES), grid("simplex", _FEW), MANY, devices=("cpu", "cuda"),
    ),
    "transfer": Case(
        "parallel", "sum over processes", summed,
        tuple(Job("transfer", 10**k, workers=2) for k in (1, 3, 4, 5, 6, 7)),
        tuple(Job("transfer", 10**k, workers=2) for k in (1, 4, 6)),
        {"sum": ("message", "bytes")}, moved=lambda n, batch: 8 * n,
    ),
    "train": Case(
        "parallel", "data-parallel training", trained, grid("train", _TRAINED, (1, 2)),
        grid("train", [(10, 64), (20, 256), (20, 1024), (40, 256)], (1, 2)),
        {"step": ("overhead", "sample", "work", "message")},
        moved=lambda n, batch: 8 * (FEATURES + 1) * n,
    ),
    "dask": Case(
        "dask", "`solvers.QP` on dask", spread, grid("dask", _SPREAD, (0, 1, 2)),
        grid("dask", [(20, 64), (20, 256), (60, 64), (60, 256)], (0, 1, 2)),
        {"solve": ("overhead", "serial", "work", "message", "bytes")},
        moved=lambda n, batch: 8 * batch * (2 * n * n + 4 * n),
    ),
}  # fmt: skip
GROUPS = ("adjoint", "batch", "parallel", "dask")


def measure(job: Job) -> dict[str, Any]:
    """What one job takes, in this process."""
    torch.set_num_threads(1)
    return CASES[job.case].run(job)
