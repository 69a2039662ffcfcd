"""What is measured beside the trainings: gradients on random logits, and the adjoint system."""

from __future__ import annotations

import math
import time
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from foldopt.experiments.frame import Journal, compare_adjoints
from foldopt.experiments.multilabel.cvxpy_layer import CVXPYLAYERS, CvxpyTopK, missing
from foldopt.experiments.multilabel.data import CLASSES
from foldopt.experiments.multilabel.layer import (
    EXACT,
    FOLDED,
    Layer,
    Logits,
    exact,
    layer_of,
    pgd_step,
    scaled,
    sqp_step,
)
from foldopt.experiments.multilabel.plan import LOGITS, Config, training_key
from foldopt.experiments.multilabel.training import log_loss, logits_file

__all__ = ["adjoints", "as_cross_entropy", "gradients", "random_logits"]

_SPREAD = 3.0  # of raw random logits: normal with this deviation


def random_logits(kind: Logits, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random c and y: c from normal logits of deviation 3, uniform labels.

    Parameters
    ----------
    kind
        See :func:`~foldopt.experiments.multilabel.layer.scaled`.
    count
        How many samples.
    seed
        Of the draw.

    Returns
    -------
    tuple of Tensor
        c, shape ``(count, 100)``, float64; y, shape ``(count,)``.

    Examples
    --------
    >>> c, y = random_logits("normalised", 2, seed=0)
    >>> c.shape, round(float(c[0].norm()), 6)
    (torch.Size([2, 100]), 1.0)
    """
    random = torch.Generator().manual_seed(seed)
    z = _SPREAD * torch.randn(count, CLASSES, generator=random, dtype=torch.float64)
    return scaled(z, kind), torch.randint(CLASSES, (count,), generator=random)


def gradients(config: Config, journal: Journal) -> dict[str, Any]:
    """Hold the gradients of all methods against the closed form, on the same random logits.

    Parameters
    ----------
    config
        The settings.
    journal
        Where progress is written down.

    Returns
    -------
    dict
        For each kind of logits ``"active"`` bounds a sample, the ``"least"`` x, and, by method,
        relative errors (2-norm of a sample) ``"loss"`` for −log x_y and ``"random"`` for a normal
        cotangent, each ``[median, worst]``, and ``"forward"``, ``"backward"`` seconds; for the
        normalised ones ``"cross-entropy"``, see :func:`as_cross_entropy`. ``"missing"``: why
        cvxpylayers was left out.
    """
    lacking = missing()
    found: dict[str, Any] = {"missing": lacking}
    for kind in LOGITS:
        c, label = random_logits(cast(Logits, kind), config.compared, config.seed)
        cotangent = torch.randn(
            c.shape, generator=torch.Generator().manual_seed(config.seed + 1), dtype=c.dtype
        )
        x = exact(config.k)(c)
        layers: dict[str, Any] = {name: layer_of(name, config.k) for name in (EXACT, *FOLDED)}
        if lacking is None:
            layers[CVXPYLAYERS] = CvxpyTopK(CLASSES, config.k)
        rows, reference = {}, None
        for name, layer in layers.items():
            row, both = _measured(layer, c, label, cotangent, 1 if name == CVXPYLAYERS else 3)
            reference = both if reference is None else reference
            errors = [_errors(own, exactly) for own, exactly in zip(both, reference, strict=True)]
            rows[name] = row | {"loss": errors[0], "random": errors[1]}
        if lacking is None:
            rows[CVXPYLAYERS]["distance"] = layers[CVXPYLAYERS].distance
        found[kind] = {
            "active": float((x >= 1).sum(-1).double().mean()),
            "least": float(x.min()),
            "methods": rows,
            "cross-entropy": as_cross_entropy(c, label, config.k),
        }
        journal.epoch(logits=kind)
    return found


def _measured(
    layer: Layer, c: Tensor, label: Tensor, cotangent: Tensor, repeats: int
) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    """Seconds of both passes, the best of some, and the gradients for two cotangents."""
    forward = backward = math.inf
    both: tuple[Tensor, Tensor] | None = None
    for _ in range(repeats):
        leaf = c.clone().requires_grad_()
        begin = time.perf_counter()
        x = layer(leaf)
        middle = time.perf_counter()
        (of_loss,) = torch.autograd.grad(log_loss(x, label).sum(), leaf, retain_graph=True)
        end = time.perf_counter()
        (of_random,) = torch.autograd.grad(x, leaf, cotangent)
        forward, backward = min(forward, middle - begin), min(backward, end - middle)
        both = of_loss, of_random
    assert both is not None
    return {"forward": forward, "backward": backward}, both


def _errors(gradient: Tensor, exactly: Tensor) -> list[float]:
    """Median and worst relative error of the samples whose gradient is not zero."""
    size = torch.linalg.vector_norm(exactly, dim=-1)
    error = torch.linalg.vector_norm(gradient - exactly, dim=-1)[size > 0] / size[size > 0]
    return [float(error.median()), float(error.max())] if len(error) else [math.nan, math.nan]


def as_cross_entropy(c: Tensor, label: Tensor, k: int) -> dict[str, float]:
    """How far the loss is from cross-entropy − log k, which it equals where no bound is active.

    Parameters
    ----------
    c
        Shape ``(B, n)``.
    label
        Shape ``(B,)``.
    k
        How many are selected.

    Returns
    -------
    dict
        The largest differences: of x from k softmax(c), of the losses, and of their gradients.

    Examples
    --------
    >>> c, y = random_logits("normalised", 4, seed=0)
    >>> max(as_cross_entropy(c, y, k=5).values()) < 1e-14
    True
    """
    leaf = c.clone().requires_grad_()
    x = exact(k)(leaf)
    loss = log_loss(x, label)
    (own,) = torch.autograd.grad(loss.sum(), leaf)
    entropy = torch.nn.functional.cross_entropy(leaf, label, reduction="none")
    (usual,) = torch.autograd.grad(entropy.sum(), leaf)
    gaps = {
        "x": x - k * leaf.softmax(-1),
        "loss": loss - (entropy - math.log(k)),
        "gradient": own - usual,
    }
    return {name: float(gap.detach().abs().max()) for name, gap in gaps.items()}


def adjoints(config: Config, kind: str, journal: Journal) -> dict[str, Any]:
    """Measure the adjoint systems of the trained layers of one kind of logits, first seed.

    Parameters
    ----------
    config
        The settings.
    kind
        The kind of logits.
    journal
        In the folder where the trainings have left their logits.

    Returns
    -------
    dict
        For f-PGDa and f-SQP what :func:`~foldopt.experiments.frame.compare_adjoints` says;
        ``"active"``, ``"least"`` as for :func:`gradients`.

    Raises
    ------
    FileNotFoundError
        If the trainings have not been run.
    """
    found: dict[str, Any] = {}
    for method, step in (("pgd", pgd_step(config.k)), ("sqp", sqp_step(config.k))):
        path = logits_file(journal, training_key(kind, method, config.seed))
        if not path.exists():
            raise FileNotFoundError(
                f"multilabel: {path} is not there: the adjoint system is measured at what the "
                f"training {path.stem} leaves behind; run that first"
            )
        with np.load(path) as kept:
            c = scaled(torch.from_numpy(kept["logits"]), cast(Logits, kind))
            label = torch.from_numpy(kept["label"])
        x = exact(config.k)(c)
        leaf = x.clone().requires_grad_()
        (cotangent,) = torch.autograd.grad(log_loss(leaf, label).mean(), leaf)
        found[method] = compare_adjoints(step, x, c, cotangent=cotangent)
        found |= {"active": float((x >= 1).sum(-1).double().mean()), "least": float(x.min())}
    journal.epoch(logits=kind)
    return found
