"""Anisotropic total variation of images: exact on the parts where x is constant.

Interior points (:mod:`foldopt.nn._total_variation.sparse`) give dual variables, these the parts,
and a duality gap certifies the solution on them. Where it does not, the accelerated method of
:func:`foldopt.operators.total_variation_2d` has its turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt._tree import Leaves
from foldopt.nn._total_variation.sparse import has_scipy, solve_one
from foldopt.operators._grid import differences
from foldopt.operators._variation_dual import Variation, on_pieces
from foldopt.operators._variation_dual import exact as on_parts_of
from foldopt.operators._variation_dual import solve as accelerated
from foldopt.solvers import _scipy
from foldopt.step import Step

__all__ = ["solver", "step"]

# ‖x − x*‖ relative to the spread of the image, guaranteed by a duality gap when the parts are
# found; on these x is exact.
_RTOL = 1e-7
_MAX_ITERATIONS = 20_000
_VARIATION = Variation(False, 0.0)
_WEAK = 1e-9


def step(event: tuple[int, ...]) -> Step:
    """The means over the parts of x, for images ``(H, W)`` that are flattened: Φ = 0."""

    def update(x: Tensor, d: Tensor, weight: Tensor) -> Tensor:
        grid = on_pieces(x.unflatten(-1, event), d.unflatten(-1, event), weight[..., None, None])
        return grid.flatten(-2)

    return Step(update, symmetric=True, newton=True, name="averaging over parts", bound=True)


def solver(
    event: tuple[int, ...],
) -> Callable[[Leaves, torch.dtype], tuple[Tensor, Tensor, Tensor]]:
    """x, the status, and where two pixels are only just in one part, or only just not."""

    def solve(tensors: Leaves, _dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        d, weight = tensors
        level = d.mean(-1, keepdim=True)  # takes no part, and would only cost digits
        flat = d - level
        # A weight above this joins all pixels, and has no more effect.
        most = 2 * flat.abs().sum(-1, keepdim=True)
        weight = torch.where(weight > most, torch.where(most == 0, 1, most), weight)
        images, weight = flat.unflatten(-1, event), weight[..., None, None]
        x, certain, weak = _by_interior_points(images, weight)
        status = torch.zeros(len(d), dtype=torch.int64)
        left = (~certain).nonzero().squeeze(-1)
        if len(left):
            own = images[left], weight[left]
            found = accelerated(_VARIATION, *own, _RTOL, _MAX_ITERATIONS)
            x[left], status[left] = on_pieces(found.x, *own), found.status
        return x.flatten(-2) + level, status, weak

    return solve


def _by_interior_points(images: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x; for which images it is certain, without scipy none; and which are weakly active.

    Of the many p of a part, interior points end in the middle. If even that is on its bound, the
    part only just holds together there.
    """
    count, height, width = images.shape
    none = torch.zeros(count, dtype=torch.bool)
    if not has_scipy():
        return images.clone(), none, none
    D, place = _grid_rows(height, width)
    p = torch.zeros(count, 2 * height * width, dtype=images.dtype)
    for image, (y, w) in enumerate(zip(images, weight.flatten().tolist(), strict=True)):
        u = solve_one(y.flatten().numpy(), np.full(len(place), w), D).u
        p[image, place] = torch.from_numpy(u)
    spread = torch.linalg.vector_norm(images, dim=(-2, -1))
    p = p.unflatten(-1, (2, height, width))
    x, distance = on_parts_of(_VARIATION, p, images, weight, _RTOL * spread)
    small = differences(x).abs() <= _WEAK * differences(images).abs().amax((-3, -2, -1), True)
    weak = small & (p.abs() >= (1 - _WEAK) * weight) & (weight > 0)
    return x, distance <= _RTOL * spread, weak.flatten(1).any(-1)


def _grid_rows(height: int, width: int) -> tuple[Any, Tensor]:
    """D of a grid as a sparse array, and where its rows are in the stack of all differences."""
    number = np.arange(height * width).reshape(height, width)
    pairs = ((number[:, :-1], number[:, 1:]), (number[:-1], number[1:]))
    first, second = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    m = len(first)
    entries = np.concatenate([-np.ones(m), np.ones(m)])
    at = np.tile(np.arange(m), 2), np.concatenate([first, second])
    D = _scipy.sparse.csr_matrix((entries, at), shape=(m, height * width))
    place = np.concatenate([pairs[0][0].ravel(), height * width + pairs[1][0].ravel()])
    return D, torch.from_numpy(place)
