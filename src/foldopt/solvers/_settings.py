"""What every engine understands, under the same names."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from foldopt.solvers._run.executors import ExecutorLike, check_executor
from foldopt.solvers.warm_start import WarmStart

__all__ = ["Settings"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Tolerances, limits and workers of a solver.

    Attributes
    ----------
    rtol, atol
        How accurate: relative and absolute tolerance of the optimality conditions; None: the
        solver's own choice, said in its documentation.
    max_iterations
        Of one sample; None: the engine's own limit.
    time_limit
        Seconds for one sample; None: no limit.
    threads
        Threads that the engine may use for one sample.
    executor
        Who solves the samples of a batch; see :func:`~foldopt.solvers.solve_batch`. ``"auto"``:
        threads or processes of this machine, where the batch is worth it.
    warm_start
        A :class:`~foldopt.solvers.WarmStart` that keeps solutions to start from; None: none.
    """

    rtol: float | None = None
    atol: float | None = None
    max_iterations: int | None = None
    time_limit: float | None = None
    threads: int = 1
    executor: ExecutorLike = "auto"
    warm_start: WarmStart | None = None

    def __post_init__(self) -> None:
        _check("rtol", self.rtol, "a number of 0 or more", 0)
        _check("atol", self.atol, "a number of 0 or more", 0)
        _check("time_limit", self.time_limit, "a number of seconds above 0", 1e-9)
        _check("max_iterations", self.max_iterations, "an integer of 1 or more", 1, whole=True)
        if self.threads is None:
            raise ValueError("threads must be an integer of 1 or more, got None")
        _check("threads", self.threads, "an integer of 1 or more", 1, whole=True)
        check_executor(self.executor)
        if self.warm_start is not None and not isinstance(self.warm_start, WarmStart):
            raise TypeError(f"warm_start must be a WarmStart() or None, got {self.warm_start!r}")

    def chosen(self, **names: str) -> dict[str, Any]:
        """The settings that are not None, under an engine's own names: ``chosen(rtol="eps")``."""
        values = {theirs: getattr(self, ours) for ours, theirs in names.items()}
        return {name: value for name, value in values.items() if value is not None}


def _check(name: str, value: Any, wanted: str, least: float, whole: bool = False) -> None:
    if value is None:
        return
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or not least <= value < math.inf:
        raise ValueError(f"{name} must be {wanted} or None, got {value!r}")
