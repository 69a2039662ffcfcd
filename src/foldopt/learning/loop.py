"""The loop of every training: batches, epochs, the best weights, and how to go on after a stop."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foldopt.learning.examples import Examples

__all__ = ["Epoch", "History", "Training", "fit"]


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train.

    Parameters
    ----------
    epochs
        Passes over the training examples, at least 1.
    batch_size
        Examples a gradient step, at least 1.
    learning_rate
        Of Adam, above 0.
    seed
        Of the order in which the examples come.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> from foldopt.learning import Training
    >>> Training(epochs=3)
    Training(epochs=3, batch_size=32, learning_rate=0.001, seed=0)
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Training: {name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"Training: learning_rate must be above 0, got {self.learning_rate}")


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes
    ----------
    index
        Counted from 0.
    loss
        The mean training loss.
    score
        The validation score after it.
    """

    index: int
    loss: float
    score: float


@dataclasses.dataclass(frozen=True)
class History:
    """What a training run went through, epoch by epoch.

    Attributes
    ----------
    loss
        The mean training loss of each epoch.
    score
        The validation score after each epoch.
    best
        The epoch, counted from 0, with the lowest score, whose weights the model has kept.
    seconds
        Working time, validation included; of all parts, if the training was interrupted.
    """

    loss: tuple[float, ...]
    score: tuple[float, ...]
    best: int
    seconds: float


def fit(
    model: nn.Module,
    loss: Callable[[Examples], Tensor],
    examples: Examples,
    validate: Callable[[], float],
    training: Training,
    *,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
) -> History:
    r"""Minimise the mean of a loss over examples; keep the weights that score best.

    The loop behind :func:`train`, :func:`two_stage` and :func:`end_to_end`, for a loss of any kind.

    Parameters
    ----------
    model
        What is trained, in place. It is left in evaluation mode with the weights of its best
        epoch.
    loss
        ``loss(batch)``: the mean loss of some of the examples, a scalar that depends on the model.
    examples
        What to train on.
    validate
        A score of the model as it stands, lower being better; called after each epoch, with the
        model in evaluation mode.
    training
        How to train.
    optimizer
        ``optimizer(parameters)`` makes another than Adam; the learning rate is then its own.
    on_epoch
        Called after each epoch with what it came to, for a progress bar.
    checkpoint
        A file to save the training to after each epoch: weights, optimiser, and where in the order
        of the examples it is. If the file is there, the training goes on from it, and ends with
        the same weights as one that was not interrupted, as long as the loss draws no random
        numbers of its own. It is left behind: remove it when the result is safe.

    Returns
    -------
    History
        What happened.

    Raises
    ------
    ValueError
        If a loss or score is not finite, or the checkpoint is of another training.

    Examples
    --------
    >>> import torch
    >>> from foldopt.learning import Examples, Training, fit
    >>> model = torch.nn.Linear(1, 1)
    >>> data = Examples(torch.ones(4, 1), torch.full((4, 1), 2.0), torch.zeros(4, 1))
    >>> loss = lambda batch: (model(batch.features) - batch.truth).abs().mean()
    >>> history = fit(
    ...     model, loss, data, lambda: loss(data).item(), Training(3),
    ...     optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    >>> len(history.loss)
    3
    """
    # A generator of its own: the order depends on the seed alone, not on what else draws numbers.
    order = torch.Generator().manual_seed(training.seed)
    adam = lambda parameters: torch.optim.Adam(parameters, lr=training.learning_rate)  # noqa: E731
    state = _State(model, (optimizer or adam)(model.parameters()), order)
    if checkpoint is not None and checkpoint.exists():
        state.load(checkpoint, training)
    for epoch in range(len(state.losses), training.epochs):
        began = time.perf_counter()
        model.train()
        total = 0.0
        shuffled = torch.randperm(len(examples), generator=order)
        for index in shuffled.split(training.batch_size):
            state.optimizer.zero_grad()
            value = loss(examples.take(index))
            value.backward()
            state.optimizer.step()
            total += len(index) * value.item()
        model.eval()
        mean = _finite(total / len(examples), "training loss", epoch)
        state.take(mean, _finite(validate(), "validation score", epoch))
        state.seconds += time.perf_counter() - began
        if checkpoint is not None:
            state.save(checkpoint, training)
        if on_epoch is not None:
            on_epoch(Epoch(epoch, state.losses[-1], state.scores[-1]))
    model.load_state_dict(state.kept)
    model.eval()
    return History(tuple(state.losses), tuple(state.scores), state.best, state.seconds)


class _State:
    """A training between two epochs."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, order: torch.Generator
    ) -> None:
        self.model, self.optimizer, self.order = model, optimizer, order
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.best, self.kept, self.seconds = 0, model.state_dict(), 0.0

    def take(self, loss: float, score: float) -> None:
        """Note an epoch, and keep its weights if it is the best so far."""
        self.losses.append(loss)
        self.scores.append(score)
        if len(self.scores) == 1 or score < self.scores[self.best]:
            self.best = len(self.scores) - 1
            self.kept = copy.deepcopy(self.model.state_dict())

    def save(self, path: Path, training: Training) -> None:
        """Write all of it, or nothing: an interruption leaves the file of the epoch before."""
        parts: dict[str, Any] = {
            # More epochs may be asked for when it goes on; all else must stay the same.
            "training": {**dataclasses.asdict(training), "epochs": None},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "kept": self.kept,
            "numbers": [self.losses, self.scores, self.best, self.seconds],
        }
        fresh = path.with_name(f"{path.name}.new")
        torch.save(parts, fresh)
        os.replace(fresh, path)

    def load(self, path: Path, training: Training) -> None:
        """Go on from a file, which is read as data: nothing in it is run."""
        parts = torch.load(path, map_location="cpu", weights_only=True)
        wanted = {**dataclasses.asdict(training), "epochs": None}
        if parts["training"] != wanted:
            raise ValueError(
                f"fit: checkpoint {path} is of a training with {parts['training']}, this one "
                f"has {wanted}. Remove the file, or name another."
            )
        try:
            self.model.load_state_dict(parts["model"])
            self.optimizer.load_state_dict(parts["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"fit: checkpoint {path} does not fit the model or its optimiser ({error}). "
                "Remove the file, or name another."
            ) from error
        self.order.set_state(parts["order"])
        self.kept = parts["kept"]
        self.losses, self.scores, self.best, self.seconds = parts["numbers"]


def _finite(value: float, what: str, epoch: int) -> float:
    if not math.isfinite(value):
        raise ValueError(
            f"the {what} is {value} in epoch {epoch + 1}: training has diverged, or the examples "
            "hold NaN or inf. Check the examples, or lower the learning rate."
        )
    return value
