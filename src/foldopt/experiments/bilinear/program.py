"""The bilinear program: its exact solution, its smoothed solution, and the layer folded over that.

max cᵀx + xᵀQy + dᵀy over 0 ≤ x, y ≤ 1, Σx = 1, Σy = 2. For fixed y it is linear in x, and the
other way round, so that some optimum is a vertex: x one unit vector, y the sum of two. Such a
decision does not move with c and d, and its derivative is zero wherever it exists. Nothing can be
learned through it. Hence a layer maximises the same less (ε/2)(‖x‖² + ‖y‖²).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

import foldopt as fo
from foldopt.projections import capped_simplex, simplex
from foldopt.solvers.global_qp import GlobalQP

__all__ = [
    "GAP",
    "Bilinear",
    "Forward",
    "best_vertex",
    "bilinear_layer",
    "search",
    "solve_globally",
]

CHOSEN = 2  # Σy; Σx is 1
Forward = Literal["ascent", "scip", "gurobi"]

# A search follows many starts for a few rounds, and then the best of them for as long as it takes.
_SHORT, _KEPT, _TRIES = 5, 6, 8
_RESIDUAL = 1e-9
# The bound that SCIP proves is as tight as its tolerances allow: often 1.5e-6, and no better. The
# solution itself, once polished, is exact.
GAP = 1e-5


@dataclasses.dataclass(frozen=True)
class Bilinear:
    r"""The negative of :math:`c^\top x + x^\top Q y + d^\top y`, to be minimised.

    Parameters
    ----------
    Q
        Shape ``(n, n)``, float64.

    Examples
    --------
    >>> f = Bilinear(torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
    >>> z, costs = torch.tensor([[1.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.5, 0.0, 1.0, 0.0]])
    >>> f(z, costs)
    tensor([-4.5000])
    """

    Q: Tensor

    @property
    def n(self) -> int:
        """The length of x, and of y."""
        return self.Q.shape[-1]

    def __call__(self, z: Tensor, costs: Tensor) -> Tensor:
        """The values at z = (x, y) for costs = (c, d), both of shape ``(*batch, 2 n)``."""
        x, y = z.split(self.n, -1)
        return -(costs * z).sum(-1) - ((x @ self.Q) * y).sum(-1)

    def smoothed(self, z: Tensor, costs: Tensor, epsilon: float) -> Tensor:
        """The same plus (ε/2)‖z‖²."""
        return self(z, costs) + 0.5 * epsilon * z.square().sum(-1)

    def hessian(self, epsilon: float) -> Tensor:
        """Of :meth:`smoothed` in z, shape ``(2 n, 2 n)``."""
        H = epsilon * torch.eye(2 * self.n, dtype=self.Q.dtype)
        H[: self.n, self.n :], H[self.n :, : self.n] = -self.Q, -self.Q.T
        return H


def best_vertex(objective: Bilinear, costs: Tensor) -> Tensor:
    """The exact optimum of the bilinear program, which lies at a vertex.

    For x the unit vector i, y takes the two largest of ``Q[i] + d``; so the optimum is that of n
    numbers, each from one sort.

    Parameters
    ----------
    objective
        The program.
    costs
        (c, d), shape ``(B, 2 n)``.

    Returns
    -------
    Tensor
        z = (x, y), of the same shape.

    Examples
    --------
    >>> f = Bilinear(torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    >>> best_vertex(f, torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.0, 0.0]]))
    tensor([[1., 0., 0., 1., 1., 0.]])
    """
    c, d = costs.detach().split(objective.n, -1)
    largest = (objective.Q + d.unsqueeze(-2)).topk(CHOSEN, -1)
    which = (c + largest.values.sum(-1)).argmax(-1)
    x = torch.nn.functional.one_hot(which, objective.n).to(costs.dtype)
    of_best = largest.indices[torch.arange(len(which)), which]
    return torch.cat([x, torch.zeros_like(x).scatter_(-1, of_best, 1.0)], -1)


def search(objective: Bilinear, costs: Tensor, epsilon: float) -> fo.Solution:
    r"""Look for the optimum of the smoothed program from all of its vertices: a *local* method.

    For fixed y the best x is a projection, :math:`x = P_X((c + Qy)/\varepsilon)`, and the other
    way round: the two take turns, which raises the objective in every round. What both leave alone
    is a point that meets the first-order conditions. Each unit vector x and each vertex y is a
    start. The best points go on, polished by Newton's method on their faces every few rounds, until
    all of them are stationary, and the best one is returned. There is no proof that it is the best
    of all; :func:`solve_globally` has one.

    Parameters
    ----------
    objective
        The program.
    costs
        (c, d), shape ``(B, 2 n)``, float64.
    epsilon
        ε ≥ 0; for 0 it is :func:`best_vertex` that answers, and exactly.

    Returns
    -------
    Solution
        z, shape ``(B, 2 n)``, and the status of each sample: INACCURATE where its best point
        meets the first-order conditions worse than to 1e-9.
    """
    costs = costs.detach()
    if epsilon == 0:
        return fo.Solution(best_vertex(objective, costs), torch.zeros(len(costs)).long())
    n, Q = objective.n, objective.Q
    given = costs.unsqueeze(1)
    c, d = given.split(n, -1)

    def best_x(y: Tensor) -> Tensor:
        return simplex((c + y @ Q.T) / epsilon)

    def best_y(x: Tensor) -> Tensor:
        return capped_simplex((d + x @ Q) / epsilon, CHOSEN, 1.0)

    def climb(x: Tensor, rounds: int) -> Tensor:
        for _ in range(rounds):
            y = best_y(x)
            x = best_x(y)
        return torch.cat([x, best_y(x)], -1)

    units = torch.eye(n, dtype=Q.dtype)
    pairs = torch.stack([units[list(p)].sum(0) for p in itertools.combinations(range(n), CHOSEN)])
    starts = torch.cat([units.expand(len(costs), -1, -1), best_x(pairs)], 1)
    z = climb(starts, _SHORT)
    best = objective.smoothed(z, given, epsilon).topk(min(_KEPT, z.shape[1]), 1, largest=False)
    z = z.gather(1, best.indices.unsqueeze(-1).expand(-1, -1, 2 * n))
    for _ in range(_TRIES):
        z = climb(z[..., :n], _SHORT)
        z = _better(objective, given, epsilon, z, _newton(objective, given, epsilon, z))
        if bool((_residual(objective, given, epsilon, z) <= _RESIDUAL).all()):
            break
    first = objective.smoothed(z, given, epsilon).argmin(1)
    z = z[torch.arange(len(z)), first]
    off = _residual(objective, costs, epsilon, z) > _RESIDUAL
    status = torch.where(off, int(fo.Status.INACCURATE), int(fo.Status.CONVERGED))
    return fo.Solution(z, status)


def _residual(objective: Bilinear, costs: Tensor, epsilon: float, z: Tensor) -> Tensor:
    """How far a projected gradient step of size 1 moves z: 0 where first-order conditions hold."""
    n, gradient = objective.n, z @ objective.hessian(epsilon) - costs
    x, y = (z - gradient).split(n, -1)
    moved = torch.cat([simplex(x), capped_simplex(y, CHOSEN, 1.0)], -1)
    return (moved - z).abs().amax(-1)


def _newton(objective: Bilinear, costs: Tensor, epsilon: float, z: Tensor) -> Tensor:
    """The stationary point on the face of z: entries at a bound stay, the others solve (KKT)."""
    n, size = objective.n, 2 * objective.n
    free = (z > 1e-7) & (z < 1 - 1e-7)
    # A lone free entry is fixed by its sum; and so are, in truth, all rows without a free entry.
    blocks = torch.kron(torch.eye(2, dtype=z.dtype), torch.ones(1, n, dtype=z.dtype))
    rows = blocks * free.unsqueeze(-2).to(z.dtype)
    K = torch.zeros(*z.shape[:-1], size + 2, size + 2, dtype=z.dtype)
    both = free.unsqueeze(-1) & free.unsqueeze(-2)
    K[..., :size, :size] = torch.where(both, objective.hessian(epsilon), 0)
    K[..., :size, :size] += torch.diag_embed((~free).to(z.dtype))
    K[..., size:, :size], K[..., :size, size:] = rows, rows.mT
    K[..., size:, size:] = torch.diag_embed((rows.sum(-1) == 0).to(z.dtype))
    gradient = z @ objective.hessian(epsilon) - costs
    right = torch.cat([torch.where(free, -gradient, 0), torch.zeros_like(z[..., :2])], -1)
    step, failed = torch.linalg.solve_ex(K, right.unsqueeze(-1))
    moved = z + step.squeeze(-1)[..., :size]
    return torch.where((failed == 0).unsqueeze(-1), moved, z)


def _better(objective: Bilinear, costs: Tensor, epsilon: float, old: Tensor, new: Tensor) -> Tensor:
    """For each point the new one, where it is feasible and meets the conditions better."""
    feasible = ((new >= -1e-12) & (new <= 1 + 1e-12)).all(-1)
    closer = _residual(objective, costs, epsilon, new) < _residual(objective, costs, epsilon, old)
    return torch.where((feasible & closer).unsqueeze(-1), new.clamp(0, 1), old)


def solve_globally(
    objective: Bilinear, costs: Tensor, epsilon: float, solver: GlobalQP | None = None
) -> fo.Solution:
    """The smoothed program (or, for ε = 0, the bilinear one) by spatial branch and bound.

    Parameters
    ----------
    objective, costs, epsilon
        As for :func:`search`.
    solver
        Whose it is; None: SCIP, to a gap of 1e-5, relative or absolute.

    Returns
    -------
    Solution
        z, shape ``(B, 2 n)``, statuses and proved gaps.
    """
    n = objective.n
    sums = torch.kron(torch.eye(2, dtype=costs.dtype), torch.ones(1, n, dtype=costs.dtype))
    totals = torch.tensor([1, CHOSEN], dtype=costs.dtype)
    solver = GlobalQP(gap=GAP, atol=GAP) if solver is None else solver
    return solver(
        objective.hessian(epsilon), -costs.detach(), A=sums, b=totals, lower=0.0, upper=1.0
    )


def bilinear_layer(
    objective: Bilinear,
    epsilon: float,
    solve: Callable[[Bilinear, Tensor, float], fo.Solution] = search,
    on_failure: Literal["raise", "warn", "mask"] = "raise",
) -> fo.nn.FoldedOptimizer:
    """The smoothed program as a layer: (c, d) ↦ z, folded by projected gradient (f-PGDb).

    Parameters
    ----------
    objective, epsilon
        The program.
    solve
        Who solves it: :func:`search`, or :func:`solve_globally`.
    on_failure
        As for :func:`~foldopt.fold`: what to do about samples without a derivative.

    Returns
    -------
    FoldedOptimizer
        ``layer(costs) -> z``, both of shape ``(B, 2 n)``.

    Examples
    --------
    >>> f = Bilinear(torch.zeros(3, 3, dtype=torch.float64))
    >>> costs = torch.tensor([[0.2, 0.0, -9.0, 0.3, 0.0, 0.0]]).double().requires_grad_()
    >>> z = bilinear_layer(f, epsilon=1.0)(costs)
    >>> z.round(decimals=4)
    tensor([[0.6000, 0.4000, 0.0000, 0.8667, 0.5667, 0.5667]], ...)
    >>> z[0, 0].backward()
    >>> costs.grad.round(decimals=4) + 0
    tensor([[ 0.5000, -0.5000,  0.0000,  0.0000,  0.0000,  0.0000]], dtype=torch.float64)
    """
    n = objective.n

    # x ≤ 1 follows from Σx = 1 and x ≥ 0, and would only make the rows of a vertex dependent.
    # The projection is left to f-PGDb. By sorting it is faster, but of the multipliers at a vertex
    # y, which are not unique, it has to pick some; every choice tried left out more samples.
    return fo.nn.f_pgd_b(
        lambda z, costs: objective.smoothed(z, costs, epsilon),
        inequality=lambda z, costs: [-z, z[n:] - 1],
        equality=lambda z, costs: [z[:n].sum().reshape(1) - 1, z[n:].sum().reshape(1) - CHOSEN],
        solver=lambda costs: solve(objective, costs, epsilon),
        options=fo.nn.Options(on_failure=on_failure),
    )
