"""The study of optimal power flow: its settings and its jobs."""

from __future__ import annotations

import dataclasses

from foldopt.experiments.frame import Job, option

__all__ = [
    "CASES",
    "FOLDED",
    "LINEAR",
    "METHODS",
    "NETWORK",
    "PREDICTORS",
    "TASK",
    "TIMES",
    "TUNED",
    "TWO_STAGE",
    "Config",
    "Spec",
    "jobs",
    "plan",
]

TWO_STAGE, FOLDED, TUNED = "two-stage", "folded", "tuned"
METHODS = (FOLDED, TUNED, TWO_STAGE)
NETWORK, LINEAR = "network", "linear"
PREDICTORS = (NETWORK, LINEAR)
TASK, TIMES = "task", "times"  # jobs beside the trainings
CASES = (9, 14, 30, 57, 118, 300)


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run of this study depends on.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """

    case: int = option(14, "The grid: MATPOWER's 9, 14, 30, 57, 118 or 300 buses.")
    seeds: int = option(5, "How often each network is trained, on data drawn anew.", quick=1)
    epochs: int = option(15, "Passes over the training data.", quick=3)
    two_stage: int = option(5, "Of these, how many come before folding where it tunes.", quick=1)
    batch_size: int = option(8, "Examples a gradient step.")
    learning_rate: float = option(5e-3, "Of Adam.")
    hidden: int = option(32, "Width of the network's four hidden layers.")
    train: int = option(128, "Examples to train on.", quick=32)
    validation: int = option(48, "Examples to choose the epoch by.", quick=16)
    test: int = option(192, "Examples for the test.", quick=32)
    response: float = option(0.6, "The most by which weather can raise a generator's cost.")
    noise: float = option(0.1, "Deviation of what the weather does not tell of a cost.")
    spread: float = option(0.1, "Deviation of the loads.")

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "batch_size", "hidden", "train", "validation", "test"):
            if getattr(self, name) < 1:
                raise ValueError(f"Config: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.two_stage <= self.epochs:
            raise ValueError(
                f"Config: two_stage must be between 1 and the epochs, {self.epochs}, got "
                f"{self.two_stage}"
            )
        if self.case not in CASES:
            raise ValueError(f"Config: case must be one of {CASES}, got {self.case}")
        if not self.learning_rate > 0:
            raise ValueError(f"Config: learning_rate must be above 0, got {self.learning_rate}")
        if not 0 < self.response <= 0.9:
            raise ValueError(
                f"Config: response must be above 0 and at most 0.9, got {self.response}: costs "
                "must stay positive"
            )
        for name in ("noise", "spread"):
            if not 0 <= getattr(self, name) <= 0.3:
                raise ValueError(
                    f"Config: {name} must be between 0 and 0.3, got {getattr(self, name)}"
                )


@dataclasses.dataclass(frozen=True)
class Spec:
    """A training: which predictor, by which method, from which seed.

    The methods: ``"two-stage"`` minimises the error of the costs, ``"folded"`` the regret, and
    ``"tuned"`` first the one and then the other.
    """

    predictor: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        """The job's name."""
        return f"{self.predictor}-{self.method}-seed-{self.seed}"


def plan(config: Config) -> list[Spec]:
    """All trainings, those that take longest first."""
    return [
        Spec(predictor, method, seed)
        for method in METHODS
        for predictor in PREDICTORS
        for seed in range(config.seeds)
    ]


def jobs(config: Config) -> list[Job]:
    """A job for each training, one for the task, one for times.

    Examples
    --------
    >>> [job.key for job in jobs(Config(seeds=1))][1:]
    ['linear-folded-seed-0', 'network-tuned-seed-0', 'linear-tuned-seed-0',
     'network-two-stage-seed-0', 'linear-two-stage-seed-0', 'task', 'times']
    """
    trainings = [Job(spec.key, config.epochs) for spec in plan(config)]
    return [*trainings, Job(TASK), Job(TIMES, alone=True)]
