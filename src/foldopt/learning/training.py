"""A predictor, a layer, data and a loss: training in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foldopt.learning.examples import Examples
from foldopt.learning.loop import Epoch, History, Training, fit
from foldopt.learning.methods import predict
from foldopt.learning.regret import Objective, regret

__all__ = ["Loss", "train"]

Loss = Literal["regret", "error"] | Callable[[Any, Examples], Tensor]


def train(
    model: nn.Module,
    layer: Callable[..., Any] | None,
    data: Examples,
    *,
    loss: Loss = "regret",
    objective: Objective | None = None,
    validation: Examples | None = None,
    training: Training | None = None,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
) -> History:
    r"""Train a predictor through the layer that decides on its predictions.

    Minimises the mean of :math:`\ell(x^\star(\hat c), \bar c)` with :math:`\hat c` the prediction,
    and keeps the weights of the epoch with the lowest loss on the validation examples.

    Parameters
    ----------
    model
        ``model(features) -> ĉ``; trained in place.
    layer
        ``layer(c, *known) -> x`` with its derivative: one of :mod:`foldopt.nn`, or a function made
        by :func:`~foldopt.folded`. May be None with ``loss="error"``, which does not decide.
    data
        What to train on.
    loss
        ``"regret"``: what the decision costs beyond the best one (eq. 36). ``"error"``: the squared
        error of the prediction, blind to the decision (two-stage). Or ``loss(x, batch)``: a scalar
        or one value for each sample, of the layer's x and the :class:`Examples` of the batch; its
        weights, if it has any, are not trained.
    objective
        f, as ``objective(x, c, *known)``, to be minimised; for ``"regret"``.
    validation
        Examples to choose the epoch by. None: those trained on.
    training
        Epochs, batches, learning rate, seed; None: the defaults of :class:`Training`.
    optimizer, on_epoch, checkpoint
        As for :func:`fit`.

    Returns
    -------
    History
        What happened.

    Raises
    ------
    FoldError
        If a decision cannot be differentiated: see :func:`~foldopt.fold`.
    TypeError, ValueError
        If the loss is of no known kind, or lacks the layer or the objective that it needs; or the
        prediction has another shape than the truth.

    References
    ----------
    arXiv 2301.12047, eq. 36 and Section 6.

    Examples
    --------
    A quadratic program whose costs are predicted, trained on the distance of its solution:

    >>> import torch, foldopt as fo
    >>> from foldopt.learning import Examples, Training, train
    >>> qp = fo.nn.QP()
    >>> decide = lambda c: qp(torch.eye(2).double(), c, lower=0.0, upper=1.0)
    >>> truth = torch.tensor([[-0.5, -2.0]]).double()
    >>> data = Examples(torch.ones(1, 1).double(), truth, decide(truth))
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(1, 2).double()
    >>> history = train(
    ...     model, decide, data, loss=lambda x, batch: (x - batch.optimal).square().sum(-1),
    ...     training=Training(200, learning_rate=0.05))
    >>> history.score[history.best] < 1e-4
    True
    """
    mean = _mean_loss(model, layer, loss, objective)
    chosen = data if validation is None else validation

    def validate() -> float:
        with torch.no_grad():
            return float(mean(chosen))

    return fit(
        model,
        mean,
        data,
        validate,
        Training() if training is None else training,
        optimizer=optimizer,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
    )


def _mean_loss(
    model: nn.Module,
    layer: Callable[..., Any] | None,
    loss: Loss,
    objective: Objective | None,
) -> Callable[[Examples], Tensor]:
    if loss == "error":
        return lambda batch: (predict(model, batch) - batch.truth).square().mean()
    if loss != "regret" and not callable(loss):
        raise TypeError(
            f"train: loss must be 'regret', 'error' or a function loss(x, batch), got {loss!r}"
        )
    if layer is None:
        raise ValueError(f"train: loss={loss!r} is one of decisions, and the layer is None")
    if loss == "regret" and objective is None:
        raise ValueError(
            "train: loss='regret' needs the objective of the decision: "
            "objective(x, c, *known), one value for each sample"
        )

    def mean(batch: Examples) -> Tensor:
        x = layer(predict(model, batch), *batch.known)
        if objective is not None and loss == "regret":
            return regret(objective, x, batch.optimal, batch.truth, *batch.known).mean()
        assert callable(loss)
        return loss(x, batch).mean()

    return mean
