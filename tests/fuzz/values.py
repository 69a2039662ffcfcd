"""Arguments that print as the Python that makes them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "bool", "complex128")
EXTREME = (
    math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, -1e300, 1e-300, 5e-324, 1e30, -1e30, 1e8, 1e-8
)  # fmt: skip
# What stands in the place of an argument, as source.
KINDS = (
    "None", "'text'", "[1.0]", "3", "0", "-1.0", "float('nan')", "float('inf')", "True", "1j",
    "object()", "np.ones(2)", "np.zeros((0,))", "{}", "torch.tensor(1.0)", "torch.zeros(0)",
    "torch.ones(2, 2).to_sparse()", "torch.nn.Linear(1, 1)", "10**400",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Array:
    """A tensor, as what it is made from; its repr is the source that makes it."""

    values: tuple[float, ...]
    shape: tuple[int, ...]
    dtype: str = "float64"
    device: str = "cpu"
    strided: bool = False

    def make(self) -> Tensor:
        flat = torch.tensor(self.values, dtype=torch.float64)
        made = flat.to(getattr(torch, self.dtype)).reshape(self.shape).to(self.device)
        return made.mT.contiguous().mT if self.strided and made.dim() > 1 else made

    @property
    def regular(self) -> bool:
        """Whether finite differences make sense here."""
        sizes = [abs(v) for v in self.values]
        well = all(math.isfinite(v) and (v == 0 or 1e-6 < v < 1e6) for v in sizes)
        return well and self.dtype == "float64"

    @property
    def finite(self) -> bool:
        return all(math.isfinite(v) for v in self.values)

    def __repr__(self) -> str:
        shown = ", ".join(
            repr(v) if math.isfinite(v) else f"float('{v}')" for v in map(float, self.values)
        )
        made = f"torch.tensor([{shown}], dtype=torch.float64)"
        if self.dtype != "float64":
            made += f".to(torch.{self.dtype})"
        made += f".reshape({self.shape})"
        if self.device != "cpu":
            made += f".to('{self.device}')"
        return made + (".mT.contiguous().mT" if self.strided and len(self.shape) > 1 else "")


@dataclasses.dataclass(frozen=True)
class Source:
    """An argument of another kind, as source."""

    text: str

    def __repr__(self) -> str:
        return self.text


def numbers_of(mode: str, seed: int, count: int) -> list[float]:
    """Numbers without extremes: generic ones, small integers full of ties, or zeros."""
    draw = torch.Generator().manual_seed(seed)
    if mode == "generic":
        numbers = torch.randn(count, generator=draw, dtype=torch.float64)
        return [round(v, 3) for v in numbers.tolist()]
    if mode == "integers":
        return torch.randint(-2, 3, (count,), generator=draw).double().tolist()
    return [0.0] * count


MODES = st.sampled_from(("generic", "generic", "generic", "integers", "zeros"))


@dataclasses.dataclass
class Drawer:
    """What one call's arguments are drawn with: the sizes that they share, and their dtype."""

    draw: Any
    batch: tuple[int, ...]
    dtype: str
    device: str

    def size(self, least: int = 0, most: int = 4) -> int:
        return self.draw(st.integers(least, most))

    def among(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def array(self, *shape: int, own: bool | None = None, kind: str = "any") -> Array:
        """Of this shape, with the batch in front if ``own`` (None: drawn)."""
        batched = bool(self.batch) and (self.draw(st.booleans()) if own is None else own)
        full = (*self.batch, *shape) if batched else shape
        count = math.prod(full)
        values = numbers_of(self.draw(MODES), self.draw(st.integers(0, 999)), count)
        if kind == "positive":
            values = [abs(v) + 0.25 for v in values]
        if kind == "semidefinite" and shape[-1]:
            R = torch.tensor(values).double().reshape(full)
            shift = 0.5 * torch.eye(shape[-1], dtype=torch.float64) if self.size(0, 3) else 0
            values = (R @ R.mT + shift).flatten().tolist()
        strided = self.draw(st.booleans())
        return Array(tuple(values), full, self.dtype, self.device, strided)


@st.composite
def drawers(draw: Any) -> Drawer:
    batch = draw(st.sampled_from(((), (1,), (2,), (3,), (2,), (2, 2), (0,))))
    dtype = draw(st.sampled_from(("float64", "float64", "float64", "float32")))
    return Drawer(draw, batch, dtype, draw(st.sampled_from(DEVICES)))


def spoiled(draw: Any, array: Array) -> Array | Source:
    """The same argument with something wrong, or extreme, about it."""
    how = draw(st.sampled_from(("entry", "entry", "shape", "dtype", "kind", "scale", "zeros")))
    if how == "kind":
        return Source(draw(st.sampled_from(KINDS)))
    if how == "dtype":
        return dataclasses.replace(array, dtype=draw(st.sampled_from(DTYPES)))
    if how == "shape":
        shape = draw(st.sampled_from(_shapes_near(array.shape)))
        values = (array.values or (1.0,)) * (1 + math.prod(shape))
        return dataclasses.replace(array, values=values[: math.prod(shape)], shape=shape)
    values = list(array.values)
    if how == "entry" and values:
        values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from(EXTREME))
    elif how == "scale":
        factor = draw(st.sampled_from((1e-300, 1e-150, 1e-8, -1.0, 1e8, 1e150, 1e300)))
        values = [factor * v for v in values]
    elif how == "zeros":
        values = [0.0] * len(values)
    return dataclasses.replace(array, values=tuple(values))


def _shapes_near(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    near = [(1, *shape), (2, *shape), (*shape, 1), (), (0,)]
    for i, size in enumerate(shape):
        near += [shape[:i] + shape[i + 1 :]]
        near += [(*shape[:i], other, *shape[i + 1 :]) for other in (0, 1, size + 1)]
    return near
