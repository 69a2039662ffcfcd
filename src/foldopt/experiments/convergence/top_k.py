r"""Smooth top-k selection, the mapping on which the paper looks at unfolding (eq. 19).

    min_x  −cᵀx + ε Σ x_i log x_i   subject to  Σ x_i = k,  0 ≤ x ≤ 1.

The paper prints "+" before the entropy of a maximum, whose solution is a vertex; it is "−". Where
no bound is active x = k softmax(c/ε), elsewhere x_i = min(1, e^{(c_i − ν)/ε}).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

import foldopt as fo

__all__ = ["TopK"]


@dataclasses.dataclass(frozen=True)
class TopK:
    """The problem, its closed-form solution, and projected gradient descent on it.

    Parameters
    ----------
    k
        How many are selected, 1 ≤ k < n.
    epsilon
        ε > 0, the weight of the entropy.
    floor
        δ > 0: the step projects on x ≥ δ, since a projection on x ≥ 0 makes zeros, whose logarithm
        is not finite. No solution here comes near it.

    Examples
    --------
    >>> import torch
    >>> TopK(k=1).solve(torch.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    k: int = 5
    epsilon: float = 1.0
    floor: float = 1e-4

    def objective(self, x: Tensor, c: Tensor) -> Tensor:
        """One value for each sample; x and c are ``(*batch, n)``."""
        return (self.epsilon * x * x.log() - c * x).sum(-1)

    def solve(self, c: Tensor) -> Tensor:
        """x*, by bisection on ν to the last digit."""
        log_x = c / self.epsilon
        # Σ min(1, e^{(c − ν)/ε}) falls with ν; at these ends it is at least k, and at most k.
        low = log_x.amin(-1, keepdim=True) - 1.0
        high = torch.logsumexp(log_x, -1, keepdim=True) - math.log(self.k) + 1.0
        for _ in range(200):
            middle = (low + high) / 2
            above = (log_x - middle).clamp_max(0).exp().sum(-1, keepdim=True) > self.k
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        # Of what is left to rounding, the free components take their share.
        x = (log_x - (low + high) / 2).clamp_max(0).exp()
        free = x < 1
        left = self.k - torch.where(free, 0, x).sum(-1, keepdim=True)
        return torch.where(free, x * left / torch.where(free, x, 0).sum(-1, keepdim=True), x)

    def project(self, y: Tensor) -> Tensor:
        """The projection on δ ≤ x ≤ 1, Σx = k."""
        total = self.k - self.floor * y.shape[-1]
        shifted = fo.projections.capped_simplex(y - self.floor, total, 1 - self.floor)
        return shifted + self.floor

    def step(self, step_size: float) -> fo.steps.Step:
        """Projected gradient descent."""
        return fo.steps.projected_gradient(self.objective, self.project, step_size)

    def curvature(self, x: Tensor) -> Tensor:
        """The eigenvalues μ of the Hessian ε diag(1/x) on Σt = 0, ascending, for one x ``(n,)``.

        Components at the upper bound do not move. ρ(Φ) = max |1 − αμ| then.
        """
        free = x < 1 - 1e-12
        inner = x[free]
        count = len(inner)
        if count < 2:
            return inner.new_zeros(0)
        eye = torch.eye(count, dtype=x.dtype)
        tangent = torch.linalg.qr((eye - 1 / count)[:, : count - 1])[0]
        return torch.linalg.eigvalsh(tangent.T @ torch.diag(self.epsilon / inner) @ tangent)
