"""Two ways to train a predictor that feeds a solver: on its error, or on the solver's regret.

Both are the loop of :func:`~foldopt.learning.fit`, with the same batches in the same order; only
the loss differs. What then differs between two trained models is the loss's doing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from foldopt.learning.examples import Examples
from foldopt.learning.loop import Epoch, History, Training, fit
from foldopt.learning.regret import Objective, regret

__all__ = ["end_to_end", "predict", "two_stage"]


def two_stage(
    model: nn.Module,
    examples: Examples,
    validate: Callable[[], float],
    training: Training,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
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
    on_epoch, checkpoint
        As for :func:`~foldopt.learning.fit`.

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

    return fit(model, loss, examples, validate, training, on_epoch=on_epoch, checkpoint=checkpoint)


def end_to_end(
    model: nn.Module,
    decide: Callable[..., Tensor],
    objective: Objective,
    examples: Examples,
    validate: Callable[[], float],
    training: Training,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
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
    examples, validate, training, on_epoch, checkpoint
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
    >>> _ = torch.manual_seed(0)
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

    return fit(model, loss, examples, validate, training, on_epoch=on_epoch, checkpoint=checkpoint)


def predict(model: nn.Module, batch: Examples) -> Tensor:
    """ĉ, in the shape of the truth: a mismatch would broadcast, and train on nonsense."""
    prediction = model(batch.features)
    if prediction.shape != batch.truth.shape:
        raise ValueError(
            f"the model predicted shape {tuple(prediction.shape)} where the truth has "
            f"{tuple(batch.truth.shape)}. Change the model's last layer, or reshape its output."
        )
    return prediction
