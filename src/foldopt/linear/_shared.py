"""Rows of Φ that the samples share, computed once for all of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from foldopt.jacobian import StepJacobian

# Sharing pays once it saves this factor in products.
_WORTH = 2


def shared_rows(jacobian: StepJacobian, probe: Tensor, k: int) -> Tensor | None:
    """H of shape ``(n, n)`` such that every row of every sample's Φ is a row of H or zero.

    Where a batch shares its problem's matrices, as in a lasso with one design matrix or a
    quadratic with one Hessian, Φ = D H with a mask D for each sample and one H for all. A product
    with Φᵀ then has room for B different rows of H, one in each sample: n/B products instead of n.

    Whether the rows are shared shows in one product with a generic vector: (Φ r)_i must be the
    same number in each sample where it is not zero. Rows that differ, but agree on this one r, do
    not occur but by construction; and the residual of the solve, from products with the true Φ,
    would tell.

    Parameters
    ----------
    probe
        Φ r, shape ``(B, n)``, for an r that is the same in each sample.
    k
        The largest number of nonzero rows in a sample, which is what the usual way would cost.

    Returns
    -------
    Tensor or None
        H, with zero rows where no sample has a row; None where there is nothing to share.
    """
    samples, n = probe.shape
    if samples < 2 * _WORTH:
        return None
    live = probe != 0
    low = torch.where(live, probe, torch.inf).amin(0)
    high = torch.where(live, probe, -torch.inf).amax(0)
    limit = 64 * n**0.5 * torch.finfo(probe.dtype).eps * probe.abs().amax()
    if not bool((high - low <= limit).all()):  # −inf where no sample is live
        return None
    # Give each row to a sample in which it is live, the least busy one: its turn is the number of
    # rows that this sample has already.
    lives = live.cpu().numpy()
    load = np.zeros(samples, dtype=np.int64)
    rows, owners, turns = [], [], []
    for row in np.flatnonzero(lives.any(0)):
        owner = int(np.where(lives[:, row], load, np.iinfo(np.int64).max).argmin())
        rows.append(row)
        owners.append(owner)
        turns.append(load[owner])
        load[owner] += 1
    rounds = int(load.max())
    if _WORTH * rounds > k:
        return None
    row, owner, turn = (
        torch.tensor(np.array(values, dtype=np.int64), device=probe.device)
        for values in (rows, owners, turns)
    )
    unit = probe.new_zeros(rounds, samples, n)
    unit[turn, owner, row] = 1
    found = probe.new_zeros(n, n)
    found[row] = jacobian.vjp(unit)[turn, owner]
    return found
