"""Where a nonlinear program is begun: at a given point, at the last one, or at several."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from foldopt.nn._nlp.model import Model, Point, bounds_of
from foldopt.solvers._start import check_size, reference_of

__all__ = ["Begin", "Starts"]


@dataclasses.dataclass(frozen=True, eq=False)
class Begin:
    """Of one call.

    Attributes
    ----------
    batch
        The batch shape.
    dtype
        Of x.
    base
        The first start of each sample, ``(B, n)``, float64; without columns if a function of the
        user's solves the program.
    given
        All starts, ``(B, k, n)``, where a call names them.
    count, seed
        Else: how many, and of what random numbers.
    warm
        The last call's solution, if that is where to begin.
    """

    batch: torch.Size
    dtype: torch.dtype
    base: Tensor
    given: Tensor | None
    count: int
    seed: int
    warm: Point | None

    @property
    def samples(self) -> int:
        return self.batch.numel()

    def all(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Every start, ``(B, k, n)``, inside the bounds."""
        # Crossed bounds are for the solver to report.
        first = torch.minimum(torch.maximum(self.base.to(lower), lower), upper)
        if self.given is not None:
            return self.given.to(lower)
        if self.count == 1:
            return first.unsqueeze(1)
        generator = torch.Generator().manual_seed(self.seed)
        shape = (*first.shape[:1], self.count - 1, first.shape[-1])
        normal = torch.randn(shape, generator=generator, dtype=torch.float64).to(lower)
        share = torch.rand(shape, generator=generator, dtype=torch.float64).to(lower)
        around = first.unsqueeze(1) + (1 + first.abs()).unsqueeze(1) * normal
        low, high = lower.unsqueeze(1), upper.unsqueeze(1)
        around = torch.minimum(torch.maximum(around, low), high)
        boxed = torch.isfinite(low) & torch.isfinite(high)
        width = torch.where(boxed, high - low, 0)
        inside = torch.where(boxed, low, 0) + width * share
        return torch.cat([first.unsqueeze(1), torch.where(boxed, inside, around)], 1)


class Starts:
    """What a layer knows of its starts."""

    def __init__(
        self,
        model: Model,
        n: int | None,
        start: Tensor | None,
        count: int,
        seed: int,
        warm_start: bool,
    ) -> None:
        check_size("nn.NLP", n)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(
                f"nn.NLP: starts must be an integer of 1 or more, got {count!r}. Starts of your "
                "own are an argument of the call, layer(*params, starts=...)"
            )
        if warm_start and count > 1:
            raise ValueError("nn.NLP: warm_start=True begins at one point, and starts is above 1")
        self.n = bounds_of(model, n)
        self.count, self.seed, self.warm_start = count, seed, warm_start
        self.start = None if start is None else self._checked("start", start, 1)
        self._last: Point | None = None

    def of(
        self,
        params: tuple[Any, ...],
        batch: torch.Size,
        shared: tuple[int, ...],
        start: Tensor | None,
        starts: Tensor | None,
        asked: bool,
    ) -> Begin:
        """The starts of one call, its arguments checked.

        Parameters
        ----------
        batch
            That of the params, which is empty too where all are shared.
        asked
            Whether the solver begins where it is told to.
        """
        like = reference_of(params)
        if not asked:
            if start is not None or starts is not None or self.count > 1 or self.warm_start:
                raise ValueError(
                    "nn.NLP: start, starts and warm_start are for 'ipopt' and 'sqp': a solver of "
                    "your own begins where it likes"
                )
            dtype = torch.float64 if like is None else like.dtype
            base = torch.zeros(batch.numel(), 0, dtype=torch.float64)
            return Begin(batch, dtype, base, None, 1, 0, None)
        if start is not None and starts is not None:
            raise ValueError("nn.NLP: give start or starts, not both")
        alone = len(shared) == len(params)  # a batch may come with the starts
        given = None
        if starts is not None:
            given = self._checked("starts", starts, 2)
            batch = given.shape[:-2] if alone else batch
            given = self._spread("starts", given, batch, 2)
        elif start is not None:
            start = self._checked("start", start, 1)
            batch = start.shape[:-1] if alone else batch
        n = self._size(start, given)
        if given is not None:
            base = given[:, 0]
        else:
            first = self.start if start is None else start
            first = torch.zeros(n, dtype=torch.float64) if first is None else first
            base = self._spread("start", first, batch, 1)
        warm = self._last if start is None and given is None else None
        if warm is not None and warm.x.shape != base.shape:
            warm = None
        base = base if warm is None else warm.x
        mine = (
            self.start if start is None and starts is None else start if given is None else starts
        )
        dtype = like.dtype if like is not None else torch.float64
        if like is None and mine is not None:
            dtype = mine.dtype
        return Begin(batch, dtype, base.double(), given, self.count, self.seed, warm)

    def remember(self, point: Point) -> None:
        """Keep the solution for the next call, if that is wanted."""
        if self.warm_start and bool(torch.isfinite(point.x).all()):
            self._last = Point(*(part.detach().nan_to_num() for part in point))

    def _size(self, start: Tensor | None, given: Tensor | None) -> int:
        sizes = {
            "n or bounds": self.n,
            "start of the layer": None if self.start is None else self.start.shape[-1],
            "start": None if start is None else start.shape[-1],
            "starts": None if given is None else given.shape[-1],
        }
        known = {name: size for name, size in sizes.items() if size is not None}
        if not known:
            raise ValueError(
                "nn.NLP: the number of variables is unknown. Give n=, start=, or a bound of shape "
                "(n,)"
            )
        if len(set(known.values())) > 1:
            raise ValueError(
                "nn.NLP: the number of variables differs: "
                + ", ".join(f"{size} in {name}" for name, size in known.items())
            )
        return next(iter(known.values()))

    @staticmethod
    def _checked(name: str, start: Any, dims: int) -> Tensor:
        shape = "(n,) or (*batch, n)" if dims == 1 else "(k, n) or (*batch, k, n)"
        if not isinstance(start, Tensor) or not start.is_floating_point() or start.dim() < dims:
            seen = (
                f"{start.dtype} of shape {tuple(start.shape)}"
                if isinstance(start, Tensor)
                else type(start).__name__
            )
            raise TypeError(f"nn.NLP: {name} must be a floating tensor {shape}, got {seen}")
        if not bool(torch.isfinite(start).all()):
            raise ValueError(f"nn.NLP: {name} holds numbers that are not finite")
        return start.detach()

    @staticmethod
    def _spread(name: str, start: Tensor, batch: torch.Size, dims: int) -> Tensor:
        """With one batch dimension."""
        event = start.shape[-dims:]
        if start.shape[:-dims] not in (torch.Size(), batch):
            raise ValueError(
                f"nn.NLP: {name} has shape {tuple(start.shape)}, which fits no batch of shape "
                f"{tuple(batch)}"
            )
        return start.expand(*batch, *event).reshape(-1, *event)
