"""Enhanced total variation: the settings and jobs of the study."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import NamedTuple

from foldopt.experiments.frame import Job, option

__all__ = [
    "Case",
    "Config",
    "Task",
    "array_file",
    "cases",
    "jobs",
    "qpth_cases",
    "tasks",
    "timed_cases",
    "training_key",
]

STRONG, WEAK = 10.0, 1.0
FORMS = ("free", "centred")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run of this study depends on; each field is a flag of the command."""

    seeds: int = option(3, "Draws of signals, noise and batches for each λ.", quick=1)
    samples: int = option(2000, "Signals; the paper has 10,000.", quick=400)
    epochs: int = option(10, "Passes over the training signals.", quick=2)
    strong: tuple[float, ...] = option(
        (5.0, 13.0, 25.0), "λ at noise of deviation 10.", quick=(13.0,)
    )
    weak: tuple[float, ...] = option(
        (0.5, 1.0, 2.0, 4.0), "λ at noise of deviation 1.", quick=(1.0,)
    )
    batch_size: int = option(32, "Signals a gradient step.")
    learning_rate: float = option(1e-3, "Of Adam; a centred D is given σ/10 of it.")
    forms: tuple[str, ...] = option(
        FORMS, "What is learned of D: free (all of it), centred (rows kept at sum zero)."
    )
    qpth: bool = option(True, "Train and time qpth too, where it is installed.")
    qpth_weights: tuple[float, ...] = option(
        (13.0,), "λ of qpth's trainings, of those in --strong; the first seed."
    )
    qpth_epochs: int = option(3, "Epochs of qpth's trainings.", quick=1)
    repeats: int = option(5, "Timings of each method; the fastest counts.", quick=1)
    image_seeds: int = option(3, "Draws of noise and patches for the photograph.", quick=1)
    image_patches: int = option(256, "Patches of the photograph to train on.", quick=32)
    image_epochs: int = option(6, "Passes over the patches.", quick=1)
    image_learning_rate: float = option(2e-3, "Of Adam, for the kernels.")
    image_sigma: float = option(25.0, "Deviation of the photograph's noise, in grey levels of 255.")
    image_kernels: int = option(4, "Learned kernels: 2 (right, down) or 4 (diagonals too).")

    def __post_init__(self) -> None:
        for name, least in (
            ("seeds", 1),
            ("samples", 40),
            ("epochs", 1),
            ("batch_size", 1),
            ("qpth_epochs", 1),
            ("repeats", 1),
            ("image_seeds", 0),
            ("image_patches", 1),
            ("image_epochs", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "image_learning_rate", "image_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.forms or not set(self.forms) <= set(FORMS):
            raise ValueError(f"forms must hold some of {FORMS}, got {self.forms}")
        weights = (*self.strong, *self.weak, *self.qpth_weights)
        if not all(weight > 0 for weight in weights) or not (self.strong or self.weak):
            raise ValueError(
                f"strong, weak and qpth_weights must hold λ above 0, and the first two one at "
                f"least, got {weights}"
            )
        if self.image_kernels not in (2, 4):
            raise ValueError(f"image_kernels must be 2 or 4, got {self.image_kernels}")


class Case(NamedTuple):
    """Noise of deviation σ, and the λ that it is removed with."""

    sigma: float
    weight: float

    @property
    def key(self) -> str:
        """As part of a job's key."""
        return f"sigma-{self.sigma:g}-weight-{self.weight:g}"

    @property
    def name(self) -> str:
        """For tables and figures."""
        return f"σ = {self.sigma:g}, λ = {self.weight:g}"


def cases(config: Config) -> list[Case]:
    """All pairs of σ and λ."""
    strong = [Case(STRONG, weight) for weight in config.strong]
    return strong + [Case(WEAK, weight) for weight in config.weak]


def qpth_cases(config: Config) -> list[Case]:
    """Those that qpth is trained on: none where it is not installed."""
    if not config.qpth or importlib.util.find_spec("qpth") is None:
        return []
    return [Case(STRONG, weight) for weight in config.qpth_weights if weight in config.strong]


def timed_cases(config: Config) -> list[Case]:
    """Those whose trained layer is timed: one for each σ, the second λ where there are two."""
    both = [Case(STRONG, weight) for weight in config.strong[:2]][-1:]
    return both + [Case(WEAK, weight) for weight in config.weak[:2]][-1:]


def array_file(folder: Path, key: str) -> Path:
    """Where a job keeps its arrays."""
    return folder / f"{key}.npz"


class Task(NamedTuple):
    """What a job is."""

    kind: str
    job: Job
    case: Case = Case(0.0, 0.0)
    seed: int = 0
    form: str = ""

    def learning_rate(self, config: Config) -> float:
        """Of this training: as in the paper, but for a centred D in proportion to the noise.

        Signals are as high at σ = 1 as at σ = 10. So an error of D costs as much there, beside a
        tenth of the noise.
        """
        scale = self.case.sigma / STRONG if self.form == "centred" else 1.0
        return scale * config.learning_rate


def training_key(case: Case, form: str, method: str, seed: int) -> str:
    """Of the job that trains D."""
    return f"{case.key}-{form}-{method}-seed-{seed}"


def tasks(config: Config) -> dict[str, Task]:
    """All that there is to do, by the key of its job."""
    found = []
    seeds = range(config.seeds)

    def training(method: str, case: Case, form: str, seed: int, epochs: int) -> Task:
        return Task(method, Job(training_key(case, form, method, seed), epochs), case, seed, form)

    for form in config.forms:
        for case in cases(config):
            found += [training("folded", case, form, seed, config.epochs) for seed in seeds]
    form = config.forms[0]
    for case in qpth_cases(config):
        found.append(training("qpth", case, form, 0, config.qpth_epochs))
    for sigma in sorted({case.sigma for case in cases(config)}):
        for seed in seeds:
            job = Job(f"sigma-{sigma:g}-fixed-seed-{seed}")
            found.append(Task("fixed", job, Case(sigma, 0.0), seed))
    for seed in range(config.image_seeds):
        found.append(Task("image", Job(f"image-seed-{seed}", config.image_epochs), seed=seed))
    for case in timed_cases(config):
        found.append(Task("speed", Job(f"{case.key}-speed", alone=True), case, form=form))
    return {task.job.key: task for task in found}


def jobs(config: Config) -> list[Job]:
    """The jobs of all tasks."""
    return [task.job for task in tasks(config).values()]
