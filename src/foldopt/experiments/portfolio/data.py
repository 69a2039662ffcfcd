"""Returns to predict, with the risk that goes with them: synthetic, and from real prices."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from foldopt.experiments.market import load_sp500, observe

__all__ = ["Instances", "chronological", "sp500", "synthetic"]

_FACTORS = 4  # as coded by Elmachtoub and Grigas


@dataclasses.dataclass(frozen=True)
class Instances:
    """N decisions on n assets.

    Attributes
    ----------
    features
        What is known, shape ``(N, ...)``.
    returns
        r, what is to be predicted, shape ``(N, n)``.
    covariance
        V, positive definite, shape ``(N, n, n)``.
    risk
        γ, the most that xᵀVx may be, shape ``(N,)``.
    """

    features: Tensor
    returns: Tensor
    covariance: Tensor
    risk: Tensor

    def __len__(self) -> int:
        return len(self.returns)

    def between(self, first: int, last: int) -> Instances:
        """The decisions from number ``first`` up to, but not with, number ``last``."""
        part = slice(first, last)
        return Instances(
            self.features[part], self.returns[part], self.covariance[part], self.risk[part]
        )


def synthetic(
    count: int,
    *,
    degree: int,
    noise: float,
    assets: int = 20,
    inputs: int = 5,
    risk: float = 2.25,
    seed: int = 0,
) -> Instances:
    r"""Draw decisions as Elmachtoub and Grigas code it.

    With B of zeros and ones, L uniform in ±0.0025τ with 4 columns, a ∼ N(0, I) the features, and
    f ∼ N(0, I) and e ∼ N(0, I),

    .. math:: r = \left(\tfrac{0.05}{\sqrt p} B a + 0.1^{1/d}\right)^d + L f + 0.01 \tau e, \quad
        V = L L^\top + (0.01 \tau)^2 I, \quad \gamma = 2.25\, \bar e^\top V \bar e, \quad
        \bar e = 1/n.

    Parameters
    ----------
    count
        N.
    degree
        d ≥ 1: how far from linear the mean return is in the features.
    noise
        τ > 0, the size of the noise, and of the risk with it.
    assets, inputs
        n and p.
    risk
        γ in units of the risk of equal weights.
    seed
        Of everything drawn: B and L too.

    Returns
    -------
    Instances
        In float64; all decisions share V and γ.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    A. Elmachtoub and P. Grigas, Management Science 68 (2022), 9–26, section 6.2 (its γ); arXiv
    2301.12047, section 6.

    Examples
    --------
    >>> data = synthetic(3, degree=2, noise=1.0)
    >>> tuple(data.features.shape), tuple(data.returns.shape)
    ((3, 5), (3, 20))
    """
    for name, value in {
        "count": count,
        "degree": degree,
        "assets": assets,
        "inputs": inputs,
    }.items():
        if value < 1:
            raise ValueError(f"synthetic: {name} must be at least 1, got {value}")
    if not (noise > 0 and risk > 0):
        raise ValueError(f"synthetic: noise and risk must be above 0, got {noise} and {risk}")
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    B = torch.randint(0, 2, (assets, inputs), generator=random).double()
    L = 0.0025 * noise * (2 * torch.rand(assets, _FACTORS, generator=random).double() - 1)
    a = normal(count, inputs)
    mean = (0.05 / math.sqrt(inputs) * a @ B.mT + 0.1 ** (1 / degree)) ** degree
    returns = mean + normal(count, _FACTORS) @ L.mT + 0.01 * noise * normal(count, assets)
    V = L @ L.mT + (0.01 * noise) ** 2 * torch.eye(assets, dtype=torch.float64)
    return Instances(a, returns, V.expand(count, assets, assets), (risk * V.mean()).expand(count))


def sp500(*, risk: float = 1.0, holding: int = 5, window: int = 250) -> Instances:
    r"""Weekly decisions on 20 stocks, 1991–2022: lagged returns, and the trailing covariance as V.

    Parameters
    ----------
    risk
        γ in units of the risk of equal weights on that day.
    holding, window
        See :func:`~foldopt.experiments.market.observe`.

    Returns
    -------
    Instances
        In the order of time; features ``(N, 20, 5)``, returns in percent.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    if not risk > 0:
        raise ValueError(f"sp500: risk must be above 0, got {risk}")
    market = observe(*load_sp500(), holding=holding, window=window)
    V = market.covariance
    return Instances(market.features, market.realised, V, risk * V.mean((-2, -1)))


def chronological(
    data: Instances, train: float = 0.6, validation: float = 0.2
) -> tuple[Instances, ...]:
    """Cut decisions, in their order, into training, validation and test.

    Parameters
    ----------
    data
        At least one decision for each part.
    train, validation
        Shares; the rest is for the test.

    Returns
    -------
    tuple
        Three parts.

    Raises
    ------
    ValueError
        If a part would be empty.

    Examples
    --------
    >>> [len(part) for part in chronological(synthetic(10, degree=1, noise=1.0))]
    [6, 2, 2]
    """
    first, second = round(train * len(data)), round((train + validation) * len(data))
    if not 0 < first < second < len(data):
        raise ValueError(
            f"chronological: {len(data)} decisions, shares {train} and {validation}: the parts "
            f"would hold {first}, {second - first} and {len(data) - second}; none may be empty"
        )
    return data.between(0, first), data.between(first, second), data.between(second, len(data))
