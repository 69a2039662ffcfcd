"""What the closed-form operators share: their arguments, a safe norm, a search, their pieces."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foldopt._calculus import bind_as_given


def check_point(name: str, y: Tensor, *, last: bool = False) -> None:
    """Raise unless y is a real floating tensor, with a last dimension where one is needed."""
    if not isinstance(y, Tensor) or not y.is_floating_point():
        seen = str(y.dtype) if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name}: y must be a real floating-point tensor, got {seen}")
    check_dense(f"{name}: y", y)
    if last and y.dim() == 0:
        raise ValueError(f"{name}: y must have shape (*batch, n), got a tensor of shape ()")


def check_dense(name: str, value: Tensor) -> None:
    """Raise if a tensor is sparse."""
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got {value.layout}: pass .to_dense()")


def check_matrix(name: str, y: Tensor, *, square: bool = False) -> None:
    """Raise unless y is a matrix, or a batch of them, in single or double precision."""
    check_point(name, y)
    if y.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: y must be float32 or float64, got {y.dtype}")
    if y.dim() < 2 or (square and y.shape[-1] != y.shape[-2]):
        wanted = "(*batch, n, n)" if square else "(*batch, m, n)"
        raise ValueError(f"{name}: y must have shape {wanted}, got {tuple(y.shape)}")


def operand(
    name: str,
    value: Tensor | float,
    y: Tensor,
    shape: Sequence[int],
    *,
    least: float | None = None,
) -> Tensor:
    """A parameter of an operator as a tensor of the dtype of y that broadcasts to ``shape``.

    ``name`` is for messages, ``least`` the least number allowed.
    """
    if not isinstance(value, Tensor):
        if not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
        if least is not None and not value >= least:
            raise ValueError(f"{name} must be {least} or more, got {value!r}")
        try:
            number = float(value)
        except OverflowError:
            raise ValueError(f"{name} must be a number that a float can hold") from None
        return torch.full((), number, dtype=y.dtype, device=y.device)
    check_dense(name, value)
    if value.is_complex() or (value.is_floating_point() and value.dtype != y.dtype):
        raise TypeError(
            f"{name} is {value.dtype} and y {y.dtype}: nothing is cast unasked, pass .to(y.dtype)"
        )
    seen, wanted = tuple(value.shape), tuple(shape)
    offset = len(wanted) - len(seen)
    if offset < 0 or any(k not in (1, m) for k, m in zip(seen, wanted[offset:], strict=True)):
        raise ValueError(
            f"{name} of shape {seen} does not broadcast to {wanted}, which y of shape "
            f"{tuple(y.shape)} asks for"
        )
    return value.to(y.dtype)


def valid(given: Tensor | float, condition: Tensor, result: Tensor) -> Tensor:
    """``result``, with NaN where the parameter was given as a tensor and the condition fails."""
    return torch.where(condition, result, torch.nan) if isinstance(given, Tensor) else result


def length_of(y: Tensor) -> Tensor:
    """‖y‖ over the last dimension, with derivative 0 (and not NaN) at y = 0.

    Scaled by ‖y‖₁, held constant, so that the squares neither overflow nor vanish.
    """
    scale = y.detach().abs().sum(-1)
    scale = torch.where(scale == 0, 1, scale)
    square = (y / scale.unsqueeze(-1)).square().sum(-1)
    return scale * torch.where(square == 0, 0, torch.where(square == 0, 1, square).sqrt())


def snap(x: Tensor, lower: float, upper: Tensor | None) -> Tensor:
    """Remove what rounding puts outside the bounds, and leave the derivative alone."""
    held = x.detach()
    inner = held.clamp_min(lower)
    inner = inner if upper is None else torch.minimum(inner, upper)
    return x + (inner - held)


def matrix_of(name: str, value: Tensor, y: Tensor, shape: tuple[int, ...], dims: int) -> Tensor:
    """A tensor that broadcasts to ``shape``, but in its last ``dims`` dimensions has it."""
    seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if not isinstance(value, Tensor) or tuple(value.shape[-dims:]) != tuple(shape[-dims:]):
        wanted = ", ".join(str(size) for size in shape[-dims:])
        raise ValueError(
            f"{name} must be a tensor of shape ({wanted}{',' * (dims == 1)}) or (*batch, {wanted}) "
            f"for y of shape {tuple(y.shape)}, got {seen}"
        )
    return operand(name, value, y, shape)


def need_entries(name: str, y: Tensor) -> None:
    check_point(name, y, last=True)
    if y.shape[-1] == 0:
        raise ValueError(
            f"{name}: y needs at least one entry in its last dimension, got shape {tuple(y.shape)}"
        )


def unit_rows(A: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A and b with rows of length one: the same affine set.

    Without it, a row much shorter than another counts as redundant in a pseudo-inverse.
    """
    length = length_of(A.detach())
    length = torch.where(length > 0, length, 1)
    return A / length.unsqueeze(-1), b / length


