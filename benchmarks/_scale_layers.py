"""The layers that scale.py measures, and how: seconds of both passes, and the peak of memory."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import foldopt as fo

__all__ = [
    "FEATURES", "ROWS", "Job", "Layer", "differentiable", "equilibrium", "exact_image", "generator",
    "interior_image", "layered", "pin", "program", "quadratic", "simplex", "smooth_image",
]  # fmt: skip

ROWS = 20  # of the inequalities of the small programs, and their variables where n is not varied
FEATURES = 8
SECONDS = 1.5  # repeats of a short job end after so long
REPEATS = 20


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of a table.

    Attributes
    ----------
    case
        What is computed: a key of ``CASES`` in _scale_jobs.py.
    n
        Unknowns of one sample; for ``transfer``, the numbers that are summed.
    batch
        Samples, of all workers together.
    workers
        Processes; 0: in this one, without an executor.
    dtype, device
        ``"float64"`` or ``"float32"``; ``"cpu"`` or ``"cuda"``.
    huge_pages
        Whether PyTorch asks the system for huge pages (Linux).
    """

    case: str
    n: int
    batch: int = 1
    workers: int = 1
    dtype: str = "float64"
    device: str = "cpu"
    huge_pages: bool = True

    @property
    def key(self) -> str:
        """A name for the file of what has been measured."""
        pages = "" if self.huge_pages else ", usual pages"
        size = f"{self.case}, n {self.n}, batch {self.batch}, workers {self.workers}"
        return f"{size}, {self.dtype}, {self.device}{pages}"


class Layer(NamedTuple):
    """A differentiable function, and what its gradient is taken in."""

    function: Callable[..., Tensor]
    leaves: tuple[Tensor, ...]


