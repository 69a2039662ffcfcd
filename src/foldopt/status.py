"""What can happen to a sample, how it is said, and how it is recorded."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import enum
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Event", "FoldError", "FoldWarning", "Record", "Solution", "Status", "record"]


class Status(enum.IntEnum):
    """The outcome of one sample, forward or backward.

    ``CONVERGED`` and ``LEAST_SQUARES`` (the minimum-norm least-squares answer of a singular
    system, given because it was asked for) are successes; everything else is a failure. Of those,
    ``TIME_LIMIT`` and ``INACCURATE`` come with an x: the best that the solver had when its time
    ran out, and one that met only a looser tolerance than asked for. ``FAILED``: the solver raised,
    or its process died.
    """

    CONVERGED = 0
    MAX_ITERATIONS = 1
    BREAKDOWN = 2
    STAGNATED = 3
    DIVERGED = 4
    NONFINITE = 5
    INFEASIBLE = 6
    UNBOUNDED = 7
    NOT_FIXED = 8
    LEAST_SQUARES = 9
    TIME_LIMIT = 10
    INACCURATE = 11
    FAILED = 12

    @staticmethod
    def failed(status: Tensor) -> Tensor:
        """Which samples of an integer ``status`` tensor are failures, as a boolean tensor."""
        return (status != int(Status.CONVERGED)) & (status != int(Status.LEAST_SQUARES))


class FoldError(RuntimeError):
    """A fold that cannot be trusted: the message says the symptom, the cause and the remedy.

    Attributes
    ----------
    status
        The per-sample :class:`Status` values, shape ``(batch,)``, where they are known.
    """

    def __init__(self, message: str, status: Tensor | None = None) -> None:
        super().__init__(message)
        self.status = status


class FoldWarning(UserWarning):
    """A fold that works, but less well than it should."""


class Solution(NamedTuple):
    """What a solver may return instead of a bare ``x``: the solution and how each sample ended.

    Attributes
    ----------
    x
        The solution: a tensor, a numpy array, or a nested tuple, list or dict of them.
    status
        Integer tensor or array of :class:`Status` values, shape ``(*batch,)``; None: all is well.
    multipliers
        Lagrange multipliers, in whatever structure the solver has; None: it has none.
    gap
        How far the objective may be from the best possible one, relative to its own size; shape
        ``(*batch,)``, NaN where that is unknown. None: it is unknown everywhere.
    messages
        What the solver said of each sample, a tuple of texts, ``""`` where all is well; one text
        for one sample; None: nothing.
    """

    x: Any
    status: Any = None
    multipliers: Any = None
    gap: Any = None
    messages: Any = None


@dataclasses.dataclass(frozen=True)
class Event:
    """One solve that a :class:`Record` has seen.

    Attributes
    ----------
    kind
        ``"forward"`` (the solver and its fixed-point residual), ``"adjoint"`` (reverse mode)
        or ``"tangent"`` (forward mode).
    method
        What ran, as text.
    status, iterations, residual
        Per sample, shape ``(batch,)``. The residual of a forward event is
        ‖U(x) − x‖ / (1 + ‖x‖), that of the others ‖b − A v‖ / ‖b‖.
    seconds
        Wall-clock time of the call.
    messages
        What the solver said of each sample, "" where it said nothing; empty if of none. A ready
        layer says here where its derivative is one-sided.
    """

    kind: str
    method: str
    status: Tensor
    iterations: Tensor
    residual: Tensor
    seconds: float
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        worst = float(self.residual.max()) if self.residual.numel() else 0.0
        steps = int(self.iterations.max()) if self.iterations.numel() else 0
        failures = int(Status.failed(self.status).sum())
        return (
            f"{self.kind:8s} {self.method}: {self.status.numel()} samples, {failures} failed, "
            f"at most {steps} iterations, residual {worst:.1e}, {1e3 * self.seconds:.2f} ms"
        )


class Record:
    """The events between entering and leaving :func:`record`, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __getitem__(self, index: int) -> Event:
        return self.events[index]

    def __str__(self) -> str:
        return "\n".join(map(str, self.events))


_active: contextvars.ContextVar[Record | None] = contextvars.ContextVar("foldopt", default=None)
# Whether the step of a fold is being evaluated: a fold that begins now is part of it.
inside_step: contextvars.ContextVar[bool] = contextvars.ContextVar("inside_step", default=False)


def active_record() -> Record | None:
    """The record that a fold beginning here and now reports to.

    A fold asks once, on its way forward, and keeps the answer: its backward pass may run on
    another thread, where this variable is unset.
    """
    return _active.get()


@contextlib.contextmanager
def record() -> Iterator[Record]:
    """Collect what every fold inside the ``with`` block does, forward and backward.

    A fold that began inside the block reports its backward pass too, whenever that runs.

    Yields
    ------
    Record
        A sequence of :class:`Event`.

    Examples
    --------
    >>> import torch, foldopt as fo
    >>> c = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> with fo.record() as seen:
    ...     x = fo.fold(lambda x, c: 0.5 * (x + c), c.detach(), c)
    ...     x.sum().backward()
    >>> [event.kind for event in seen]
    ['forward', 'adjoint']
    """
    seen = Record()
    token = _active.set(seen)
    try:
        yield seen
    finally:
        _active.reset(token)


def tally(status: Tensor) -> str:
    """``"2 NONFINITE, 1 DIVERGED (first: sample 4)"`` for a status tensor with failures."""
    status = status.reshape(-1).cpu()
    failed = Status.failed(status)
    parts = [
        f"{int((status == code).sum())} {Status(int(code)).name}"
        for code in torch.unique(status[failed])
    ]
    return f"{', '.join(parts)} (first: sample {int(failed.nonzero()[0])} of {status.numel()})"
