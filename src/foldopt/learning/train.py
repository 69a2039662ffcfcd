"""Two ways to train a predictor that feeds a solver: on its error, or on the solver's regret.

Both are the same loop, with the same batches in the same order; only the loss differs. What then
differs between two trained models is the loss's doing.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from foldopt.learning.examples import Examples
from foldopt.learning.regret import Objective, regret

__all__ = ["History", "Training", "end_to_end", "two_stage"]


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
        Wall-clock time, validation included.
    """

    loss: tuple[float, ...]
    score: tuple[float, ...]
    best: int
    seconds: float


def two_stage(
    model: nn.Module,
    examples: Examples,
    validate: Callable[[], float],
    training: Training,
    on_epoch: Callable[[], None] | None = None,
) -> History:
    r"""Train on the squared error of the prediction, blind to the decision.

    Minimises :math:`\|\hat c - \bar c\|^2`, averaged over entries and examples. The solver is
    called by nobody but ``validate``.

    Parameters
    ----------
    model
        ``model(features) -> ĉ``; trained in place, and left in evaluation mode with the weights
        of its best epoch.
    examples
        What to train on.
    validate
        A score of the model as it stands, lower being better; called after each epoch, with the
        model in evaluation mode.
    training
        How to train.
    on_epoch
        Called after each epoch, for a progress bar.

    Returns
    -------
    History
        What happened.

    Raises
    ------
    ValueError
        If the prediction has another shape than the truth, or a loss or score is not finite.

    References
    ----------
    arXiv 2301.12047, section 6 (the two-stage baseline).

    Examples
    --------
    >>> import torch
    >>> from foldopt.learning import Examples, Training, two_stage
    >>> model = torch.nn.Linear(1, 1)
    >>> data = Examples(torch.ones(4, 1), torch.full((4, 1), 2.0), torch.zeros(4, 1))
    >>> error = lambda: (model(data.features) - data.truth).square().mean().item()
    >>> history = two_stage(model, data, error, Training(epochs=200, learning_rate=0.05))
    >>> history.score[history.best] < 1e-3
    True
    """

    def loss(batch: Examples) -> Tensor:
        return (predict(model, batch) - batch.truth).square().mean()

    return _train(model, loss, examples, validate, training, on_epoch)


def end_to_end(
    model: nn.Module,
    decide: Callable[..., Tensor],
    objective: Objective,
    examples: Examples,
    validate: Callable[[], float],
    training: Training,
    on_epoch: Callable[[], None] | None = None,
) -> History:
    r"""Train on the regret of the decision, through the folded solver.

    Minimises the mean of :math:`f(x^\star(\hat c), \bar c) - f(x^\star(\bar c), \bar c)`, whose
    gradient in :math:`\hat c` is :math:`(\partial x^\star/\partial \hat c)^\top \nabla_x f`.

    Parameters
    ----------
    model
        ``model(features) -> ĉ``, as for :func:`two_stage`.
    decide
        The solver with its derivative, ``decide(c, *known) -> x``: see :func:`~foldopt.folded`.
    objective
        f, as ``objective(x, c, *known)``, to be minimised.
    examples, validate, training, on_epoch
        As for :func:`two_stage`.

    Returns
    -------
    History
        What happened.

    Raises
    ------
    FoldError
        If a decision cannot be trusted: see :func:`~foldopt.fold`.
    ValueError
        As for :func:`two_stage` and :func:`~foldopt.learning.regret`.

    References
    ----------
    arXiv 2301.12047, eq. 36 and 25–27.

    Examples
    --------
    Which point of the simplex is nearest to c? The decision is right long before ĉ is.

    >>> import torch, foldopt as fo
    >>> from foldopt.learning import Examples, Training, end_to_end
    >>> f = lambda x, c: 0.5 * (x - c).square().sum(-1)
    >>> decide = fo.folded(fo.steps.projected_gradient(f, fo.projections.simplex, 0.5))(
    ...     fo.projections.simplex)
    >>> model = torch.nn.Linear(1, 2).double()
    >>> truth = torch.tensor([[0.8, 0.4]]).double()
    >>> data = Examples(torch.ones(1, 1).double(), truth, fo.projections.simplex(truth))
    >>> error = lambda: (decide(model(data.features)) - data.optimal).abs().max().item()
    >>> history = end_to_end(model, decide, f, data, error, Training(80, learning_rate=0.05))
    >>> history.score[history.best] < 1e-2
    True
    """

    def loss(batch: Examples) -> Tensor:
        x = decide(predict(model, batch), *batch.known)
        return regret(objective, x, batch.optimal, batch.truth, *batch.known).mean()

    return _train(model, loss, examples, validate, training, on_epoch)


def predict(model: nn.Module, batch: Examples) -> Tensor:
    """ĉ, in the shape of the truth: a mismatch would broadcast, and train on nonsense."""
    prediction = model(batch.features)
    if prediction.shape != batch.truth.shape:
        raise ValueError(
            f"the model predicted shape {tuple(prediction.shape)} where the truth has "
            f"{tuple(batch.truth.shape)}. Change the model's last layer, or reshape its output."
        )
    return prediction


def _train(
    model: nn.Module,
    loss_of: Callable[[Examples], Tensor],
    examples: Examples,
    validate: Callable[[], float],
    training: Training,
    on_epoch: Callable[[], None] | None,
) -> History:
    began = time.perf_counter()
    # A generator of its own: the order depends on the seed alone, not on what else draws numbers.
    order = torch.Generator().manual_seed(training.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    losses: list[float] = []
    scores: list[float] = []
    best, kept = 0, model.state_dict()
    for epoch in range(training.epochs):
        model.train()
        total = 0.0
        shuffled = torch.randperm(len(examples), generator=order)
        for index in shuffled.split(training.batch_size):
            optimizer.zero_grad()
            loss = loss_of(examples.take(index))
            loss.backward()
            optimizer.step()
            total += len(index) * loss.item()
        losses.append(_finite(total / len(examples), "training loss", epoch))
        model.eval()
        scores.append(_finite(validate(), "validation score", epoch))
        if epoch == 0 or scores[-1] < scores[best]:
            best, kept = epoch, copy.deepcopy(model.state_dict())
        if on_epoch is not None:
            on_epoch()
    model.load_state_dict(kept)
    return History(tuple(losses), tuple(scores), best, time.perf_counter() - began)


def _finite(value: float, what: str, epoch: int) -> float:
    if not math.isfinite(value):
        raise ValueError(
            f"the {what} is {value} in epoch {epoch + 1}: training has diverged, or the examples "
            "hold NaN or inf. Check the examples, or lower the learning rate."
        )
    return value
