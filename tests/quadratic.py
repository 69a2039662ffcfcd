"""Random quadratic programs, and solvers of them that know nothing of this library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import qpsolvers
import torch
from scipy import sparse
from torch import Tensor

from foldopt.operators import PrimalDual

F64 = torch.float64
Blocks = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

PIQP = {"solver": "piqp", "eps_abs": 1e-13, "eps_rel": 1e-13}
CLARABEL = {"solver": "clarabel", "tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}


def random_program(
    *batch: int, n: int = 4, m: int = 6, k: int = 1, generator: torch.Generator | None = None
) -> Blocks:
    """(Q, p, G, h, A, b), strongly convex, with a point x₀ that is strictly feasible."""

    def rand(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, dtype=F64, generator=generator)

    R, x0 = rand(n, n), rand(n)
    Q = torch.eye(n, dtype=F64) + R @ R.mT / n
    G, A = rand(m, n), rand(k, n)
    h = apply(G, x0) + 0.1 + rand(m).abs()
    return Q, 3 * rand(n), G, h, A, apply(A, x0)


def apply(M: Tensor, v: Tensor) -> Tensor:
    return (M @ v.unsqueeze(-1)).squeeze(-1)


def with_bounds(G: Tensor, h: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The rows G, h and those of lower ≤ x ≤ upper, which may be infinite."""
    eye = torch.eye(G.shape[-1], dtype=G.dtype).expand(*G.shape[:-2], *[G.shape[-1]] * 2)
    return torch.cat([G, eye, -eye], -2), torch.cat([h, upper, -lower], -1)


def solve(*blocks: Tensor, options: dict[str, Any] = PIQP) -> PrimalDual:
    """The solution and its multipliers, sample by sample, polished by a KKT solve."""
    batch = blocks[1].shape[:-1]
    rows = [
        block.detach().expand(*batch, *block.shape[block.dim() - event :]).flatten(0, -event - 1)
        if batch
        else block.detach().unsqueeze(0)
        for block, event in zip(blocks, (2, 1, 2, 1, 2, 1), strict=True)
    ]
    found = [_one(*(row[i].numpy() for row in rows), options=options) for i in range(len(rows[1]))]
    parts = zip(*found, strict=True)
    return PrimalDual(*(torch.tensor(np.stack(part)).reshape(*batch, -1) for part in parts))


def _one(
    Q: np.ndarray, p: np.ndarray, G: np.ndarray, h: np.ndarray, A: np.ndarray, b: np.ndarray,
    options: dict[str, Any],
) -> list[np.ndarray]:  # fmt: skip
    finite = np.isfinite(h)
    rows = ((G[finite], h[finite]), (A, b))
    wrap: Any = sparse.csc_matrix if options["solver"] == "clarabel" else np.asarray
    given: list[Any] = [
        part for J, r in rows for part in ((wrap(J), r) if len(r) else (None, None))
    ]
    held, z = np.zeros(len(h), dtype=bool), np.zeros(len(h))
    if finite.any() or len(b):
        solution: Any = qpsolvers.solve_problem(qpsolvers.Problem(wrap(Q), p, *given), **options)
        assert solution.found
        z[finite] = solution.z if finite.any() else []
        held = z > np.where(finite, h - G @ solution.x, np.inf)
    # In units that bring Q and the rows to size one.
    J = np.concatenate([G[held], A])
    size, length = np.abs(Q).max() or 1, np.linalg.norm(J, axis=1)
    length[length == 0] = 1
    J = J / length[:, None]
    K = np.block([[Q / size, J.T], [J, np.zeros((len(J), len(J)))]])
    right = np.concatenate([-p / size, np.concatenate([h[held], b]) / length])
    exact = np.linalg.lstsq(K, right, rcond=1e-12)[0]
    x, y = exact[: len(p)], exact[len(p) :] * size / length
    z[held], z[~held] = y[: held.sum()], 0
    assert np.abs(A @ x - b).max(initial=0) < 1e-9 * (1 + np.abs(x).max(initial=0))
    assert (G @ x - h).max(initial=0) < 1e-9 * (1 + np.abs(x).max(initial=0))
    assert z.min(initial=0) > -1e-9 * (1 + z.max(initial=0))
    return [x, z, y[held.sum() :]]


@dataclasses.dataclass(frozen=True)
class Direction:
    """A random direction in one of the params, and what moves along it."""

    function: Callable[..., Tensor]
    params: tuple[Tensor, ...]
    of: int

    def difference(self, step: float = 1e-5) -> tuple[Tensor, Tensor]:
        """The direction d, and the central difference of the function along it."""
        d = torch.randn_like(self.params[self.of].detach())
        ends = []
        for sign in (1, -1):
            moved = [param.detach() for param in self.params]
            moved[self.of] = moved[self.of] + sign * step * d
            ends.append(self.function(*moved))
        return d, (ends[0] - ends[1]) / (2 * step)


def assert_slopes(
    function: Callable[..., Tensor], value: Tensor, params: tuple[Tensor, ...], atol: float = 1e-6
) -> None:
    """∂value/∂params agrees with the differences of ``function``, in random directions.

    ``function`` is any solver of the same problem: the params' own graph plays no part in it.
    """
    weights = torch.randn_like(value)
    wanted = [index for index, param in enumerate(params) if param.requires_grad and param.numel()]
    grads = torch.autograd.grad(
        (weights * value).sum(), [params[index] for index in wanted], retain_graph=True
    )
    for index, grad in zip(wanted, grads, strict=True):
        d, slope = Direction(function, params, index).difference()
        found, exact = (grad * d).sum(), (weights * slope).sum()
        assert abs(float(found - exact)) < atol * (1 + abs(float(exact))), index
