"""The portfolio study: its settings and its jobs."""

from __future__ import annotations

import dataclasses

from foldopt.experiments.frame import Job, option

__all__ = [
    "CONES",
    "ENGINES",
    "FOLDED",
    "SCALED_CONES",
    "SPO",
    "TWO_STAGE",
    "Config",
    "Spec",
    "Task",
    "jobs",
    "plan",
]

TWO_STAGE, SPO, FOLDED = "two-stage", "spo-plus", "f-sqp"
CONES, SCALED_CONES = "cvxpylayers", "cvxpylayers-scaled"
ENGINES = ("batched", "clarabel", "sqp", "gurobi")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run of this study depends on.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    seeds: int = option(3, "How often each network is trained, on data drawn anew.", quick=1)
    epochs: int = option(8, "Passes over the training data.", quick=2)
    batch_size: int = option(32, "Examples a gradient step.")
    learning_rate: float = option(1e-2, "Of Adam.")
    hidden: int = option(64, "Width of the network's four hidden layers.")
    solver: str = option("batched", "Solves f-SQP's programs: batched, clarabel, sqp or gurobi.")
    degrees: tuple[int, ...] = option((1, 2, 3, 4, 8, 16), "Of the synthetic data.", quick=(2,))
    noises: tuple[float, ...] = option((0.1, 1.0), "τ of the synthetic data.", quick=(0.1,))
    train: int = option(800, "Synthetic examples to train on.", quick=160)
    validation: int = option(200, "Synthetic examples to choose the epoch by.", quick=100)
    test: int = option(2000, "Synthetic examples for the test.", quick=300)
    assets: int = option(20, "n of the synthetic data.")
    cone_degrees: tuple[int, ...] = option(
        (1, 2, 3), "Degrees, at the first τ, at which cvxpylayers is trained.", quick=(2,)
    )
    engine_epochs: int = option(3, "Passes when the engines are compared in training.", quick=1)
    programs: int = option(32, "Programs when the engines are compared alone.", quick=8)
    sp500: bool = option(True, "Whether to run on the S&P 500 as well.")
    sp500_risk: float = option(1.0, "γ there, in units of the risk of equal weights.")

    def __post_init__(self) -> None:
        counts = ("seeds", "epochs", "batch_size", "hidden", "train", "validation", "test")
        for name in (*counts, "engine_epochs", "programs"):
            if getattr(self, name) < 1:
                raise ValueError(f"Config: {name} must be at least 1, got {getattr(self, name)}")
        if self.solver not in ENGINES:
            raise ValueError(f"Config: solver must be one of {ENGINES}, got {self.solver!r}")
        if self.assets < 2:
            raise ValueError(f"Config: assets must be at least 2, got {self.assets}")
        for name in ("learning_rate", "sp500_risk"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Config: {name} must be above 0, got {getattr(self, name)}")
        if not self.degrees or min(self.degrees) < 1 or min(self.cone_degrees, default=1) < 1:
            raise ValueError(
                "Config: degrees must hold one number at least, and all be 1 or more, got "
                f"{self.degrees} and cone_degrees {self.cone_degrees}"
            )
        if not self.noises or not min(self.noises) > 0:
            raise ValueError(
                f"Config: noises must hold one number at least, all above 0, got {self.noises}"
            )


@dataclasses.dataclass(frozen=True)
class Task:
    """A source of data: τ and a degree, or (both zero) the S&P 500."""

    noise: float = 0.0
    degree: int = 0

    @property
    def name(self) -> str:
        """For keys of jobs."""
        return f"tau{self.noise:g}-degree{self.degree}" if self.degree else "sp500"

    @property
    def title(self) -> str:
        """For readers."""
        return f"τ = {self.noise:g}, degree {self.degree}" if self.degree else "S&P 500"


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a job does.

    Attributes
    ----------
    kind
        ``"train"``; ``"benchmarks"``, portfolios without training; ``"engine"``, a short training
        around one engine; ``"accuracy"``, the engines alone.
    task
        On which data; for ``"accuracy"`` only its τ counts.
    method
        Of training, or the engine.
    seed
        Of data and network.
    """

    kind: str
    task: Task
    method: str = ""
    seed: int = 0

    @property
    def key(self) -> str:
        """The job's name."""
        parts = [self.kind, self.task.name, self.method]
        return "-".join(part for part in parts if part) + f"-seed{self.seed}"


def plan(config: Config) -> list[Spec]:
    """All jobs of a study: trainings first, then what measures time.

    Parameters
    ----------
    config
        The settings.

    Returns
    -------
    list of Spec
        With unique keys.

    Examples
    --------
    >>> some = plan(Config(seeds=1, degrees=(2,), noises=(0.1,), sp500=False, cone_degrees=()))
    >>> [spec.key for spec in some if spec.kind == "train"][:2]
    ['train-tau0.1-degree2-two-stage-seed0', 'train-tau0.1-degree2-spo-plus-seed0']
    """
    tasks = [Task(noise, degree) for noise in config.noises for degree in config.degrees]
    real = [Task()] if config.sp500 else []
    specs = [
        Spec("train", task, method, seed)
        for task in (*tasks, *real)
        for method in (TWO_STAGE, SPO, FOLDED)
        for seed in range(config.seeds)
    ]
    specs += [
        Spec("train", task, method, seed)
        for task in tasks
        if task.noise == config.noises[0] and task.degree in config.cone_degrees
        for method in (CONES, SCALED_CONES)
        for seed in range(config.seeds)
    ]
    specs += [Spec("benchmarks", task) for task in real]
    middle = Task(config.noises[0], config.degrees[min(1, len(config.degrees) - 1)])
    specs += [Spec("engine", middle, engine) for engine in ENGINES]
    specs += [Spec("engine", task, ENGINES[0]) for task in real]
    specs += [Spec("accuracy", Task(noise, config.degrees[0])) for noise in config.noises]
    return specs


def jobs(config: Config) -> list[Job]:
    """The jobs of all that is planned."""
    work = {"train": config.epochs, "engine": config.engine_epochs}
    return [
        Job(spec.key, work.get(spec.kind, 1), alone=spec.kind in ("engine", "accuracy"))
        for spec in plan(config)
    ]
