"""How often the gradients of a training could not be trusted."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from foldopt.experiments.frame.report import Table
from foldopt.status import FoldWarning, Record, Status, record

__all__ = ["Certificates", "certificate_table", "certificates"]


class Certificates:
    """What the folds of a block of code said of themselves."""

    def __init__(self) -> None:
        self._record = Record()
        self._warned = 0

    def summary(self) -> dict[str, Any]:
        """Counts of samples and the worst residuals, forward and backward.

        Returns
        -------
        dict
            ``"solved"``, ``"unsolved"``, ``"forward"`` (the largest fixed-point residual);
            ``"differentiated"``, ``"masked"`` (samples whose gradient was refused),
            ``"backward"`` (the largest residual of an adjoint system); ``"warned"`` (warnings).
        """
        sums: dict[str, Any] = {"solved": 0, "unsolved": 0, "forward": 0.0}
        sums |= {"differentiated": 0, "masked": 0, "backward": 0.0, "warned": self._warned}
        for event in self._record:
            failed = Status.failed(event.status)
            ahead = event.kind == "forward"
            many, few, worst = (
                ("solved", "unsolved", "forward")
                if ahead
                else ("differentiated", "masked", "backward")
            )
            sums[many] += event.status.numel()
            sums[few] += int(failed.sum())
            good = event.residual[~failed]
            if good.numel():
                sums[worst] = max(sums[worst], float(good.max()))
        return sums


@contextlib.contextmanager
def certificates() -> Iterator[Certificates]:
    """Collect the certificates of all folds inside: forward residuals, masked samples, warnings.

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
    seen = Certificates()
    with record() as events, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FoldWarning)
        seen._record = events
        yield seen
    for warning in caught:
        if issubclass(warning.category, FoldWarning):
            seen._warned += 1
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


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
