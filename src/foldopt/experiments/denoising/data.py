"""The signals of the denoising study: steps of random heights, and noise."""

from __future__ import annotations

import torch
from torch import Tensor

from foldopt.learning import Examples

__all__ = ["draw", "first_differences", "head", "signals", "split"]

LENGTH = 100
_MOST_PIECES = 9
_HEIGHTS = (10, 100)


def signals(count: int, length: int, random: torch.Generator) -> Tensor:
    """Piecewise constant signals: 1 to 9 pieces, of whole heights from 10 to 99.

    Breaks are drawn without replacement, so that no piece is empty.

    Parameters
    ----------
    count, length
        How many, and of how many values each, 9 at least.
    random
        Where they come from.

    Returns
    -------
    Tensor
        ``(count, length)``, float64.

    References
    ----------
    B. Amos, J. Z. Kolter, OptNet, ICML 2017, Section 4.2, and its published code, which
    arXiv 2301.12047 follows.

    Examples
    --------
    >>> x = signals(3, 100, torch.Generator().manual_seed(0))
    >>> x.shape, int((x.diff(dim=-1) != 0).sum(-1).max()) <= 8
    (torch.Size([3, 100]), True)
    """
    place = torch.arange(length)
    found = torch.empty(count, length, dtype=torch.float64)
    for row in found:
        pieces = int(torch.randint(1, _MOST_PIECES + 1, (), generator=random))
        breaks = 1 + torch.randperm(length - 1, generator=random)[: pieces - 1].sort().values
        heights = torch.randint(*_HEIGHTS, (pieces,), generator=random).double()
        row[:] = heights[torch.searchsorted(breaks, place, right=True)]
    return found


def draw(seed: int, count: int, sigma: float, length: int = LENGTH) -> Examples:
    """Signals, and the same with noise N(0, σ²).

    Parameters
    ----------
    seed
        Of everything here; the signals do not depend on σ.
    count, length
        See :func:`signals`.
    sigma
        The noise's standard deviation.

    Returns
    -------
    :class:`~foldopt.learning.Examples`
        ``features`` are the noisy signals, ``truth`` and ``optimal`` the clean ones.
    """
    random = torch.Generator().manual_seed(seed)
    clean = signals(count, length, random)
    noise = torch.randn(clean.shape, generator=random, dtype=clean.dtype)
    return Examples(clean + sigma * noise, clean, clean)


def split(examples: Examples) -> tuple[Examples, Examples, Examples]:
    """Training, validation and test examples: the last tenth for the test, as in the paper.

    The tenth before it chooses the epoch.
    """
    count = len(examples)
    tenth = count // 10
    order = torch.arange(count)
    learning, choosing, test = order.split((count - 2 * tenth, tenth, tenth))
    return examples.take(learning), examples.take(choosing), examples.take(test)


def head(examples: Examples, count: int) -> Examples:
    """The first examples: all of them, if there are no more than ``count``."""
    return examples.take(torch.arange(min(count, len(examples))))


def first_differences(length: int = LENGTH) -> Tensor:
    """D of ordinary total variation, ``(length − 1, length)``: x_i − x_{i+1}, as in the paper.

    Examples
    --------
    >>> first_differences(3)
    tensor([[ 1., -1.,  0.],
            [ 0.,  1., -1.]], dtype=torch.float64)
    """
    one = torch.eye(length, dtype=torch.float64)
    return one[:-1] - one[1:]
