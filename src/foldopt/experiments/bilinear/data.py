"""The data of the bilinear study: inputs, a random network, and a function that makes it hard."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foldopt.experiments.bilinear.program import Bilinear, best_vertex
from foldopt.learning import Examples

__all__ = ["FEATURES", "difficulty", "draw", "split"]

FEATURES = 10
_SHIFT = 0.05


def difficulty(t: Tensor) -> Tensor:
    r"""h(s) = s cos 2s + 5/2 log(s / (s + 2)) + s² sin 4s, at s = \|t\| + 0.05, entry by entry.

    As printed h is taken at t, the output of tanh, and is not a number on [−2, 0]: half of them.
    The shift keeps the logarithm finite.

    Parameters
    ----------
    t
        Any shape.

    Returns
    -------
    Tensor
        Of the same shape.

    References
    ----------
    arXiv 2301.12047, Appendix E.1.

    Examples
    --------
    >>> difficulty(torch.tensor([0.0, -1.0])).isfinite().all()
    tensor(True)
    """
    s = t.abs() + _SHIFT
    return s * (2 * s).cos() + 2.5 * (s / (s + 2)).log() + s.square() * (4 * s).sin()


def draw(seed: int, samples: int, n: int) -> tuple[Bilinear, Examples]:
    """One problem: a matrix Q, and examples of inputs and the costs that follow from them.

    Inputs are uniform on [−2, 2]^10. A network of two layers, tanh after both, with weights and
    biases from N(0, 1/fan-in), and :func:`difficulty` make 2n costs of each, which are then
    standardised, each over all samples: the units of the problem, in which Q ~ N(0, 1).

    Parameters
    ----------
    seed
        Of everything here.
    samples
        How many examples, 2 at least.
    n
        The length of x, and of y.

    Returns
    -------
    Bilinear, Examples
        The problem, and its examples in float64, with their exact optima.

    Examples
    --------
    >>> objective, examples = draw(0, samples=8, n=3)
    >>> examples.features.shape, examples.truth.shape
    (torch.Size([8, 10]), torch.Size([8, 6]))
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    objective = Bilinear(normal(n, n))
    width = 2 * n
    inputs = 4 * torch.rand(samples, FEATURES, generator=random, dtype=torch.float64) - 2
    hidden = torch.tanh((inputs @ normal(FEATURES, width) + normal(width)) / math.sqrt(FEATURES))
    costs = difficulty(torch.tanh((hidden @ normal(width, width) + normal(width)) / width**0.5))
    costs = (costs - costs.mean(0)) / costs.std(0)
    return objective, Examples(inputs, costs, best_vertex(objective, costs))


def split(examples: Examples) -> tuple[Examples, Examples, Examples]:
    """Training, validation and test examples: the last tenth for the test, as in the paper.

    The tenth before it chooses the epoch; the paper mentions no such part, and has nine tenths to
    train on.
    """
    order = torch.arange(len(examples))
    tenth = len(examples) // 10
    learn = len(examples) - 2 * tenth
    parts = (order[:learn], order[learn : learn + tenth], order[learn + tenth :])
    learning, choosing, test = (examples.take(part) for part in parts)
    return learning, choosing, test
