"""How often the gradients of a training could not be trusted."""

from __future__ import annotations

import contextlib
import contextvars
import warnings
from collections.abc import Iterator
from typing import Any

from foldopt.experiments.frame.report import Table
from foldopt.status import FoldWarning, Record, Status, record

__all__ = [
    "Certificates",
    "certificate_table",
    "certificates",
    "merge_certificates",
    "running",
]


_ADDED: tuple[str, ...] = ("solved", "unsolved", "differentiated", "masked", "warned")
_LARGEST: tuple[str, ...] = ("forward", "backward")


class Certificates:
    """What the folds of a block of code said of themselves; only sums are kept.

    Parameters
    ----------
    events, caught
        What is being recorded.
    before
        Sums of what was done before, by an earlier process.
    """

    def __init__(
        self,
        events: Record,
        caught: list[warnings.WarningMessage],
        before: dict[str, Any] | None,
    ) -> None:
        self._events, self._caught = events, caught
        self._sums: dict[str, Any] = dict.fromkeys(_ADDED, 0) | dict.fromkeys(_LARGEST, 0.0)
        self._sums |= before or {}

    def summary(self) -> dict[str, Any]:
        """Counts of samples and the worst residuals, forward and backward, so far.

        Returns
        -------
        dict
            ``"solved"``, ``"unsolved"``, ``"forward"`` (the largest fixed-point residual);
            ``"differentiated"``, ``"masked"`` (samples whose gradient was refused),
            ``"backward"`` (the largest residual of an adjoint system); ``"warned"`` (warnings).
        """
        for event in self._events:
            ahead = event.kind == "forward"
            many, few, worst = (
                ("solved", "unsolved", "forward")
                if ahead
                else ("differentiated", "masked", "backward")
            )
            failed = Status.failed(event.status)
            self._sums[many] += event.status.numel()
            self._sums[few] += int(failed.sum())
            good = event.residual[~failed]
            if good.numel():
                self._sums[worst] = max(self._sums[worst], float(good.max()))
        self._events.events.clear()  # a long training has millions
        ours = [issubclass(warning.category, FoldWarning) for warning in self._caught]
        self._sums["warned"] += sum(ours)
        self._caught[:] = [other for other, own in zip(self._caught, ours, strict=True) if not own]
        return dict(self._sums)


_running: contextvars.ContextVar[Certificates | None] = contextvars.ContextVar(
    "certificates", default=None
)


def running() -> Certificates | None:
    """The certificates that are being collected here and now."""
    return _running.get()


@contextlib.contextmanager
def certificates(before: dict[str, Any] | None = None) -> Iterator[Certificates]:
    """Collect the certificates of all folds inside: forward residuals, masked samples, warnings.

    Parameters
    ----------
    before
        What an interrupted training had collected: ``journal.certificates``. Each call of
        :meth:`Journal.epoch` inside writes down the sums so far.

    Yields
    ------
    Certificates
        Its ``summary()`` is what :func:`certificate_table` shows.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> with certificates() as seen:
    ...     c = torch.tensor([[2.0]], requires_grad=True)
    ...     fo.fold(lambda x, c: (x + c / x) / 2, c.sqrt().detach(), c).sum().backward()
    >>> seen.summary()["differentiated"], seen.summary()["masked"]
    (1, 0)
    """
    with record() as events, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FoldWarning)
        seen = Certificates(events, caught, before)
        token = _running.set(seen)
        try:
            yield seen
        finally:
            _running.reset(token)
            seen.summary()
    for warning in caught:  # those that are not ours
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def merge_certificates(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Certificates of several trainings as one: counts add up, of residuals the worst counts.

    Parameters
    ----------
    summaries
        At least one.

    Returns
    -------
    dict
        With the same keys.

    Examples
    --------
    >>> merge_certificates([{"masked": 1, "forward": 0.1}, {"masked": 2, "forward": 0.3}])
    {'masked': 3, 'forward': 0.3}
    """
    return {
        key: (max if key in _LARGEST else sum)(summary[key] for summary in summaries)
        for key in summaries[0]
    }


def certificate_table(summaries: dict[str, dict[str, Any]]) -> Table:
    """The certificates of several trainings.

    Parameters
    ----------
    summaries
        What :meth:`Certificates.summary` gave, by the name of the training.

    Returns
    -------
    Table
        A row each.
    """

    def row(name: str, of: dict[str, Any]) -> tuple[str, ...]:
        return (
            name,
            f"{of['solved']:,}",
            f"{of['unsolved']:,}",
            f"{of['forward']:.0e}",
            f"{of['differentiated']:,}",
            f"{of['masked']:,}",
            f"{of['backward']:.0e}",
            f"{of['warned']:,}",
        )

    return Table(
        "Certificates: what the folds said of themselves in training",
        (
            "training",
            "solved",
            "unsolved",
            "worst fixed-point residual",
            "gradients",
            "masked",
            "worst adjoint residual",
            "warnings",
        ),
        tuple(row(name, of) for name, of in summaries.items()),
        "A masked sample has no derivative that could be trusted, and gave a zero gradient. "
        "Residuals are those of the samples that count.",
    )
