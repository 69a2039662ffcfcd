"""The multilabel study: its settings and its jobs."""

from __future__ import annotations

import dataclasses

from foldopt.experiments.frame import Job, option

__all__ = ["GRADIENTS", "LOGITS", "METHODS", "Config", "adjoint_key", "jobs", "training_key"]

METHODS = {"exact": "closed form", "pgd": "f-PGDa", "sqp": "f-SQP", "cvxpylayers": "cvxpylayers",
           "disturbed": "closed form, off by 1e-5"}  # fmt: skip
LOGITS = ("normalised", "sharp", "raw")
GRADIENTS = "gradients"


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run of this study depends on; every field is a flag.

    Raises
    ------
    ValueError
        If a value is out of its range, or a choice unknown.
    """

    data: str = option(
        "digits", "digits (built in), fashion-mnist or cifar100 (the paper's; both need --data-dir)"
    )
    data_dir: str | None = option(None, "Folder of the data's files.")
    network: str = option(
        "auto", "mlp, cnn or densenet (DenseNet-40-40); auto: the first for digits, and so on."
    )
    seeds: int = option(3, "How many seeds: of split, pairs, noise, weights, order.", quick=1)
    seed: int = option(0, "The first seed.")
    epochs: int = option(20, "Passes over the training examples.", quick=3)
    train: int = option(2560, "Training examples.", quick=640)
    test: int = option(2000, "Test examples.", quick=500)
    cvxpylayers_seeds: int = option(2, "Seeds trained by cvxpylayers, which is slow.", quick=1)
    cvxpylayers_epochs: int = option(2, "Epochs trained by cvxpylayers, of the same training.",
                                     quick=1)  # fmt: skip
    batch_size: int = option(64, "Examples a gradient step.")
    learning_rate: float = option(0.1, "Of SGD.")
    momentum: float = option(0.9, "Of SGD, Nesterov's; 0: none.")
    weight_decay: float = option(1e-4, "Of SGD.")
    noise: float = option(0.4, "Probability that a training label is redrawn in its group.")
    k: int = option(5, "How many the layer selects.")
    compared: int = option(64, "Random logits on which gradients are compared.", quick=16)
    device: str = option("cpu", "Where the network and the layer are; cuda for a GPU.")

    def __post_init__(self) -> None:
        choices = {
            "data": ("digits", "fashion-mnist", "cifar100"),
            "network": ("auto", "mlp", "cnn", "densenet"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"Config: {name} must be one of {', '.join(allowed)}, got "
                    f"{getattr(self, name)!r}"
                )
        if self.data != "digits" and self.data_dir is None:
            raise ValueError(
                f"Config: data={self.data!r} needs data_dir (--data-dir), the folder of its files"
            )
        for name, least in (
            ("seeds", 1), ("epochs", 1), ("train", 64), ("test", 1), ("batch_size", 1),
            ("compared", 2), ("cvxpylayers_seeds", 0), ("cvxpylayers_epochs", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(
                    f"Config: {name} must be at least {least}, got {getattr(self, name)}"
                )
        if not 1 <= self.k < 100:
            raise ValueError(f"Config: k must be from 1 to 99, got {self.k}")
        if not self.learning_rate > 0:
            raise ValueError(f"Config: learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"Config: noise must be from 0 to 1, got {self.noise}")
        if not (0 <= self.momentum < 1 and self.weight_decay >= 0):
            raise ValueError(
                "Config: momentum must be from 0 to below 1 and weight_decay at least 0, got "
                f"{self.momentum} and {self.weight_decay}"
            )

    def trained_seeds(self, method: str) -> range:
        """The seeds that a method is trained on, a key of METHODS."""
        slow = method == "cvxpylayers" and self.cvxpylayers_epochs > 0
        count = self.seeds if method != "cvxpylayers" else self.cvxpylayers_seeds * slow
        return range(self.seed, self.seed + min(count, self.seeds))

    def trained_epochs(self, method: str) -> int:
        """How many epochs a method is trained for."""
        return min(self.epochs, self.cvxpylayers_epochs) if method == "cvxpylayers" else self.epochs


def training_key(logits: str, method: str, seed: int) -> str:
    """The key of a training."""
    return f"{logits}-{method}-seed-{seed}"


def adjoint_key(logits: str) -> str:
    """The key of the measurement of the trained layers of one kind of logits."""
    return f"adjoints-{logits}"


def jobs(config: Config) -> list[Job]:
    """What there is to do.

    Parameters
    ----------
    config
        The settings.

    Returns
    -------
    list of Job
        A training for each kind of logits, method and seed, the slow ones first; then what
        measures time.

    Examples
    --------
    >>> [job.key for job in jobs(Config(seeds=1)) if job.alone][:2]
    ['gradients', 'adjoints-normalised']
    """
    found = [
        Job(training_key(logits, method, seed), config.trained_epochs(method))
        for method in ("cvxpylayers", "pgd", "sqp", "exact", "disturbed")
        for seed in config.trained_seeds(method)
        for logits in LOGITS
    ]
    found.append(Job(GRADIENTS, len(LOGITS), alone=True))
    return found + [Job(adjoint_key(logits), alone=True) for logits in LOGITS]
