"""Regret: what a decision costs because it was taken on a prediction and not on the truth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Objective", "mean_regret", "regret"]

Objective = Callable[..., Tensor]
"""``objective(x, c, *known)``: the value to be *minimised*, one for each sample."""


def regret(
    objective: Objective, x: Tensor, optimal: Tensor, truth: Tensor, *known: Tensor
) -> Tensor:
    r"""What x costs beyond the best decision under the true params.

    :math:`f(x^\star(\hat c), \bar c) - f(x^\star(\bar c), \bar c)`, sample by sample. It is at
    least 0 for every feasible x, up to the accuracy of the solver, and 0 at
    :math:`\hat c = \bar c`. It can be minimised through x, whose derivative a fold supplies. For a
    problem that is maximised, give the negative of its objective.

    Parameters
    ----------
    objective
        f, as ``objective(x, c, *known)``: one value for each sample, shape ``(*batch,)``.
    x
        The decision :math:`x^\star(\hat c)`, shape ``(*batch, n)``.
    optimal
        The decision with hindsight, :math:`x^\star(\bar c)`, shape ``(*batch, n)``.
    truth
        :math:`\bar c`, in the shape that the objective takes.
    known
        Params of the objective that are known when the decision is taken.

    Returns
    -------
    Tensor
        Shape ``(*batch,)``.

    Raises
    ------
    ValueError
        If x and optimal differ in shape, or the objective does not return one value a sample.

    References
    ----------
    arXiv 2301.12047, eq. 36; A. Elmachtoub and P. Grigas, Management Science 68 (2022), 9–26.

    Examples
    --------
    Half of the wealth on the wrong asset:

    >>> import torch
    >>> from foldopt.learning import regret
    >>> x, best = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    >>> regret(lambda x, c: -(c * x).sum(-1), x, best, truth=torch.tensor([[3.0, 1.0]]))
    tensor([1.])
    """
    if x.shape != optimal.shape:
        raise ValueError(
            f"regret: x has shape {tuple(x.shape)} and the optimal decision "
            f"{tuple(optimal.shape)}; broadcasting them would compare decisions of different "
            "samples. Give one optimal decision for each x."
        )
    values = objective(x, truth, *known)
    if values.shape != x.shape[:-1]:
        raise ValueError(
            f"regret: the objective returned shape {tuple(values.shape)} for x of shape "
            f"{tuple(x.shape)}; it must return one value for each sample, {tuple(x.shape[:-1])}. "
            "Sum over the last dimension only."
        )
    return values - objective(optimal, truth, *known)


def mean_regret(
    objective: Objective, x: Tensor, optimal: Tensor, truth: Tensor, *known: Tensor
) -> float:
    """The mean of :func:`regret` over all samples, as a number, without recording a graph.

    Parameters
    ----------
    objective, x, optimal, truth, known
        As for :func:`regret`.

    Returns
    -------
    float
        The mean regret.

    Raises
    ------
    ValueError
        As for :func:`regret`; also if there are no samples to average.

    References
    ----------
    arXiv 2301.12047, eq. 36.

    Examples
    --------
    >>> import torch
    >>> from foldopt.learning import mean_regret
    >>> x, best = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> truth = torch.tensor([[3.0, 1.0], [3.0, 1.0]])
    >>> mean_regret(lambda x, c: -(c * x).sum(-1), x, best, truth)
    0.5
    """
    if x.shape[:-1].numel() == 0:
        raise ValueError("mean_regret: there are no samples, so that there is no mean")
    with torch.no_grad():
        return float(regret(objective, x, optimal, truth, *known).mean())
