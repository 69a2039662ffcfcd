"""The step of a sparse quadratic program: that of :mod:`foldopt.nn._qp.step`, on values."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from foldopt.nn._qp.sparse.matrix import Pattern, product

__all__ = ["Point", "Update"]


class Point(NamedTuple):
    """x and the multipliers: λ ``(B, m)``, ν ``(B, k)``, μ ``(B, n)`` or ``(B, 0)``."""

    x: Tensor
    inequality: Tensor
    equality: Tensor
    bounds: Tensor


@dataclasses.dataclass(frozen=True)
class Update:
    """U(z, c) = z − F(z, c), where F = 0 are the optimality conditions on the active rows.

    Attributes
    ----------
    Q, G, A
        Where the entries stand whose values are params.
    regularization
        ε of the term (ε/2)‖x‖².
    """

    Q: Pattern
    G: Pattern
    A: Pattern
    regularization: float

    def __call__(
        self,
        z: Point,
        Q: Tensor,
        p: Tensor,
        G: Tensor,
        h: Tensor,
        A: Tensor,
        b: Tensor,
        lower: Tensor,
        upper: Tensor,
        fixed: Tensor,
        *_infinite: Tensor,
    ) -> Point:
        """The next z; limits that are infinite come as any number, for they are never active."""
        x, lam, nu, mu = z
        # Of a Q that is not symmetric xᵀQx sees the symmetric part, which so gets the gradient.
        gradient = (product(self.Q, Q, x) + product(self.Q.mT, Q, x)) / 2 + p
        if self.regularization:
            gradient = gradient + self.regularization * x
        if lam.shape[-1]:
            active = lam > 0
            lam_next = torch.where(active, lam - (product(self.G, G, x) - h), 0)
            gradient = gradient + product(self.G.mT, G, torch.where(active, lam, 0))
        else:
            lam_next = lam
        if nu.shape[-1]:
            gradient = gradient + product(self.A.mT, A, nu)
            nu_next = nu - (product(self.A, A, x) - b)
        else:
            nu_next = nu
        if mu.shape[-1]:
            active = (mu != 0) | fixed
            bound = torch.where((mu > 0) | fixed, upper, torch.where(mu < 0, lower, 0))
            mu_next = torch.where(active, mu - (x - bound), 0)
            gradient = gradient + torch.where(active, mu, 0)
        else:
            mu_next = mu
        return Point(x - gradient, lam_next, nu_next, mu_next)
