"""The affine map from the parameters of a problem to the data of its cone program."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.solvers import _scipy

__all__ = ["Affine", "SparseMatrix"]


class SparseMatrix:
    """A constant sparse matrix and its transpose, for products with tensors."""

    def __init__(self, csr: Any) -> None:
        self.csr = csr

    @functools.cached_property
    def transposed(self) -> SparseMatrix:
        """The transpose, whose own transpose is this one."""
        other = SparseMatrix(self.csr.T.tocsr())
        other.__dict__["transposed"] = self
        return other

    def __call__(self, x: Tensor) -> Tensor:
        """M x for x ``(*batch, columns)``, computed on the CPU, differentiable in x."""
        return _Product.apply(self, x)  # pyright: ignore[reportReturnType]


class _Product(torch.autograd.Function):
    """M x. It is linear, so that its derivatives are the same products."""

    @staticmethod
    def forward(matrix: SparseMatrix, x: Tensor) -> Tensor:
        flat = x.detach().cpu().reshape(-1, x.shape[-1]).numpy()
        if len(flat) == 1:
            out = (matrix.csr @ flat[0])[None]
        else:
            out = np.ascontiguousarray((matrix.csr @ np.ascontiguousarray(flat.T)).T)
        return torch.from_numpy(out).reshape(*x.shape[:-1], out.shape[-1]).to(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.matrix = inputs[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.matrix.transposed(gradient)

    @staticmethod
    def jvp(ctx: Any, _matrix: None, tangent: Tensor) -> Tensor:
        return ctx.matrix(tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, matrix: SparseMatrix, x: Tensor) -> tuple[Tensor, int]:
        return matrix(x.movedim(in_dims[1], 0)), 0


@dataclasses.dataclass(frozen=True)
class Affine:
    """One block of data, as constant + matrix @ (all parameters in one vector).

    Attributes
    ----------
    matrix
        CSR ``(k, p)``.
    constant
        ``(k,)``.
    columns
        Which columns belong to each parameter.
    """

    matrix: Any
    constant: Tensor
    columns: tuple[slice, ...]

    @functools.cached_property
    def used(self) -> tuple[bool, ...]:
        """Which parameters have an influence on this block."""
        counts = np.bincount(self.matrix.indices, minlength=self.matrix.shape[1])
        return tuple(bool(counts[one].any()) for one in self.columns)

    @functools.cached_property
    def _parts(self) -> dict[tuple[bool, ...], SparseMatrix]:
        return {}

    def __call__(self, values: list[Tensor], batched: list[bool]) -> Tensor:
        """The block, ``(k,)``, or ``(B, k)`` if a parameter that it depends on is ``batched``.

        ``values`` are vectors, ``(size,)`` or ``(B, size)``, one for each parameter.
        """
        out = self.constant.to(values[0].device) if values else self.constant
        for kind in (False, True):
            chosen = tuple(used and of == kind for used, of in zip(self.used, batched, strict=True))
            if any(chosen):
                picked = [value for value, yes in zip(values, chosen, strict=True) if yes]
                out = out + self._part(chosen)(torch.cat(picked, -1))
        return out

    def _part(self, chosen: tuple[bool, ...]) -> SparseMatrix:
        if chosen not in self._parts:
            picked = [part for part, yes in zip(self.columns, chosen, strict=True) if yes]
            columns = np.concatenate([np.arange(part.start, part.stop) for part in picked])
            whole = len(columns) == self.matrix.shape[1] and (np.diff(columns) == 1).all()
            matrix = self.matrix if whole else self.matrix.tocsc()[:, columns].tocsr()
            self._parts[chosen] = SparseMatrix(_scipy.sparse.csr_matrix(matrix))
        return self._parts[chosen]
