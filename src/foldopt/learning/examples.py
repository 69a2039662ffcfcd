"""Decision problems to learn from."""

from __future__ import annotations

import dataclasses

from torch import Tensor

__all__ = ["Examples"]


@dataclasses.dataclass(frozen=True)
class Examples:
    r"""Decision problems to learn from, N of them.

    Parameters
    ----------
    features
        What the predictor sees, shape ``(N, ...)``.
    truth
        :math:`\bar c`, what it should predict, shape ``(N, ...)``.
    optimal
        :math:`x^\star(\bar c)`, the decisions with hindsight, shape ``(N, n)``.
    known
        Further params of the problem that need no prediction, each of shape ``(N, ...)``.

    Raises
    ------
    ValueError
        If there are no examples, or the tensors do not hold equally many.

    Examples
    --------
    >>> import torch
    >>> from foldopt.learning import Examples
    >>> many = Examples(torch.zeros(8, 3), torch.zeros(8, 2), torch.zeros(8, 2))
    >>> len(many), len(many.take(torch.tensor([0, 5])))
    (8, 2)
    """

    features: Tensor
    truth: Tensor
    optimal: Tensor
    known: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        sizes = [len(t) for t in (self.features, self.truth, self.optimal, *self.known)]
        if len(set(sizes)) != 1 or sizes[0] == 0:
            raise ValueError(
                "Examples: features, truth, optimal and known must hold the same number of "
                f"examples, at least one; they hold {sizes}"
            )

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index: Tensor) -> Examples:
        """The examples at ``index``, a tensor of positions."""
        return Examples(
            self.features[index],
            self.truth[index],
            self.optimal[index],
            tuple(param[index] for param in self.known),
        )