# -- the layers ------------------------------------------------------------------------------------


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def drawing(height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Squares of one grey each, 0 to 1, and noise of deviation 0.1."""
    g = generator()
    squares = torch.rand(-(-height // 16), -(-width // 16), generator=g, dtype=dtype)
    image = squares.repeat_interleave(16, 0)[:height].repeat_interleave(16, 1)[:, :width]
    return image + 0.1 * torch.randn(height, width, generator=g, dtype=dtype)


def photograph(name: str, dtype: torch.dtype) -> Tensor:
    """A photograph of scikit-learn's in grey, 427 × 640 from 0 to 1, and the same noise."""
    from sklearn.datasets import load_sample_image

    grey = torch.as_tensor(np.array(load_sample_image(name), dtype=np.float64)).mean(-1) / 255
    return (grey + 0.1 * torch.randn(grey.shape, generator=generator())).to(dtype)


def picture(job: Job) -> tuple[Tensor, Tensor]:
    """The image of a job, and the weight of its total variation."""
    dtype = getattr(torch, job.dtype)
    name = {"china": "china.jpg", "flower": "flower.jpg"}.get(job.case.split()[0])
    side = math.isqrt(job.n)
    image = drawing(side, side, dtype) if name is None else photograph(name, dtype)
    return image, torch.tensor(0.1, dtype=dtype)


def smooth_image(job: Job) -> Layer:
    """Isotropic total variation, smoothed below a hundredth: conjugate gradients, no matrix."""

    def denoise(y: Tensor, w: Tensor) -> Tensor:
        return fo.operators.total_variation_2d(y, w, isotropic=True, smoothing=0.01)

    return Layer(denoise, picture(job))


def exact_image(job: Job) -> Layer:
    """Anisotropic total variation, exactly: Φ = 0."""
    return Layer(fo.operators.total_variation_2d, picture(job))


def interior_image(job: Job) -> Layer:
    """The same by the layer, whose interior points factor a sparse matrix."""
    return Layer(fo.nn.TotalVariation(dimensions=2), picture(job))


def neighbours(x: Tensor) -> Tensor:
    """A convolution that is not symmetric, of norm 0.9."""
    return 0.5 * x.roll(1, -1) + 0.3 * x.roll(2, -1) - 0.1 * x.roll(-1, -1)


def equilibrium(job: Job) -> Layer:
    """x = tanh(k * x + c) at an x chosen beforehand: an adjoint without a forward pass."""
    dtype = getattr(torch, job.dtype)
    x = 0.9 * (2 * torch.rand(job.batch, job.n, generator=generator(), dtype=dtype) - 1)
    x = x.to(job.device)
    c = torch.atanh(x) - neighbours(x)

    def step(x: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(neighbours(x) + c)

    return Layer(lambda c: fo.fold(step, x, c), (c,))


def program(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Q and G that a batch shares."""
    g = generator()
    R = torch.randn(n, n, generator=g, dtype=dtype)
    return R @ R.mT / n + torch.eye(n, dtype=dtype), torch.randn(ROWS, n, generator=g, dtype=dtype)


def quadratic(job: Job) -> Layer:
    """min ½xᵀQx + pᵀx over Gx ≤ h, 20 rows; gradients in p and h of each sample."""
    dtype, g = getattr(torch, job.dtype), generator()
    Q, G = program(job.n, dtype)
    p = torch.randn(job.batch, job.n, generator=g, dtype=dtype)
    h = torch.rand(job.batch, ROWS, generator=g, dtype=dtype)
    layer = fo.nn.QP()
    return Layer(lambda p, h: layer(Q, p, G, h), (p, h))


def simplex(job: Job) -> Layer:
    """The point of the simplex nearest to c, folded through a projected gradient step."""
    c = torch.randn(job.batch, job.n, generator=generator(), dtype=getattr(torch, job.dtype))

    def step(x: Tensor, c: Tensor) -> Tensor:
        return fo.projections.simplex(x - 0.5 * (x - c))

    return Layer(fo.folded(step)(fo.projections.simplex), (c.to(job.device),))


# -- measuring -------------------------------------------------------------------------------------


def pin(index: int) -> None:
    """Keep this process on one core (Linux): where there are several, `nn.QP` searches in threads.

    Workers of index 0, 1, … get a core each, as long as there are enough.
    """
    if hasattr(os, "sched_setaffinity"):
        own = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {own[index % len(own)]})


def wait(device: str) -> float:
    """The time, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak(device: str) -> int:
    """The most memory so far, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def differentiable(layer: Layer, device: str) -> tuple[float, float, Any, tuple[Tensor, ...]]:
    """Seconds of the forward and of the backward pass, the record of both, and the gradients."""
    leaves = tuple(leaf.detach().to(device).requires_grad_() for leaf in layer.leaves)
    begin = wait(device)
    with fo.record() as seen:
        x = layer.function(*leaves)
        loss = x.square().sum()
        middle = wait(device)
        gradients = torch.autograd.grad(loss, leaves)
        return middle - begin, wait(device) - middle, seen, gradients


def layered(make: Callable[[Job], Layer], small: int, job: Job) -> dict[str, Any]:
    """A forward and a backward pass: the least of several times, and the peak above the start."""
    warm = dataclasses.replace(job, case="warm-up", n=small, batch=2)
    differentiable(make(warm), job.device)  # loads what torch loads late
    if job.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak(job.device)
    layer = make(job)
    best: tuple[float, float] = (math.inf, math.inf)
    start, busy, memory = time.perf_counter(), time.process_time(), 0
    event: Any = None
    for _ in range(REPEATS):
        forward, backward, seen, _ = differentiable(layer, job.device)
        memory = memory or peak(job.device) - before
        best = min(best[0], forward), min(best[1], backward)
        event = seen[-1]
        del seen
        gc.collect()
        if time.perf_counter() - start > SECONDS:
            break
    return {
        "forward": best[0],
        "backward": best[1],
        "iterations": max(1, int(event.iterations.max())),
        "method": event.method,
        "residual": float(event.residual.max()),
        "memory": memory,
        "share": (time.process_time() - busy) / (time.perf_counter() - start),
        "before": before,
    }
