"""What a forward pass hands to its backward pass."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from torch import Tensor

from foldopt.nn._qp.factor import Factor
from foldopt.nn._qp.step import State

__all__ = ["Answer"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came out.

    Attributes
    ----------
    point
        x and the multipliers, float64, NaN where there is no solution.
    status
        Of each sample, ``(B,)``; None: all are CONVERGED.
    messages
        What there is to say of each, "" mostly; empty if there is nothing to say of any.
    make
        Factors the KKT matrices, which not every call needs.
    residual
        ‖U(z) − z‖ / (1 + ‖z‖) of each sample, ``(B,)``, if it is known.
    """

    point: State
    status: Tensor | None
    messages: tuple[str, ...]
    make: Callable[[], Factor]
    residual: Tensor | None = None

    @functools.cached_property
    def factor(self) -> Factor:
        """Made once."""
        return self.make()
