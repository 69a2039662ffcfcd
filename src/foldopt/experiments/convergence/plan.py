"""What a run of the convergence study depends on."""

from __future__ import annotations

import dataclasses

from foldopt.experiments.frame import option

__all__ = ["ADJOINTS", "MEASUREMENTS", "PARTS", "Config"]

MEASUREMENTS, ADJOINTS = "measurements", "adjoints"  # the jobs
PARTS = (
    "unrolling from the solution and from a random start (Figure 3)",
    "step sizes (Appendix D)",
    "nested unrolling",
    "starting points",
    "the layers of all experiments",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The paper leaves n, c, α and the loss unstated; these are ours.

    Parameters
    ----------
    n, k
        Sizes: 100 classes, of which 5 are selected.
    temperature
        τ: the scores are c = z/(τ‖z‖), z normal.
    step_size
        α of Figure 3.
    iterations
        How many to unroll.
    step_sizes
        How many of them on the grid of Appendix D.
    inner
        Inner iterations at which nested unrolling is measured.
    seed
        Of z and of the random starts.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> Config(iterations=40).k
    5
    """

    n: int = option(100, "Classes.", quick=20)
    k: int = option(5, "How many of them are selected.", quick=3)
    temperature: float = option(1.0, "τ: scores lie on a sphere of radius 1/τ.")
    step_size: float = option(0.025, "α of Figure 3.", quick=0.06)
    iterations: int = option(80, "Iterations to unroll.")
    step_sizes: int = option(41, "Step sizes on the grid of Appendix D.", quick=9)
    inner: tuple[int, ...] = option(
        (1, 2, 5, 10, 20, 50, 100), "Inner iterations of nested unrolling.", quick=(2, 10, 60)
    )
    seed: int = option(0, "Of the scores and the random starts.")

    def __post_init__(self) -> None:
        if not 1 <= self.k < self.n:
            raise ValueError(f"k must be at least 1 and below n, got k={self.k}, n={self.n}")
        if self.iterations < 10 or self.step_sizes < 2:
            raise ValueError(
                "iterations must be at least 10, step_sizes at least 2; got "
                f"{self.iterations} and {self.step_sizes}"
            )
        if not self.temperature > 0 or not self.step_size > 0:
            raise ValueError(
                "temperature and step_size must be at least above 0, got "
                f"{self.temperature} and {self.step_size}"
            )
        if not self.inner or min(self.inner) < 1 or self.seed < 0:
            raise ValueError(
                "inner must be at least one count, each at least 1, and seed at least 0; got "
                f"{self.inner} and {self.seed}"
            )