def block_means(y: Tensor, begins: Tensor) -> Tensor:
    """The mean of y over blocks of neighbours in the last dimension, at each of their places.

    ``begins`` is the mask of the blocks' first places.
    """
    place = torch.arange(y.shape[-1], device=y.device)
    first = torch.where(begins, place, 0).cummax(-1).values
    # Measured from its first entry, a block loses no digits to a large common part.
    base = y.detach().gather(-1, first)
    total = torch.zeros_like(y).scatter_add(-1, first, y - base)
    size = torch.zeros_like(y).scatter_add(-1, first, torch.ones_like(y))
    return base + (total / size.clamp_min(1)).gather(-1, first)


def search(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """``function(*tensors)``, constant for every derivative: what an operator finds by a loop.

    The loop may end by the values, under ``torch.func`` too: the function gets plain tensors.
    Those of all of them have the same leading dimensions, any number of them.
    """
    return _Search.apply(function, *(tensor.detach() for tensor in tensors))


def none(condition: Tensor) -> bool:
    """Whether a condition holds nowhere, for a loop to end; on the meta device it holds nowhere."""
    return condition.device.type == "meta" or not bool(condition.any())


@bind_as_given
class _Search(torch.autograd.Function):
    """A function whose inputs ``torch.func`` unwraps, and whose outputs have no derivative."""

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> Any:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, function: Any, *tensors: Tensor) -> Any:
        grown = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        found = _Search.apply(function, *grown)
        return found, (0,) * len(found)


def capped_pieces(y: Tensor, u: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which entries are full and which are free (the others are zero), and whether s can be met.

    Let g(τ) = Σᵢ clip(yᵢ − τ, 0, uᵢ), so that g(τ) = s is to be solved. At least one entry is
    free: at a vertex, the one that was last to become full.
    """
    n, last = y.shape[-1], 2 * y.shape[-1] - 1
    slack = 4 * n * torch.finfo(y.dtype).eps * s  # what rounding may do to a sum
    # No entry exceeds s. So a cap above s never binds, and need not enter the sums.
    cap = torch.minimum(u, s)
    # Let yₖ be the largest for which the caps of y₁ ≥ … ≥ yₖ make up s. Then yₖ − s ≤ τ ≤ yₖ:
    # above it too few entries are not zero, and below it they are all full. Only what lies near
    # this interval matters, and so entries of any size lose nothing when measured from yₖ.
    falling, order = y.sort(dim=-1, descending=True)
    k = (cap.gather(-1, order).cumsum(-1) < s - slack).sum(-1, keepdim=True).clamp_max(n - 1)
    z = torch.maximum(torch.minimum(y - falling.gather(-1, k), cap), -2 * s)

    # g is linear between the breakpoints zᵢ, where entry i leaves zero as τ falls, and zᵢ − uᵢ,
    # where it is full. The first one at which g has reached s ends the piece that meets s.
    points, order = torch.cat([z, z - cap], -1).sort(dim=-1, descending=True)
    slope = torch.where(order < n, 1, -1).cumsum(-1)
    rise = slope[..., :-1] * (points[..., :-1] - points[..., 1:])
    g = torch.cat([torch.zeros_like(rise[..., :1]), rise.cumsum(-1)], -1)
    piece = (g < s).sum(-1, keepdim=True).clamp(1, last)

    # By place and not by value: a piece may be narrower than the rounding of its ends.
    position = order.argsort(dim=-1)
    filled = (position[..., n:] < piece) & (cap == u)  # what only s holds is never full
    free = (position[..., :n] < piece) & ~filled

    # A vertex: to rounding, g is s on a whole interval of τ, where no entry is free.
    begin = (g < s - slack).sum(-1, keepdim=True).clamp_max(last)
    end = ((g <= s + slack).sum(-1, keepdim=True) - 1).clamp_min(0)
    right, left = points.gather(-1, begin), points.gather(-1, end)
    vertex = (begin == 0) | (end == last) | (right - left > 4 * slack)
    # An entry may still be as far from its bound there as rounding explains.
    above = z - 0.5 * cap >= 0.5 * (right + left)
    # The one that is free: what only s holds, if there is such an entry.
    rank = torch.where(cap < u, torch.inf, cap - z)
    rank = torch.where(above & (cap > 0), rank, torch.where(s > 0, -torch.inf, y))
    one = torch.arange(n, device=y.device) == rank.argmax(-1, keepdim=True)

    free = torch.where(vertex, one, free)
    full = torch.where(vertex, above & (cap == u), filled) & ~free
    attainable = (s >= 0) & (s - slack <= cap.sum(-1, keepdim=True))
    attainable = attainable & (u >= 0).all(-1, keepdim=True)
    return full, free, attainable & torch.isfinite(z.sum(-1, keepdim=True))
