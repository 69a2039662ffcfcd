"""A cost model of few parameters, fitted to what scale.py measured.

The seconds of one part of a job (its forward pass, its backward pass, a step of training) are

    overhead + iterations · pass + ⌈B/W⌉ · iterations · (sample + work · n^p) + B · serial
             + message + bytes / bandwidth

for B samples of n unknowns on W workers; the last two where something travels. All coefficients are
at least 0. A part has few of these terms: those that its case names. They enter linearly, and are
fitted to *relative* errors by non-negative least squares, once for each of a grid of powers p, of
which the best stays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

__all__ = ["Errors", "Fit", "Size", "errors", "fit", "held_out", "predict"]

POWERS = np.round(np.arange(0.5, 3.01, 0.05), 2)


@dataclasses.dataclass(frozen=True)
class Size:
    """What the time of a job depends on.

    Attributes
    ----------
    n, batch, workers
        Unknowns of a sample, samples in all, and who shares them.
    iterations
        Of the adjoint's solver; 1 where nothing is iterative, and in a question: the usual ones.
    remote
        Whether data or gradients travel between processes.
    moved
        How many bytes do.
    """

    n: int
    batch: int = 1
    workers: int = 1
    iterations: float = 1.0
    remote: bool = False
    moved: float = 0.0

    @property
    def each(self) -> int:
        """Samples of the busiest worker."""
        return -(-self.batch // max(1, self.workers))


TERMS: dict[str, Callable[[Size, float], float]] = {
    "overhead": lambda s, p: 1.0,
    "pass": lambda s, p: s.iterations,
    "sample": lambda s, p: s.each * s.iterations,
    "work": lambda s, p: s.each * s.iterations * float(s.n) ** p,
    "serial": lambda s, p: float(s.batch),
    "message": lambda s, p: float(s.remote),
    "bytes": lambda s, p: s.moved * s.remote,
}


@dataclasses.dataclass(frozen=True)
class Fit:
    """The coefficients of one part, seconds each, by term; and the power of n."""

    coefficients: dict[str, float]
    power: float
    iterations: float = 1.0  # their median where it was fitted

    def seconds(self, size: Size) -> float:
        """The prediction."""
        return sum(
            value * TERMS[term](size, self.power) for term, value in self.coefficients.items()
        )


def fit(
    sizes: Sequence[Size],
    seconds: Sequence[float],
    terms: Sequence[str],
    powers: Iterable[float] = POWERS,
) -> Fit:
    """The coefficients with the least sum of squared relative errors.

    Raises
    ------
    ValueError
        If there is nothing to fit to, or a time is not above 0.
    """
    from scipy.optimize import nnls

    t = np.asarray(seconds, dtype=np.float64)
    if not len(t) or not (t > 0).all():
        raise ValueError(f"fit: needs times above 0, got {t.tolist()}")
    varied = "work" in terms and len({size.n for size in sizes}) > 1
    best: tuple[float, float, np.ndarray] | None = None
    for power in powers if varied else (1.0,):
        X = np.array([[TERMS[term](size, power) for term in terms] for size in sizes]) / t[:, None]
        scale = np.abs(X).max(0)  # the columns differ by twenty orders of magnitude
        scale[scale == 0] = 1
        found, distance = nnls(X / scale, np.ones_like(t))
        if best is None or distance < best[0]:
            best = float(distance), float(power), found / scale
    assert best is not None
    coefficients = dict(zip(terms, best[2].tolist(), strict=True))
    return Fit(coefficients, best[1], float(np.median([size.iterations for size in sizes])))


def predict(fits: dict[str, Fit], size: Size) -> dict[str, float]:
    """Seconds of each part of a job, with the iterations that were usual unless it has its own."""
    found = {}
    for part, one in fits.items():
        iterative = one.iterations != 1
        count = size.iterations if iterative and size.iterations != 1 else one.iterations
        found[part] = one.seconds(dataclasses.replace(size, iterations=count))
    return found


# -- how good it is --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Errors:
    """Relative errors |predicted − measured| / measured at sizes that were left out.

    Attributes
    ----------
    inside, beyond
        Between the smallest and the largest size that was fitted, and above it.
    """

    inside: tuple[float, ...]
    beyond: tuple[float, ...]


def held_out(sizes: Sequence[Size]) -> tuple[set[int], set[int]]:
    """Which sizes to leave out: every third inside, and the largest.

    Sizes are told apart by n and the batch, and ordered by B n; all workers' rows of one go
    together. With fewer than four of them nothing is left out.
    """
    order = sorted({(size.n, size.batch) for size in sizes}, key=lambda at: (math.prod(at), at))
    if len(order) < 4:
        return set(), set()
    middle, last = set(order[2:-1:3]), {order[-1]}
    where = [(size.n, size.batch) for size in sizes]
    inside = {index for index, at in enumerate(where) if at in middle}
    return inside, {index for index, at in enumerate(where) if at in last}


def errors(
    sizes: Sequence[Size],
    seconds: Sequence[float],
    terms: Sequence[str],
    powers: Iterable[float] = POWERS,
) -> Errors:
    """Fit without the sizes that :func:`held_out` names, and predict those.

    The iterations of a size that is left out count as unknown: the usual ones are taken.
    """
    inside, beyond = held_out(sizes)
    kept = [index for index in range(len(sizes)) if index not in inside | beyond]
    model = fit([sizes[index] for index in kept], [seconds[index] for index in kept], terms, powers)

    def error(index: int) -> float:
        size = dataclasses.replace(sizes[index], iterations=model.iterations)
        return abs(model.seconds(size) - seconds[index]) / seconds[index]

    return Errors(*(tuple(error(index) for index in sorted(some)) for some in (inside, beyond)))
