"""What every benchmark measures with."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import torch


def best_of(function: Callable[[], object], repeats: int, *, budget: float = 30.0) -> float:
    """The least wall-clock time of ``function``, in seconds, after one run to warm up.

    The least of several runs, since everything that disturbs a run lengthens it. Stops early once
    ``budget`` seconds have gone.
    """
    begin = time.perf_counter()
    function()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - begin > budget:
            break
    return best


def machine() -> str:
    """One line on what ran this."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {device or platform.machine()}"
    )
