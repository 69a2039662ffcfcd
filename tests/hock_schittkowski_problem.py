"""What a problem of Hock and Schittkowski is made of, and functions that several of them share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

F64 = torch.float64
INF = math.inf
Function = Callable[[Tensor, Tensor], Any]
R2, R3, R7 = math.sqrt(2), math.sqrt(3), math.sqrt(7)


@dataclasses.dataclass(frozen=True)
class Problem:
    """min f(x, p) s.t. g(x, p) ≤ 0, h(x, p) = 0, lower ≤ x ≤ upper; x and f at the optimum.

    ``lower`` and ``upper`` are numbers, or functions of p that return one for each variable.
    """

    start: tuple[float, ...]
    params: tuple[float, ...]
    x: tuple[float, ...]
    value: float
    objective: Function
    inequality: Function | None = None
    equality: Function | None = None
    lower: Any = None
    upper: Any = None

    @property
    def bounds(self) -> tuple[Any, Any] | None:
        if self.lower is None and self.upper is None:
            return None
        return self._bound(self.lower), self._bound(self.upper)

    @staticmethod
    def _bound(bound: Any) -> Any:
        if callable(bound):
            each: Callable[[Tensor], Any] = bound
            return lambda p: torch.stack([torch.as_tensor(b, dtype=p.dtype) for b in each(p)])
        return torch.tensor(bound, dtype=F64) if isinstance(bound, tuple) else bound

    @property
    def functions(self) -> tuple[Function, Function | None, Function | None]:
        def joined(function: Function | None) -> Function | None:
            if function is None:
                return None
            rows: Callable[[Tensor, Tensor], Any] = function
            return lambda x, p: list(rows(x, p))

        return self.objective, joined(self.inequality), joined(self.equality)

    def numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Start, params and optimum."""
        return tuple(torch.tensor(v, dtype=F64) for v in (self.start, self.params, self.x))  # pyright: ignore[reportReturnType]


def valley(x: Tensor, p: Tensor) -> Tensor:
    """Rosenbrock's function, for p = (1, 1)."""
    return 100 * (x[1] - p[0] * x[0] ** 2) ** 2 + (p[1] - x[0]) ** 2


def square(v: Tensor) -> Tensor:
    return (v * v).sum()


def product(x: Tensor) -> Tensor:
    """Written out: the backward pass of ``prod`` has no batching rule."""
    found = x[0]
    for factor in x[1:].unbind():
        found = found * factor
    return found
