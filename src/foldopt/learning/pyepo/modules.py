"""Our layers with the signatures that PyEPO's training loops call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foldopt.learning.pyepo.model import objective, sense_of

__all__ = ["FoldedRegret", "layer"]

Reduction = Literal["mean", "sum", "none"]


def layer(
    decide: Callable[..., Tensor], *known: Tensor, dtype: torch.dtype | None = None
) -> nn.Module:
    """Make a folded solver a module like PyEPO's ``perturbedOpt``: ``func(pred_cost) -> x``.

    Parameters
    ----------
    decide
        ``decide(c, *known) -> x``, differentiable: from :func:`~foldopt.folded`,
        :class:`~foldopt.FoldedLayer`, :mod:`foldopt.nn` or an operator. A module's parameters are
        then the layer's.
    *known
        Params of the problem that are the same for all samples and need no prediction. They move
        with the layer to another device.
    dtype
        What ``decide`` computes in; x comes back in the predictions' dtype, and so does the
        gradient. None: in theirs, which for PyEPO's data is float32.

    Returns
    -------
    nn.Module
        ``module(pred_cost) -> x``, costs ``(B, num_cost)`` to x ``(B, n)``.

    Raises
    ------
    TypeError
        If ``decide`` cannot be called.
    ValueError
        When called, if the predictions are no batch of vectors, or the decisions none of as many.

    Examples
    --------
    In the place of ``perturbedOpt`` and its like, with a loss on the decision:

    >>> import torch, foldopt as fo
    >>> from foldopt.learning.pyepo import layer
    >>> func = layer(lambda c: fo.projections.simplex(-c))
    >>> cost = torch.tensor([[0.2, 0.4]], requires_grad=True)
    >>> loss = (func(cost) - torch.tensor([[0.0, 1.0]])).square().mean()
    >>> loss.backward()
    >>> cost.grad
    tensor([[-0.6000,  0.6000]])
    """
    return _Layer(decide, known, dtype)


class FoldedRegret(nn.Module):
    r"""The regret of a folded decision as a loss with the signature of PyEPO's ``SPOPlus``.

    .. math:: c^\top x(\hat c) - z, \quad\text{or}\quad z - c^\top x(\hat c)

    where the model maximises: what ``pyepo.metric.regret`` measures, of the decision that
    ``decide`` takes, with its derivative. SPO+ bounds it by a convex function; this is the thing
    itself. If ``decide`` solves another problem than the model (a quadratic term was added), this
    is the regret of that decision in the model's problem, and is not zero for true costs.

    Parameters
    ----------
    decide
        ``decide(c) -> x``, differentiable, or what :func:`layer` made of it.
    model
        The ``pyepo.model.opt.optModel``, for its sense and its objective. It is not solved.
    reduction
        ``"mean"``, ``"sum"``, or ``"none"`` for one regret a sample.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind; when called, if shapes do not fit.

    References
    ----------
    arXiv 2301.12047, eq. 36; A. Elmachtoub and P. Grigas, Management Science 68 (2022), 9–26.

    Examples
    --------
    >>> import numpy as np, torch, foldopt as fo
    >>> from foldopt.learning.pyepo import FoldedRegret
    >>> from pyepo.model.opt import optModel
    >>> class Cheapest(optModel):
    ...     def _getModel(self):
    ...         return None, range(2)
    ...     def setObj(self, c):
    ...         self.c = np.asarray(c)
    ...     def solve(self):
    ...         return np.eye(2)[self.c.argmin()], self.c.min()
    >>> loss = FoldedRegret(lambda c: fo.projections.simplex(-c), Cheapest())
    >>> predicted = torch.tensor([[0.2, 0.4]], requires_grad=True)
    >>> true_cost, true_sol, true_obj = torch.tensor([[3.0, 1]]), torch.eye(2)[1:], torch.ones(1, 1)
    >>> regret = loss(predicted, true_cost, true_sol, true_obj)
    >>> round(regret.item(), 4)
    1.2
    >>> torch.autograd.grad(regret, predicted)[0]
    tensor([[-1.,  1.]])
    """

    def __init__(
        self, decide: Callable[..., Tensor], model: Any, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        sense_of(model)
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(
                f"FoldedRegret: reduction must be 'mean', 'sum' or 'none', got {reduction!r}"
            )
        self.decide = decide if isinstance(decide, _Layer) else _Layer(decide, (), None)
        self.model, self.reduction = model, reduction
        self._objective = objective(model)

    def forward(
        self, pred_cost: Tensor, true_cost: Tensor, true_sol: Tensor, true_obj: Tensor
    ) -> Tensor:
        """The regret of a batch, from what an ``optDataset`` holds."""
        samples = len(pred_cost)
        if pred_cost.shape != true_cost.shape or true_obj.numel() != samples:
            raise ValueError(
                f"FoldedRegret: pred_cost {tuple(pred_cost.shape)} and true_cost "
                f"{tuple(true_cost.shape)} must have the same shape, (B, num_cost), and true_obj "
                f"{tuple(true_obj.shape)} one value for each of the {samples} samples"
            )
        x = self.decide(pred_cost)
        if x.shape != true_sol.shape:
            raise ValueError(
                f"FoldedRegret: decide returned shape {tuple(x.shape)}, and true_sol has "
                f"{tuple(true_sol.shape)}; they must agree, a decision a sample"
            )
        value = self._objective(x, true_cost)
        regret = value - sense_of(self.model) * true_obj.reshape(-1)
        if self.reduction == "none":
            return regret
        return regret.mean() if self.reduction == "mean" else regret.sum()


class _Layer(nn.Module):
    def __init__(
        self, decide: Callable[..., Tensor], known: tuple[Tensor, ...], dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        if not callable(decide):
            raise TypeError(f"pyepo.layer: decide must be callable, decide(c) -> x, got {decide!r}")
        self.decide, self.dtype = decide, dtype
        self._known = len(known)
        for number, param in enumerate(known):
            # Part of the problem, and not of what is trained and saved.
            self.register_buffer(f"known{number}", param, persistent=False)

    def forward(self, pred_cost: Tensor) -> Tensor:
        if pred_cost.ndim != 2:
            raise ValueError(
                "pyepo.layer: pred_cost must have shape (B, num_cost), got "
                f"{tuple(pred_cost.shape)}; give a batch, be it of one"
            )
        known = (getattr(self, f"known{number}") for number in range(self._known))
        x = self.decide(pred_cost.to(self.dtype or pred_cost.dtype), *known)
        if x.ndim != 2 or len(x) != len(pred_cost):
            raise ValueError(
                f"pyepo.layer: decide returned shape {tuple(x.shape)} for costs of shape "
                f"{tuple(pred_cost.shape)}; it must return one vector for each sample"
            )
        return x.to(pred_cost.dtype)
