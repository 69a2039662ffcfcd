"""Smooth top-k in closed form: both entropies, and what is wrong with data that have none."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foldopt import _calculus as calculus
from foldopt.status import Status

__all__ = ["binary", "entropy", "faults", "messages"]

_SEARCH = 80
_NEWTON = 2
# In units of τ: the Newton steps that follow square it.
_NEAR = 1e-6
# What is smaller than this beside 1, or beside τ, is zero.
_ZERO = 1e-9

WEAK = "an entry only just reaches 1: the derivative is one element of the generalized Jacobian"


def faults(scores: Tensor, k: Tensor, tau: Tensor, whole: bool) -> list[tuple[str, Status]]:
    """What is wrong with the numbers of each sample, "" for nothing, and its status.

    Parameters
    ----------
    scores, k, tau
        ``(*batch, n)``, and ``(*batch, 1)`` or one for all.
    whole
        Whether k may be n.
    """
    batch, n = scores.shape[:-1], scores.shape[-1]

    def each(value: Tensor) -> list[float]:
        return value.detach().expand(*batch, 1).flatten().tolist()

    found = []
    numbers = scores.detach().reshape(-1, n)
    for i, (count, temperature) in enumerate(zip(each(k), each(tau), strict=True)):
        bad = torch.nonzero(~torch.isfinite(numbers[i])).flatten().tolist()
        if not (0 < count <= n and (whole or count < n)):
            limit = "at most" if whole else "below"
            text = f"k must be above 0 and {limit} n = {n}, got {count}"
            found.append((text, Status.INFEASIBLE))
        elif not 0 < temperature < math.inf:
            text = f"temperature must be above 0 and finite everywhere, got {temperature}"
            found.append((text, Status.NONFINITE))
        elif bad:
            sample = [int(j) for j in torch.unravel_index(torch.tensor(i), batch)]
            text = (
                f"scores hold {float(numbers[i, bad[0]])} at {(*sample, bad[0])}. Look at where "
                "they come from: a network that has diverged, or missing data"
            )
            found.append((text, Status.NONFINITE))
        else:
            found.append(("", Status.CONVERGED))
    return found


def messages(
    x: Tensor, upper: Tensor, k: Tensor, tau: Tensor, said: tuple[str, ...]
) -> tuple[str, ...]:
    """What there is to say of each sample: what is wrong, or that a derivative is one-sided."""
    weak = (x >= 1 - _ZERO) & (upper <= _ZERO * tau) & (k < x.shape[-1])
    if not said and not bool(weak.any()):
        return ()
    texts = [WEAK if one else "" for one in weak.any(-1).flatten().tolist()]
    return tuple(a or b for a, b in zip(said or [""] * len(texts), texts, strict=True))


def entropy(
    scores: Tensor, k: Tensor, tau: Tensor, most: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x, ν and λ. Only entries before the k-th can be 1: the j largest, for the first j that fits.

    With the j largest at 1, the others are (k − j) softmax(c/τ) among themselves, and this fits if
    the largest of them is not above 1.
    """
    n = scores.shape[-1]
    with torch.no_grad():
        scaled = scores / tau
        many = n if most is None else min(most, n)
        top, where = scaled.topk(many, dim=-1)
        others = scaled.scatter(-1, where, -torch.inf)
        rest = torch.logsumexp(others, -1, keepdim=True) if many < n else None
        tail = top if rest is None else torch.cat([top, rest], -1)
        total = torch.logcumsumexp(tail.flip(-1), -1).flip(-1)[..., :many]
        j = torch.arange(many, device=scores.device)
        left = k - j
        largest = torch.log(left.clamp_min(0)) + top - total
        # Rounding must not refuse the last j that can be.
        fits = (largest <= 0) | (left <= 1)
        count = fits.to(torch.int8).argmax(-1, keepdim=True)
        # Where k is n every x is 1, whatever the scores: none may look free because of a tie.
        count = torch.where(k >= n, n - 1, count)
        at_one = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, where, j < count)
    free = torch.where(at_one, -torch.inf, scores / tau)
    share = torch.softmax(free, -1)
    x = torch.where(at_one, 1.0, (k - count) * share)
    # −c + τ(log x + 1) + ν + λ = 0 with x = (k − j) exp(c/τ − log Σ exp(c/τ)).
    nu = tau * (torch.logsumexp(free, -1, keepdim=True) - torch.log(k - count) - 1)
    return x, nu, torch.where(at_one, scores - tau - nu, 0.0)


def binary(
    scores: Tensor, k: Tensor, tau: Tensor, _most: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x, ν and λ = 0: Σσ((c − ν)/τ) = k has one root."""
    n = scores.shape[-1]
    with torch.no_grad():
        # At least one entry is k/n or more, and one at most that.
        odds = tau * torch.logit(k / n)
        low = scores.amin(-1, keepdim=True) - odds
        high = scores.amax(-1, keepdim=True) - odds
        nu, looks = (low + high) / 2, not calculus.transforms_active()
        for _ in range(_SEARCH):
            x = torch.sigmoid((scores - nu) / tau)
            excess = x.sum(-1, keepdim=True) - k
            low, high = torch.where(excess > 0, nu, low), torch.where(excess > 0, high, nu)
            slope = (x - x.square()).sum(-1, keepdim=True) / tau
            # Newton's step where it stays inside, half of the interval where it does not.
            newton = nu + excess / slope
            inside = (newton > low) & (newton < high)
            following = torch.where(inside, newton, (low + high) / 2)
            if looks and bool(((following - nu).abs() <= _NEAR * tau).all()):
                break
            nu = following
    # Two Newton steps that autograd sees: from a root each doubles the number of derivatives that
    # are right, so that those up to the third are exact.
    for _ in range(_NEWTON):
        x = torch.sigmoid((scores - nu) / tau)
        slope = (x * (1 - x)).sum(-1, keepdim=True) / tau
        slope = torch.where(slope > 0, slope, 1.0)
        nu = nu + (x.sum(-1, keepdim=True) - k) / slope
    return torch.sigmoid((scores - nu) / tau), nu, torch.zeros_like(scores)
