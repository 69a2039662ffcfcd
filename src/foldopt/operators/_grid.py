"""Differences on a grid of pixels, and its connected parts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from foldopt import _operator as ops


def differences(x: Tensor) -> Tensor:
    """D x: to the right and downward, stacked in dimension −3, zero at the last column and row."""
    return torch.stack([pad(x.diff(dim=-1), (0, 1)), pad(x.diff(dim=-2), (0, 0, 0, 1))], -3)


def transposed(p: Tensor) -> Tensor:
    """Dᵀ p, for a p that is zero where D x is for every x."""
    right, down = p.unbind(-3)
    return pad(right[..., :-1], (1, 0)) - right + pad(down[..., :-1, :], (0, 0, 1, 0)) - down


def parts(joined: Tensor) -> Tensor:
    """A number for each pixel, the same for those that ``joined`` links, ``(*batch, H W)``.

    ``joined`` is a mask of the shape of D x.
    """
    (numbers,) = ops.search(_parts, joined)
    return numbers


def means(z: Tensor, part: Tensor) -> Tensor:
    """The mean of z over each part, at its pixels; exactly the same number at all of them."""
    flat = z.flatten(-2)
    total = torch.zeros_like(flat).scatter_add(-1, part, flat)
    size = torch.zeros_like(flat).scatter_add(-1, part, torch.ones_like(flat))
    return (total / size.clamp_min(1)).gather(-1, part).unflatten(-1, z.shape[-2:])


def _parts(joined: Tensor) -> tuple[Tensor]:
    """Each pixel is given the least number in its part.

    A part that hears of a lower number from a neighbour points its own to it, and pointers are
    followed: so numbers travel much faster than from pixel to pixel.
    """
    *batch, _, height, width = joined.shape
    count = height * width
    number = torch.arange(count, device=joined.device).expand(*batch, count)
    right, down = joined[..., 0, :, :-1], joined[..., 1, :-1, :]
    while True:
        grid = number.unflatten(-1, (height, width))
        across = torch.where(right, grid[..., 1:].minimum(grid[..., :-1]), count)
        along = torch.where(down, grid[..., 1:, :].minimum(grid[..., :-1, :]), count)
        heard = grid
        for edge, sides in ((across, ((0, 1), (1, 0))), (along, ((0, 0, 0, 1), (0, 0, 1, 0)))):
            for side in sides:
                heard = heard.minimum(pad(edge, side, value=count))
        pointer = number.scatter_reduce(-1, number, heard.flatten(-2), "amin")
        pointer = pointer.gather(-1, pointer)
        lower = pointer.gather(-1, number)
        if ops.none(lower != number):
            return (number.contiguous(),)
        number = lower
