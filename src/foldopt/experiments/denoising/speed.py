"""Seconds a batch, forward and backward, beside the error of the solution and of the gradient."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.experiments.denoising.data import draw, first_differences, head, split
from foldopt.experiments.denoising.layers import folded_layer, has_qpth, qpth_layer
from foldopt.experiments.denoising.plan import Case, Config, Task, array_file, training_key
from foldopt.experiments.frame import Journal
from foldopt.nn._total_variation.dual import solve_dual
from foldopt.solvers import FDPG

__all__ = ["Timing", "exact_gradient", "measure"]

Layer = Callable[..., Tensor]


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a method took, and how far it was off.

    Attributes
    ----------
    forward, backward
        Seconds for one batch: the fastest of some.
    x, gradient
        Relative errors, of the solutions and of the gradient in D, in the 2-norm over the batch.
    factor
        Of the exact gradient that fits this one best: 1, if nothing is wrong.
    """

    forward: float
    backward: float
    x: float
    gradient: float
    factor: float


def measure(config: Config, task: Task, journal: Journal) -> dict[str, Any]:
    """Time each method on one batch of test signals, with D untrained and trained.

    Parameters
    ----------
    config
        Of the study.
    task
        σ and λ, and the form of the training whose D is taken.
    journal
        Beside which that training left its D.

    Returns
    -------
    dict
        By the name of D and the method a :class:`Timing`, as a dict.
    """
    case = task.case
    *_, test = split(draw(0, config.samples, case.sigma))
    batch = head(test, config.batch_size)
    trained = _trained(journal.folder, training_key(case, task.form, "folded", 0))
    found: dict[str, Any] = {}
    for name, D in (("first differences", first_differences()), ("learned", trained)):
        x, gradient = exact_gradient(batch.features, batch.truth, D, case)
        found[name] = {
            method: dataclasses.asdict(
                _timed(layer, batch.features, batch.truth, D, case, x, gradient, config.repeats)
            )
            for method, layer in _methods(config).items()
        }
    journal.epoch()
    return found


def _methods(config: Config) -> dict[str, Layer]:
    found: dict[str, Layer] = {
        "f-FDPG, Newton forward": folded_layer(),
        "f-FDPG, FDPG forward to 1e-6": folded_layer(FDPG(rtol=1e-6)),
        "f-FDPG, FDPG forward to 1e-9": folded_layer(FDPG(rtol=1e-9)),
    }
    if config.qpth and has_qpth():
        found |= {
            "qpth to 1e-6": qpth_layer(eps=1e-6),
            "qpth to 1e-12": qpth_layer(),
            "qpth to 1e-12, smoothing 1e-6": qpth_layer(smoothing=1e-6),
            "qpth, shared D as it is": qpth_layer(corrected=False),
        }
    return found


def exact_gradient(d: Tensor, truth: Tensor, D: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    r"""x, and the gradient of ½‖x − truth‖² in D, by linear algebra on the active set.

    With F the rows where |w| < λ and s the signs of the others H, x is the projection of
    z = d − λ D_Hᵀ s on the null space of D_F: x = z + D_Fᵀ w_F with D_F D_Fᵀ w_F = −D_F z. For
    g = x − truth, and its projection r = g − D_Fᵀ q with D_F D_Fᵀ q = D_F g, the differential is

    .. math:: g^\top dx = w_F^\top dD_F\, r - q^\top dD_F\, x + \lambda s_H^\top dD_H\, r .

    Here λ s stands with the sign of w. A reference that shares no code with a fold.
    """
    w = solve_dual(d, D, case.weight, rtol=1e-11).x
    xs, total = [], torch.zeros_like(D)
    for d_i, truth_i, w_i in zip(d, truth, w, strict=True):
        free = w_i.abs() < case.weight
        rows, held = D[free], torch.where(free, 0, w_i)
        z = d_i + held @ D
        gram = rows @ rows.mT
        w_free = -torch.linalg.solve(gram, rows @ z)
        x = z + w_free @ rows
        g = x - truth_i
        q = torch.linalg.solve(gram, rows @ g)
        r = g - q @ rows
        total += torch.outer(held, r)
        total[free] += torch.outer(w_free, r) - torch.outer(q, x)
        xs.append(x)
    return torch.stack(xs), total


def _timed(
    layer: Layer,
    d: Tensor,
    truth: Tensor,
    D: Tensor,
    case: Case,
    x: Tensor,
    gradient: Tensor,
    repeats: int,
) -> Timing:
    ahead, back = [], []
    found, slope = x, gradient
    for _ in range(repeats):
        own = D.clone().requires_grad_()
        begin = time.perf_counter()
        answer = layer(d, own, case.weight)
        middle = time.perf_counter()
        (0.5 * (answer - truth).square().sum()).backward()
        ahead.append(middle - begin)
        back.append(time.perf_counter() - middle)
        assert own.grad is not None
        found, slope = answer.detach(), own.grad
    factor = float((slope * gradient).sum() / gradient.square().sum())
    return Timing(min(ahead), min(back), _relative(found, x), _relative(slope, gradient), factor)


def _relative(value: Tensor, exact: Tensor) -> float:
    norm = torch.linalg.vector_norm
    return float(norm(value - exact) / norm(exact))


def _trained(folder: Path, key: str) -> Tensor:
    path = array_file(folder, key)
    if not path.exists():
        raise FileNotFoundError(
            f"the learned D is not in {path}: its training is done, but its arrays are gone. Start "
            "the study anew with --restart."
        )
    with np.load(path) as arrays:
        return torch.as_tensor(arrays["D"])
