"""Learn D: the jobs that train, and the one that looks for the best fixed total variation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt import steps
from foldopt.experiments.denoising.data import draw, first_differences, head, split
from foldopt.experiments.denoising.layers import Denoiser, denoised, folded_layer, qpth_layer
from foldopt.experiments.denoising.plan import Case, Config, Task, array_file
from foldopt.experiments.frame import Journal, certificates, compare_adjoints
from foldopt.learning import Epoch, Examples, Training, fit
from foldopt.nn._total_variation.dual import solve_dual

__all__ = ["error", "find_best_weight", "learn"]

# Shown in the figure of signals.
_SHOWN = 4
# Multiples of σ: the best λ of fixed total variation lies well inside.
_GRID = (0.5, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.5, 3.0, 4.0)


def error(x: Tensor, clean: Tensor) -> float:
    """The mean squared error."""
    return (x - clean).square().mean().item()


def learn(config: Config, task: Task, journal: Journal) -> dict[str, Any]:
    """Train D for one noise, λ and seed.

    Parameters
    ----------
    config
        Of the study.
    task
        σ and λ; who is asked for the gradient, ``"folded"`` or ``"qpth"``; whether the rows of D
        are free or centred; the seed of the signals, the noise, and the order of the batches.
        Scores are always those of the exact solution.
    journal
        Where epochs and the checkpoint go.

    Returns
    -------
    dict
        Errors before and after, the curve, certificates, the adjoint systems. Arrays (D, signals)
        lie beside it, in :func:`~foldopt.experiments.denoising.study.array_file`.
    """
    case, folded = task.case, task.kind == "folded"
    learning, choosing, test = split(draw(task.seed, config.samples, case.sigma))
    model = Denoiser(
        case.weight, folded_layer() if folded else qpth_layer(), task.form == "centred"
    )
    epochs = config.epochs if folded else config.qpth_epochs

    def score(of: Examples) -> float:
        return error(denoised(of.features, model.operator.detach(), case.weight), of.truth)

    def loss(batch: Examples) -> Tensor:
        return (model(batch.features) - batch.truth).square().mean()

    def on_epoch(epoch: Epoch) -> None:
        journal.epoch(training=epoch.loss, validation=epoch.score)

    initial = {"validation": score(choosing), "test": score(test)}
    training = Training(epochs, config.batch_size, task.learning_rate(config), task.seed)
    with certificates(journal.certificates) as seen:
        history = fit(
            model,
            loss,
            learning,
            lambda: score(choosing),
            training,
            on_epoch=on_epoch,
            checkpoint=journal.checkpoint,
        )
    D = model.operator.detach()
    _keep(journal, case, D, test)
    found = {
        "noisy": error(test.features, test.truth),
        "before": initial["test"],
        "after": score(test),
        "curve": [initial["validation"], *history.score],
        "loss": list(history.loss),
        "best": history.best,
        "epoch_seconds": history.seconds / epochs,
        "condition": float(torch.linalg.cond(D)),
        "change": float(torch.linalg.norm(D - first_differences())),
        # Of what the trained rows see of a constant signal: 0 for differences of any kind.
        "row_sum": float(D.sum(-1).abs().max()),
        "pieces": _pieces(D, case, test),
    }
    if folded:
        found["certificates"] = seen.summary()
        found["adjoints"] = _adjoints(D, case, head(test, config.batch_size))
    return found


def _pieces(D: Tensor, case: Case, test: Examples) -> list[float]:
    """How many rows of D x are not zero, on average: before and after training."""
    counts = []
    for operator in (first_differences(), D):
        w = solve_dual(test.features, operator, case.weight).x
        counts.append(float((w.abs() >= case.weight).sum(-1).double().mean()))
    return counts


def _adjoints(D: Tensor, case: Case, batch: Examples) -> dict[str, Any]:
    """The backward pass of the trained layer, on test signals, with the loss's own cotangent."""
    w = solve_dual(batch.features, D, case.weight).x
    residual = batch.features + w @ D - batch.truth
    D = D.clone().requires_grad_()
    return compare_adjoints(
        steps.fdpg(), w, batch.features, D, case.weight, cotangent=residual @ D.detach().mT
    )


def _keep(journal: Journal, case: Case, D: Tensor, test: Examples) -> None:
    few = head(test, _SHOWN)
    pictures = {
        "clean": few.truth,
        "noisy": few.features,
        "before": denoised(few.features, first_differences(), case.weight),
        "after": denoised(few.features, D, case.weight),
        "D": D,
    }
    arrays: dict[str, Any] = {name: value.numpy() for name, value in pictures.items()}
    np.savez(array_file(journal.folder, journal.key), **arrays)


def find_best_weight(config: Config, sigma: float, seed: int, journal: Journal) -> dict[str, Any]:
    """The test error of fixed total variation at the λ that is best on the other signals."""
    learning, choosing, test = split(draw(seed, config.samples, sigma))
    D = first_differences()
    seen = [
        torch.cat([one, other])
        for one, other in (
            (learning.features, choosing.features),
            (learning.truth, choosing.truth),
        )
    ]
    errors = {
        factor * sigma: error(denoised(seen[0], D, factor * sigma), seen[1]) for factor in _GRID
    }
    best = min(errors, key=lambda weight: errors[weight])
    journal.epoch(best=best)
    return {
        "weight": best,
        "test": error(denoised(test.features, D, best), test.truth),
        "noisy": error(test.features, test.truth),
    }
