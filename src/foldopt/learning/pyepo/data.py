"""PyEPO's datasets as examples, and back."""

from __future__ import annotations

from typing import Any

import torch

from foldopt.learning.examples import Examples
from foldopt.learning.pyepo.model import objective, sense_of

__all__ = ["dataset", "examples"]


def examples(dataset: Any, dtype: torch.dtype | None = None) -> Examples:
    """Make a PyEPO ``optDataset`` the examples that the trainings here take.

    Parameters
    ----------
    dataset
        A ``pyepo.data.dataset.optDataset``, with its features, costs and solutions.
    dtype
        Of the examples; None: PyEPO's own, float32. Digits that PyEPO dropped do not come back.

    Returns
    -------
    foldopt.learning.Examples
        The features, the costs as the truth, and the solutions as the decisions with hindsight.
        The objective that goes with them is :func:`objective`'s.

    Raises
    ------
    TypeError
        If the dataset holds no ``feats``, ``costs`` and ``sols``.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from foldopt.learning.pyepo import examples
    >>> from pyepo.data.dataset import optDataset
    >>> from pyepo.model.opt import optModel
    >>> class Cheapest(optModel):
    ...     def _getModel(self):
    ...         return None, range(2)
    ...     def setObj(self, c):
    ...         self.c = np.asarray(c)
    ...     def solve(self):
    ...         return np.eye(2)[self.c.argmin()], self.c.min()
    >>> data = optDataset(Cheapest(), np.zeros((3, 5)), np.array([[1, 2], [2, 1], [0, 3]]))
    >>> many = examples(data)
    >>> many.optimal
    tensor([[1., 0.],
            [0., 1.],
            [1., 0.]])
    """
    names = ("feats", "costs", "sols")
    lacking = [name for name in names if not isinstance(getattr(dataset, name, None), torch.Tensor)]
    if lacking:
        raise TypeError(
            "pyepo.examples: dataset must be a pyepo.data.dataset.optDataset, which holds tensors "
            f"feats, costs and sols; {type(dataset).__name__} lacks {', '.join(lacking)}"
        )
    features, truth, optimal = (
        torch.as_tensor(getattr(dataset, name), dtype=dtype) for name in names
    )
    return Examples(features, truth, optimal)


def dataset(examples: Examples, model: Any) -> Any:
    """Make examples a PyEPO ``optDataset``, without solving anything again.

    Parameters
    ----------
    examples
        Features, costs ``(N, num_cost)``, and the solutions with hindsight.
    model
        The ``pyepo.model.opt.optModel`` that they belong to; its objective gives the values.

    Returns
    -------
    optDataset
        For PyEPO's loaders, losses and metrics. Like all of them it holds float32.

    Raises
    ------
    ImportError
        If PyEPO is not installed.
    TypeError
        If ``model`` is no such model.
    ValueError
        If the examples have further params, for which PyEPO has no place, or costs of another
        width than the model.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from foldopt.learning import Examples
    >>> from foldopt.learning.pyepo import dataset
    >>> from pyepo.model.opt import optModel
    >>> class Cheapest(optModel):
    ...     def _getModel(self):
    ...         return None, range(2)
    ...     def setObj(self, c):
    ...         self.c = np.asarray(c)
    ...     def solve(self):
    ...         return np.eye(2)[self.c.argmin()], self.c.min()
    >>> costs = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    >>> many = Examples(torch.zeros(2, 5), costs, torch.eye(2))
    >>> dataset(many, Cheapest()).objs
    tensor([[1.],
            [3.]])
    """
    try:
        from pyepo.data.dataset import optDataset
    except ImportError as error:
        raise ImportError("pyepo.dataset needs the package PyEPO: pip install pyepo") from error
    sense = sense_of(model)
    if examples.known:
        raise ValueError(
            f"pyepo.dataset: the examples have {len(examples.known)} further params (known), and "
            "PyEPO's datasets hold costs alone. Give a model that has them inside"
        )
    if examples.truth.shape[1:] != (model.num_cost,):
        raise ValueError(
            f"pyepo.dataset: the truth must have shape (N, {model.num_cost}), the costs of the "
            f"model; it has {tuple(examples.truth.shape)}"
        )
    values = sense * objective(model)(examples.optimal, examples.truth)

    class Solved(optDataset):
        def _get_sols(self) -> Any:  # where an optDataset solves
            return examples.optimal.detach().cpu().numpy(), values.detach().cpu().unsqueeze(-1)

    return Solved(model, examples.features.detach().cpu(), examples.truth.detach().cpu())
