"""Total variation of sequences: first differences, each with its own weight.

With u the multipliers of the jumps (Dx)ᵢ = xᵢ₊₁ − xᵢ, the optimality conditions are

    x = d − Dᵀu,    uᵢ = wᵢ sign (Dx)ᵢ where (Dx)ᵢ ≠ 0,    |uᵢ| ≤ wᵢ elsewhere.

Given at which places x jumps, and in which direction, x is constant between them, and its height on
the block B is that of the mean of d − Dᵀu there, to which only the jumps at the ends of B count:

    x_B = (Σ_B dᵢ + u_right − u_left) / |B|.

The u between follow from a running sum of x − d. So one look at all blocks, in O(n), tells where
the choice was wrong: a jump goes against its direction, and its two blocks are joined; or
|uᵢ| > wᵢ, and there x is to jump. Repeated for all places at once this is the semismooth Newton
method on the dual. It needs ten to thirty rounds; a search that always ends takes over if it goes
in circles.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from foldopt._operator import block_means
from foldopt.linear import LinearOperator, LinearSolution
from foldopt.prox._variation import above
from foldopt.status import Status

__all__ = ["Averaging", "multipliers", "solve", "update"]

_ROUNDS = 100
# |u| beyond w by less than this, relative to the numbers that make it up, is rounding.
_ROUNDING = 1e-12
_WEAK = 1e-9


def update(x: Tensor, d: Tensor, weight: Tensor) -> Tensor:
    """The solution with the blocks and the jumps of x ``(B, n)``; as a step it has Φ = 0."""
    jump = x.detach().diff(dim=-1)
    joined = (jump == 0) & (weight.detach() > 0)
    u = pad(weight * jump.sign(), (1, 1))
    return block_means(d + u[..., 1:] - u[..., :-1], pad(~joined, (1, 0), value=True))


def multipliers(x: Tensor, d: Tensor) -> Tensor:
    """u ``(B, n − 1)``: uᵢ − uᵢ₋₁ = xᵢ − dᵢ."""
    return (x - d).cumsum(-1)[..., :-1]


class Averaging:
    """(I − Φᵀ) v = g for a step with Φ = 0: v = g."""

    def solve(self, operator: LinearOperator, b: Tensor) -> LinearSolution:
        """v for right-hand sides ``(*lead, B, n)``."""
        residual = torch.zeros(b.shape[:-1], dtype=b.dtype, device=b.device)
        status = torch.zeros(b.shape[:-1], dtype=torch.int64, device=b.device)
        if bool(torch.isfinite(b.sum())):
            return LinearSolution(b, status, status, residual, "averaging", True)
        bad = ~torch.isfinite(b).all(-1)
        found = torch.where(bad, int(Status.NONFINITE), status)
        return LinearSolution(b, found, status, residual, "averaging", not bool(bad.any()))


def solve(d: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The solution of float64 signals on the CPU, exactly constant on each block.

    Parameters
    ----------
    d
        ``(B, n)``.
    weight
        ``(B, 1)`` or ``(B, n − 1)``.

    Returns
    -------
    x, weak
        ``(B, n)``, and ``(B,)``: the samples where a jump is only just there, or only just not.
    """
    count, n = d.shape
    if n == 1 or not count:
        return d.clone(), torch.zeros(count, dtype=torch.bool)
    # One sequence of all samples, with a jump that costs nothing from each to the next. The level
    # of a sample takes no part, and would only cost digits.
    level = d.mean(-1, keepdim=True)
    flat = (d - level).numpy().ravel()
    w = np.zeros((count, n))
    w[:, :-1] = weight.numpy()
    edges = w.ravel()[:-1]
    x, u, wrong = _newton(flat, edges)
    if len(wrong):
        # In circles, from here on by cuts: for the samples where a place still changes.
        left = np.unique(np.minimum(wrong // n, count - 1))
        rows = x.reshape(count, n)
        exact = _by_cuts(
            torch.from_numpy(flat.reshape(count, n)[left]), torch.from_numpy(w[left, :-1])
        )
        rows[left] = exact.numpy()
        u = np.cumsum(x - flat)[:-1]
    weak = _weak(x, u, edges, flat)
    samples = np.zeros(count, dtype=bool)
    samples[np.minimum(weak // n, count - 1)] = True
    return torch.from_numpy(x).reshape(count, n) + level, torch.from_numpy(samples)


def _newton(d: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, u, and the places where the choice of jumps has not come to rest."""
    zero = w == 0
    free_of_charge = bool(zero.any())
    bound = w + _ROUNDING * (w + np.abs(d).max(initial=0.0))
    signs = np.sign(np.diff(d)).astype(np.int8)
    if free_of_charge:
        signs[zero] = 1  # a block ends there, whatever the sign
    rounds = 0
    while True:
        rounds += 1
        place = np.flatnonzero(signs)
        held = signs[place]
        pull = w[place] * held
        begins = np.concatenate([[0], place + 1])
        size = np.diff(begins, append=len(d))
        heights = np.add.reduceat(d, begins)
        heights[:-1] += pull
        heights[1:] -= pull
        heights /= size
        x = np.repeat(heights, size)
        u = np.cumsum(x - d)[:-1]
        u[place] = pull
        new = np.where(np.abs(u) > bound, np.sign(u), 0).astype(np.int8)
        stays = np.diff(heights) * held > 0
        if free_of_charge:
            stays |= zero[place]
        new[place] = np.where(stays, held, 0)
        wrong = np.flatnonzero(new != signs)
        if not len(wrong) or rounds >= _ROUNDS:
            return x, u, wrong
        signs = new


def _by_cuts(y: Tensor, w: Tensor) -> Tensor:
    """x by splitting blocks, as :func:`foldopt.prox.total_variation` does: slower, and always ends.

    A block at its mean t falls apart where the cut with two labels, above t and below, changes.
    """
    cut = w == 0
    jump = torch.where(cut, y.diff(dim=-1).sign(), 0)
    while True:
        first, pull = pad(cut, (1, 0), value=True), pad(w * jump, (1, 1))
        z = y + pull[..., 1:] - pull[..., :-1]
        x = block_means(z, first)
        s = above(z - x, pad(torch.where(cut, 0, w), (0, 1)))
        new = (s[..., 1:] != s[..., :-1]) & ~cut
        if not bool(new.any()):
            return x
        cut = cut | new
        jump = torch.where(new, torch.where(s[..., 1:], 1, -1).to(y.dtype), jump)


def _weak(x: np.ndarray, u: np.ndarray, w: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The places that are weakly active: no jump and |u| = w, or a jump of nearly nothing."""
    jump = np.abs(np.diff(x))
    tight = np.abs(u) >= (1 - _WEAK) * w
    return np.flatnonzero(tight & (w > 0) & (jump <= _WEAK * np.abs(d).max(initial=0.0)))
