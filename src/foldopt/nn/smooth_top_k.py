"""The k largest of n scores, smoothed: closed form, exact derivatives of every order."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from foldopt import _calculus as calculus
from foldopt.status import Event, active_record

__all__ = ["SmoothTopK", "TopKSolution"]

Form = Literal["entropy", "binary"]
_BISECTIONS = 80
_NEWTON = 2


class TopKSolution(NamedTuple):
    """What :class:`SmoothTopK` returns with ``multipliers=True``.

    Attributes
    ----------
    x
        ``(*batch, n)``.
    equality
        ν of Σx = k, ``(*batch,)``.
    upper
        λ ≥ 0 of x ≤ 1, ``(*batch, n)``; zero in the binary form, whose x never gets there.
    status
        :class:`~foldopt.Status` of each sample: CONVERGED, the answer is a formula.
    """

    x: Tensor
    equality: Tensor
    upper: Tensor
    status: Tensor


class SmoothTopK(nn.Module):
    r"""Choose the k largest of n scores, in a way that has a derivative.

    .. math:: x^\star(c) = \arg\max_{0 \le x \le 1} c^\top x - \tau \sum_i H(x_i)
        \quad\text{s.t.}\quad \sum_i x_i = k,

    with :math:`H(x) = x \log x` (``"entropy"``) or :math:`x \log x + (1 - x) \log (1 - x)`
    (``"binary"``). As τ falls x tends to the indicator of the k largest scores.

    In the first form the j largest entries are 1, for a j that their order gives, and the others
    are :math:`(k - j)` times the softmax of their scores. In the second :math:`x_i =
    \sigma((c_i - \nu)/\tau)`, with ν by bisection and Newton steps. The backward pass is O(n).

    Parameters
    ----------
    k
        How many, above 0 and at most n (below n in the binary form); no whole number is needed.
    temperature
        τ above 0.
    form
        ``"entropy"`` or ``"binary"``.
    multipliers
        Return a :class:`TopKSolution` and not x alone.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    Where an entry only just reaches 1, the entropy form has one-sided derivatives; the one given
    is that of the entry at its bound or inside, as rounding decides.

    References
    ----------
    arXiv 2301.12047, eq. 19 (with the sign of the entropy corrected).

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> scores = torch.tensor([3.0, 0.0, 0.0, 0.0], requires_grad=True)
    >>> x = fo.nn.SmoothTopK(2)(scores)
    >>> x.detach()
    tensor([1.0000, 0.3333, 0.3333, 0.3333])
    >>> torch.autograd.grad(x[1], scores)[0]
    tensor([ 0.0000,  0.2222, -0.1111, -0.1111])
    """

    def __init__(
        self,
        k: float,
        temperature: float = 1.0,
        form: Form = "entropy",
        *,
        multipliers: bool = False,
    ) -> None:
        super().__init__()
        if form not in ("entropy", "binary"):
            raise ValueError(f"SmoothTopK: form must be 'entropy' or 'binary', got {form!r}")
        for name, value in (("k", k), ("temperature", temperature)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"SmoothTopK: {name} must be a number, got {type(value).__name__}")
            if not 0 < value < math.inf:
                raise ValueError(f"SmoothTopK: {name} must be above 0 and finite, got {value}")
        self.k, self.temperature, self.form = k, temperature, form
        self.multipliers = multipliers

    def forward(
        self, scores: Tensor, *, k: Tensor | None = None, temperature: Tensor | None = None
    ) -> Tensor | TopKSolution:
        """x for scores ``(*batch, n)``, float32 or float64.

        Parameters
        ----------
        scores
            c.
        k, temperature
            Take the place of those of the construction: tensors of the batch shape, or of none,
            with derivatives of their own.

        Returns
        -------
        Tensor or TopKSolution
            x ``(*batch, n)``, or with multipliers if asked for at construction.

        Raises
        ------
        TypeError, ValueError
            If the scores are of another kind, hold NaN or inf, or k is out of its range.
        """
        many, tau = self._checked(scores, k, temperature)
        solve = _entropy if self.form == "entropy" else _binary
        x, nu, upper = solve(scores, many, tau, None if k is not None else math.ceil(self.k))
        record = active_record()
        status = torch.zeros(scores.shape[:-1], dtype=torch.int64, device=scores.device)
        if record is not None:
            off = ((x.sum(-1, keepdim=True) - many).abs() / (1 + many)).detach().reshape(-1)
            flat = status.reshape(-1)
            record.events.append(Event("forward", f"top-k, {self.form}", flat, flat, off, 0.0))
        return TopKSolution(x, nu.squeeze(-1), upper, status) if self.multipliers else x

    def _checked(
        self, scores: Tensor, k: Tensor | None, temperature: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """k and τ as ``(*batch, 1)`` or numbers without dimension."""
        if not isinstance(scores, Tensor) or scores.dtype not in (torch.float32, torch.float64):
            seen = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(
                f"SmoothTopK: scores must be a tensor of float32 or float64, got {seen}"
            )
        if scores.dim() == 0 or scores.shape[-1] == 0:
            raise ValueError(
                f"SmoothTopK: scores must have shape (*batch, n), got {tuple(scores.shape)}"
            )
        found = []
        for name, given, usual in (
            ("k", k, self.k),
            ("temperature", temperature, self.temperature),
        ):
            if given is None:
                found.append(scores.new_tensor(usual))
            elif (
                given.shape not in (torch.Size(), scores.shape[:-1]) or given.dtype != scores.dtype
            ):
                raise ValueError(
                    f"SmoothTopK: {name} must be a tensor of {scores.dtype} and of shape () or "
                    f"{tuple(scores.shape[:-1])}, got {given.dtype} of shape {tuple(given.shape)}"
                )
            else:
                found.append(given.unsqueeze(-1) if given.dim() else given)
        if not calculus.wrapped_by_a_transform(scores):
            self._check_values(scores, *found)
        return found[0], found[1]

    def _check_values(self, scores: Tensor, k: Tensor, temperature: Tensor) -> None:
        n, most = scores.shape[-1], "at most" if self.form == "entropy" else "below"
        high = k <= n if self.form == "entropy" else k < n
        if not bool(((k > 0) & high).all()):
            raise ValueError(
                f"SmoothTopK: k must be above 0 and {most} n = {n}, got {k.flatten().tolist()[:3]}"
            )
        if not bool((temperature > 0).all()):
            raise ValueError("SmoothTopK: temperature must be above 0 everywhere")
        if not bool(torch.isfinite(scores.sum())) and not bool(torch.isfinite(scores).all()):
            where = torch.nonzero(~torch.isfinite(scores))[0].tolist()
            raise ValueError(
                f"SmoothTopK: scores hold {float(scores[tuple(where)])} at {tuple(where)}. Look at "
                "where they come from: a network that has diverged, or missing data"
            )

    def extra_repr(self) -> str:
        """k, τ and the form."""
        return f"k={self.k}, temperature={self.temperature}, form={self.form!r}"


def _entropy(
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
        at_one = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, where, j < count)
    free = torch.where(at_one, -torch.inf, scores / tau)
    share = torch.softmax(free, -1)
    x = torch.where(at_one, 1.0, (k - count) * share)
    # −c + τ(log x + 1) + ν + λ = 0 with x = (k − j) exp(c/τ − log Σ exp(c/τ)).
    nu = tau * (torch.logsumexp(free, -1, keepdim=True) - torch.log(k - count) - 1)
    return x, nu, torch.where(at_one, scores - tau - nu, 0.0)


def _binary(
    scores: Tensor, k: Tensor, tau: Tensor, _most: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x, ν and λ = 0: Σσ((c − ν)/τ) = k has one root."""
    n = scores.shape[-1]
    with torch.no_grad():
        # At least one entry is k/n or more, and one at most that.
        odds = tau * torch.logit(k / n)
        low = scores.amin(-1, keepdim=True) - odds
        high = scores.amax(-1, keepdim=True) - odds
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            over = torch.sigmoid((scores - middle) / tau).sum(-1, keepdim=True) > k
            low, high = torch.where(over, middle, low), torch.where(over, high, middle)
        nu = (low + high) / 2
    # Two Newton steps that autograd sees: from a root each doubles the number of derivatives that
    # are right, so that those up to the third are exact.
    for _ in range(_NEWTON):
        x = torch.sigmoid((scores - nu) / tau)
        slope = (x * (1 - x)).sum(-1, keepdim=True) / tau
        slope = torch.where(slope > 0, slope, 1.0)
        nu = nu + (x.sum(-1, keepdim=True) - k) / slope
    return torch.sigmoid((scores - nu) / tau), nu, torch.zeros_like(scores)
