"""The k largest of n scores, smoothed: closed form, exact derivatives of every order."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from foldopt import _calculus as calculus
from foldopt._arguments import CERTIFY, OnFailure
from foldopt._operator import check_dense
from foldopt.certify import ON_FAILURE, report
from foldopt.nn._top_k import binary, entropy, faults, messages
from foldopt.status import Event, Status, active_record, tally

__all__ = ["SmoothTopK", "TopKSolution"]

Form = Literal["entropy", "binary"]


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
        :class:`~foldopt.Status` of each sample: CONVERGED, the answer is a formula; with
        ``on_failure="mask"`` NONFINITE where the data are not numbers, INFEASIBLE where k is above
        n.
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
    \sigma((c_i - \nu)/\tau)`, with ν by Newton steps inside a
    bracket. The backward pass is O(n).

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
    on_failure
        What to do about a sample whose scores are not finite, or whose k or τ is out of range:
        ``"raise"`` a ValueError; ``"warn"``, or ``"mask"`` it: its x is NaN and its gradient zero,
        and the others are exact.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    Where an entry only just reaches 1, the entropy form has one-sided derivatives; the one given
    is that of the entry at its bound or inside, as rounding decides, and
    :func:`~foldopt.record` says so in the messages of the event.

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
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__()
        if on_failure not in ON_FAILURE:
            raise ValueError(
                f"SmoothTopK: on_failure must be one of {ON_FAILURE}, got {on_failure!r}"
            )
        if form not in ("entropy", "binary"):
            raise ValueError(f"SmoothTopK: form must be 'entropy' or 'binary', got {form!r}")
        for name, value in (("k", k), ("temperature", temperature)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"SmoothTopK: {name} must be a number, got {type(value).__name__}")
            if not 0 < value < math.inf:
                raise ValueError(f"SmoothTopK: {name} must be above 0 and finite, got {value}")
        self.k, self.temperature, self.form = k, temperature, form
        self.multipliers = multipliers
        self.on_failure: OnFailure = on_failure

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
        status = torch.zeros(scores.shape[:-1], dtype=torch.int64, device=scores.device)
        looks = not calculus.transforms_active()
        said = self._look(scores, many, tau, status) if looks else ()
        if said:
            # Something harmless in the place of a bad sample: 0 · NaN would reach what is shared.
            bad = Status.failed(status).unsqueeze(-1)
            scores, many = torch.where(bad, 0, scores), torch.where(bad, 0.5, many)
            tau = torch.where(bad, 1, tau)
        solve = entropy if self.form == "entropy" else binary
        most = None if k is not None else math.ceil(self.k)
        x, nu, upper = solve(scores, many, tau, most)
        if looks:
            self._certify(x, upper, many, tau, status, said)
            bad = Status.failed(status).unsqueeze(-1)
            if said or (self.on_failure == "mask" and bool(bad.any())):
                x, nu, upper = (torch.where(bad, torch.nan, part) for part in (x, nu, upper))
        return TopKSolution(x, nu.squeeze(-1), upper, status) if self.multipliers else x

    def _certify(
        self,
        x: Tensor,
        upper: Tensor,
        k: Tensor,
        tau: Tensor,
        status: Tensor,
        said: tuple[str, ...],
    ) -> None:
        """Look whether Σx = k, and record it."""
        off = ((x.sum(-1, keepdim=True) - k).abs() / (1 + k)).detach().reshape(-1)
        flat, limit = status.view(-1), CERTIFY.limits(x.dtype)[1]
        if not bool((off <= limit).all()):
            flat[(off > limit) & (flat == 0)] = int(Status.INACCURATE)
            report(
                self.on_failure,
                f"SmoothTopK: Σx is off k by {float(off.max()):.1e} (1 + k): {tally(flat)}. The "
                "scores may be so far apart, in units of the temperature, that rounding hides k",
                flat,
            )
        record = active_record()
        if record is not None:
            texts, steps = messages(x, upper, k, tau, said), torch.zeros_like(flat)
            name = f"top-k, {self.form}"
            record.events.append(Event("forward", name, flat, steps, off, 0.0, texts))

    def _checked(
        self, scores: Tensor, k: Tensor | None, temperature: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """k and τ as ``(*batch, 1)`` or numbers without dimension."""
        if not isinstance(scores, Tensor) or scores.dtype not in (torch.float32, torch.float64):
            seen = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TypeError(
                f"SmoothTopK: scores must be a tensor of float32 or float64, got {seen}"
            )
        for name, block in (("scores", scores), ("k", k), ("temperature", temperature)):
            if isinstance(block, Tensor):
                check_dense(f"SmoothTopK: {name}", block)
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
                found.append(torch.tensor(usual, dtype=scores.dtype, device=scores.device))
            elif not isinstance(given, Tensor):
                raise TypeError(
                    f"SmoothTopK: {name} must be a tensor here, got {type(given).__name__}; one "
                    "number for all is an argument of the construction"
                )
            elif (
                given.shape not in (torch.Size(), scores.shape[:-1]) or given.dtype != scores.dtype
            ):
                raise ValueError(
                    f"SmoothTopK: {name} must be a tensor of {scores.dtype} and of shape () or "
                    f"{tuple(scores.shape[:-1])}, got {given.dtype} of shape {tuple(given.shape)}"
                )
            else:
                found.append(given.unsqueeze(-1) if given.dim() else given)
        return found[0], found[1]

    def _look(self, scores: Tensor, k: Tensor, tau: Tensor, status: Tensor) -> tuple[str, ...]:
        """What is wrong with the numbers of each sample, "" for nothing; () if all are well."""
        n, whole = scores.shape[-1], self.form == "entropy"
        well = (k > 0) & (k <= n if whole else k < n) & (tau > 0)
        if bool(well.all()) and bool(torch.isfinite(scores.sum() + tau.sum())):
            return ()
        said, flat = faults(scores, k, tau, whole), status.view(-1)
        for i, (text, code) in enumerate(said):
            if text:
                flat[i] = int(code)
        texts = tuple(text for text, _ in said)
        if not any(texts):  # all finite, but not their sum
            return ()
        message = f"SmoothTopK: {next(filter(None, texts))}"
        if self.on_failure == "raise":
            raise ValueError(message)
        report(self.on_failure, f"{message} ({tally(flat)})", flat)
        return texts

    def extra_repr(self) -> str:
        """k, τ and the form."""
        return f"k={self.k}, temperature={self.temperature}, form={self.form!r}"
