"""A sparse matrix as the layer sees it: numbers that can be differentiated, in places that cannot.

The entries of a CSR or COO tensor are one vector of values. Products with it are a gather and a
scattered sum, which autograd differentiates as often as it likes, in both factors, and which cost
one pass over the entries. The gradient of the values goes back to the tensor on its own pattern.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from foldopt._calculus import transforms_active

__all__ = ["Pattern", "outside_transforms", "product", "taken_apart"]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Where the entries stand.

    Attributes
    ----------
    rows, columns
        ``(nnz,)``, or ``(B, nnz)`` where each sample has its own pattern.
    shape
        Of the matrix.
    """

    rows: Tensor
    columns: Tensor
    shape: tuple[int, int]

    @property
    def mT(self) -> Pattern:  # noqa: N802
        """Where the same entries stand in the transposed matrix."""
        return Pattern(self.columns, self.rows, (self.shape[1], self.shape[0]))


def product(pattern: Pattern, values: Tensor, x: Tensor) -> Tensor:
    """M x, sample by sample: values ``(nnz,)`` or ``(B, nnz)``, x ``(B, n)``."""
    places = (len(x), pattern.rows.shape[-1])
    terms = values * torch.gather(x, -1, pattern.columns.expand(places))
    zeros = x.new_zeros(len(x), pattern.shape[0])
    return zeros.scatter_add(-1, pattern.rows.expand(places), terms)


def taken_apart(block: Tensor) -> tuple[Pattern, Tensor]:
    """The pattern of a CSR or COO tensor, and its values ``(nnz,)`` or ``(B, nnz)``."""
    height, width = block.shape[-2:]
    if block.layout == torch.sparse_coo:
        block = block.coalesce()  # entries that stand in one place are added up
        rows, columns = block.indices()
        return Pattern(rows, columns, (height, width)), block.values()
    rows, columns = _places(block.crow_indices(), block.col_indices())
    values = _values(block)
    if block.dim() > 2:
        flat = (block.shape[:-2].numel(), columns.shape[-1])
        rows, columns, values = (part.reshape(flat) for part in (rows, columns, values))
    return Pattern(rows, columns, (height, width)), values


def _places(starts: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of each entry of a CSR tensor."""
    counts = starts.long().diff(dim=-1)
    index = torch.arange(counts.shape[-1], device=counts.device).expand(counts.shape)
    rows = torch.repeat_interleave(index.reshape(-1), counts.reshape(-1))
    return rows.reshape(columns.shape), columns.long()


def _values(block: Tensor) -> Tensor:
    if not block.requires_grad:
        return block.values()
    return _Values.apply(block)  # pyright: ignore[reportReturnType]


def outside_transforms() -> contextlib.AbstractContextManager:
    """Leave the levels of ``torch.func`` for a while.

    Under them torch (2.13) asks even a CSR tensor that none of them knows for its strides, of which
    it has none. What is read from it out here is a constant to them.
    """
    return (
        temporarily_clear_interpreter_stack() if transforms_active() else contextlib.nullcontext()
    )


class _Values(torch.autograd.Function):
    """The values of a CSR tensor. Torch's own has a first derivative only (2.13)."""

    @staticmethod
    def forward(block: Tensor) -> Tensor:
        return block.detach().values().clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        (block,) = inputs
        ctx.save_for_backward(block.crow_indices(), block.col_indices())
        ctx.shape = block.shape

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        starts, columns = ctx.saved_tensors
        found = _OnPattern.apply(starts, columns, gradient, ctx.shape)
        return found  # pyright: ignore[reportReturnType]


class _OnPattern(torch.autograd.Function):
    """A CSR tensor of some values."""

    @staticmethod
    def forward(starts: Tensor, columns: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, None]:
        if gradient.layout == torch.sparse_csr:
            return None, None, _values(gradient), None
        if gradient.layout != torch.strided:
            gradient = gradient.to_dense()  # somebody's own matrix, which they have already
        starts, columns = ctx.saved_tensors
        rows, columns = _places(starts, columns)
        width = gradient.shape[-1]
        flat = gradient.reshape(*gradient.shape[:-2], -1)
        return None, None, torch.gather(flat, -1, rows * width + columns), None
