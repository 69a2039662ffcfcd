"""The data of a sparse quadratic program layer, looked at before anything is computed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from foldopt.nn._qp.program import NAMES, program_of
from foldopt.nn._qp.sparse.matrix import Pattern, outside_transforms, taken_apart

__all__ = ["Params", "any_sparse", "params_of"]

_MATRICES = ("Q", "G", "A")
_SPARSE = (torch.sparse_coo, torch.sparse_csr)
_INFINITE = {"h": torch.inf, "lower": -torch.inf, "upper": torch.inf}


class Params(NamedTuple):
    """What the step and the solver take, as tensors.

    The values of the matrices are ``(nnz,)`` or ``(B, nnz)``, vectors ``(m,)`` or ``(B, m)``, and
    p ``(B, n)``. Limits that are infinite stand as 0 and are marked in ``far_*``: what is not
    finite among the params is a sign of a sample that has failed. ``fixed``: variables whose
    bounds are equal.
    """

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor
    lower: Tensor
    upper: Tensor
    fixed: Tensor
    far_h: Tensor
    far_lower: Tensor
    far_upper: Tensor


def any_sparse(*blocks: Any) -> bool:
    """Whether one of the blocks is a tensor that is not strided."""
    return any(isinstance(block, Tensor) and block.layout != torch.strided for block in blocks)


def params_of(*given: Any) -> tuple[Params, tuple[Pattern, Pattern, Pattern], torch.Size]:
    """The params, the patterns of Q, G and A, and the batch shape that was given.

    Raises
    ------
    TypeError
        If kinds, layouts, dtypes or devices do not fit.
    ValueError
        If shapes do not fit.
    """
    named = dict(zip(NAMES, given, strict=True))
    with outside_transforms():
        _check_layouts(named)
        taken = {
            name: taken_apart(named[name]) for name in _MATRICES if isinstance(named[name], Tensor)
        }
    # The dense layer's checks look at shapes, dtypes and devices only, which a tensor without
    # memory of its own has as well.
    shells = {name: values.new_empty(()).expand(named[name].shape) for name, (_, values) in
              taken.items()}  # fmt: skip
    program, batch = program_of(*{**named, **shells}.values())
    n, m, k, _ = program.sizes
    none = torch.zeros(0, dtype=torch.int64, device=program.p.device)
    empty = {"G": (m, n), "A": (k, n)}
    for name, shape in empty.items():
        taken.setdefault(name, (Pattern(none, none, shape), program.p.new_zeros(0)))
    limits, far = {}, []
    for name, infinity in _INFINITE.items():
        block = getattr(program, name)
        far.append(block == infinity)
        limits[name] = torch.where(far[-1], 0, block)
    patterns, values = zip(*(taken[name] for name in _MATRICES), strict=True)
    params = Params(
        values[0], program.p, values[1], limits["h"], values[2], program.b,
        limits["lower"], limits["upper"], program.lower == program.upper, *far,
    )  # fmt: skip
    return params, (patterns[0], patterns[1], patterns[2]), batch


def _check_layouts(named: dict[str, Any]) -> None:
    for name, block in named.items():
        if not isinstance(block, Tensor):
            if name == "Q":
                raise TypeError(
                    "nn.QP: Q must be a sparse tensor beside sparse G and A, got "
                    f"{type(block).__name__}; that of a linear program has no entries"
                )
            continue
        if name not in _MATRICES:
            if block.layout != torch.strided:
                raise TypeError(
                    f"nn.QP: {name} is sparse ({block.layout}): only Q, G and A may be. Pass "
                    f"{name}.to_dense()"
                )
            continue
        if block.layout == torch.strided:
            other = next(n for n in _MATRICES if any_sparse(named[n]))
            raise TypeError(
                f"nn.QP: {name} is dense and {other} is sparse: if one of Q, G and A is sparse, "
                f"all of them must be. Pass {name}.to_sparse_csr()"
            )
        if block.layout not in _SPARSE:
            raise TypeError(
                f"nn.QP: {name} has the layout {block.layout}, which is neither torch.sparse_csr "
                f"nor torch.sparse_coo. Pass {name}.to_sparse_csr()"
            )
        if block.dense_dim() or (block.layout == torch.sparse_coo and block.dim() != 2):
            raise ValueError(
                f"nn.QP: {name} has {block.sparse_dim()} sparse and {block.dense_dim()} dense "
                f"dimensions, shape {tuple(block.shape)}. A COO tensor must be a matrix, which all "
                "samples share; a CSR tensor may have batch dimensions in front, "
                "torch.sparse_csr_tensor with crow_indices (*batch, rows + 1)"
            )
