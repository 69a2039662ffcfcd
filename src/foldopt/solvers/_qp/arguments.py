"""The params of a quadratic program, looked at before any engine runs."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldopt.solvers import _scipy
from foldopt.solvers._qp.choose import Convexity, Traits
from foldopt.solvers._run.arrays import to_array

__all__ = ["NAMES", "Blocks", "blocks_of", "convexity_of", "to_float", "traits_of"]

NAMES = ("Q", "p", "G", "h", "A", "b", "lower", "upper")
INFINITE = ("h", "lower", "upper")
_MATRICES = ("Q", "G", "A")


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The params with their sizes.

    Attributes
    ----------
    params, in_dims
        In the order of ``NAMES``; 0 for those with a row for each sample.
    n, m, k
        Variables, inequalities, equalities.
    samples
        B, or None if no block has a batch dimension.
    """

    params: tuple[Any, ...]
    in_dims: tuple[int | None, ...]
    n: int
    m: int
    k: int
    samples: int | None


def blocks_of(*given: Any) -> Blocks:
    """Check kinds and shapes of (Q, p, G, h, A, b, lower, upper)."""
    kinds = [_kind(name, block) for name, block in zip(NAMES, given, strict=True)]
    named: dict[str, Any] = dict(zip(NAMES, kinds, strict=True))
    p = named["p"]
    if p is None or isinstance(p, float) or not 1 <= p.ndim <= 2 or p.shape[-1] == 0:
        raise ValueError(
            f"solvers.QP: p must have shape (n,) or (B, n) with n of 1 or more, got {_seen(p)}"
        )
    n = p.shape[-1]
    for matrix, vector in (("G", "h"), ("A", "b")):
        if (named[matrix] is None) != (named[vector] is None):
            raise ValueError(f"solvers.QP: {matrix} and {vector} go together, one of them is None")
    for name in ("lower", "upper"):
        if isinstance(named[name], float):
            like = p.new_full((n,), named[name]) if isinstance(p, Tensor) else None
            named[name] = np.full(n, named[name]) if like is None else like
    _check_dtypes(named)
    m, k = (0 if named[name] is None else _rows(name, named[name]) for name in ("h", "b"))
    shapes = {
        "Q": (n, n), "p": (n,), "G": (m, n), "h": (m,), "A": (k, n), "b": (k,),
        "lower": (n,), "upper": (n,),
    }  # fmt: skip
    sizes: dict[str, int] = {}
    for name, block in named.items():
        if block is None:
            continue
        shape, event = tuple(block.shape), shapes[name]
        if shape[len(shape) - len(event) :] != event or len(shape) - len(event) not in (0, 1):
            raise ValueError(
                f"solvers.QP: {name} must have shape {_text(event)} or {_text(('B', *event))} "
                f"beside p of shape {tuple(p.shape)}, got {shape}"
            )
        if len(shape) > len(event):
            sizes[name] = shape[0]
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in sizes.items())
        raise ValueError(
            f"solvers.QP: the batch sizes differ: {listed}. A block that all samples share has no "
            "batch dimension"
        )
    in_dims = tuple(0 if name in sizes else None for name in NAMES)
    samples = next(iter(sizes.values()), None)
    return Blocks(tuple(named.values()), in_dims, n, m, k, samples)


def convexity_of(Q: Any, samples: int | None) -> Convexity:
    """How convex the objective is, in every sample; ValueError if in one of them it is not."""
    if Q is None:
        return "linear"
    if _scipy.sparse.issparse(Q):
        if not Q.nnz:
            return "linear"
        lacks = functools.partial(_not_positive_sparse, Q)
    else:
        given = torch.as_tensor(to_array(Q, np.dtype(np.float64)))
        if not bool((given != 0).any()):
            return "linear"
        lacks = functools.partial(_not_positive, given)
    tolerance = _tolerance(Q)
    if lacks(-tolerance) is None:  # most are, and one factorization shows it
        return "strong"
    convex = lacks(tolerance)
    if convex is not None:
        who = "Q" if samples is None or convex < 0 else f"Q of sample {convex}"
        raise ValueError(
            f"solvers.QP: {who} is not positive semidefinite: the program is not convex. Likely "
            "cause: a sign, or a Q that is predicted without a factor (Q = LLᵀ). "
            "solvers.GlobalQP solves nonconvex programs to global optimality, nn.f_sqp locally"
        )
    return "semidefinite"


def traits_of(blocks: Blocks, convexity: Convexity) -> Traits:
    """What the choice of an engine depends on."""
    filled, entries = 0, 0
    for name, block in zip(NAMES, blocks.params, strict=True):
        if name in _MATRICES and block is not None:
            size = math.prod(block.shape[-2:])
            entries += size
            filled += block.nnz if _scipy.sparse.issparse(block) else size
    density = filled / entries if entries else 1.0
    return Traits(blocks.n, blocks.m + blocks.k, density, convexity)


def _tolerance(Q: Any) -> float:
    """Eigenvalues above −tolerance |Q| count as zero: rounding makes such of a semidefinite LLᵀ.

    The rounding meant is that of the dtype in which Q comes, not of the one in which it is solved.
    """
    return float(np.finfo(str(Q.dtype).removeprefix("torch.")).eps) ** 0.6


def _not_positive(Q: Tensor, shift: float) -> int | None:
    """The first sample whose Q + shift |Q| I has no Cholesky factor; −1: the Q of them all.

    The largest entry of a semidefinite matrix stands on its diagonal.
    """
    Q = (Q + Q.mT).div_(2)
    diagonal = Q.diagonal(dim1=-2, dim2=-1)
    size = diagonal.abs().amax(-1, keepdim=True) if Q.numel() else diagonal.abs()
    diagonal.add_(shift * size + torch.finfo(Q.dtype).tiny)
    info = torch.linalg.cholesky_ex(Q)[1]
    wrong = torch.nonzero(info.reshape(-1))
    if not len(wrong):
        return None
    return int(wrong[0]) if Q.dim() == 3 else -1


def _not_positive_sparse(Q: Any, shift: float) -> int | None:
    """The same by an LU factorization that takes its pivots from the diagonal.

    Such a factorization of a symmetric positive definite matrix needs no other pivot and all of
    them are positive; that of any other matrix meets a pivot that is not (Sylvester).
    """
    Q = _scipy.sparse.csc_matrix((Q + Q.T) / 2)
    try:
        factors = _scipy.sparse_linalg.splu(
            _scipy.sparse.csc_matrix(Q + shift * abs(Q).max() * _scipy.sparse.eye(Q.shape[0])),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # exactly singular
        return -1
    on_diagonal = np.array_equal(factors.perm_r, factors.perm_c)
    return None if on_diagonal and (factors.U.diagonal() > 0).all() else -1


def to_float(name: str, number: Any) -> float:
    """A real number as a float."""
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{name} is an integer too large for a float") from None


def _kind(name: str, block: Any) -> Any:
    """None, a number, a strided tensor, an array, or a CSC matrix."""
    if block is None:
        return None
    if isinstance(block, Tensor):
        if not block.is_floating_point():
            raise TypeError(
                f"solvers.QP: {name} must hold floating-point numbers, got {block.dtype}"
            )
        if block.layout == torch.strided:
            return block.detach()
        if name not in _MATRICES or block.dim() != 2:
            raise ValueError(
                f"solvers.QP: {name} is sparse, of shape {tuple(block.shape)}; only Q, G and A may "
                "be, with two dimensions: all samples share a sparse matrix"
            )
        return _scipy.sparse.csc_matrix(to_array(block, None), dtype=np.float64)
    if _scipy.sparse.issparse(block):
        if name not in _MATRICES:
            raise ValueError(f"solvers.QP: {name} is sparse; only Q, G and A may be")
        return _scipy.sparse.csc_matrix(block, dtype=np.float64)
    if isinstance(block, numbers.Real) and not isinstance(block, bool):
        if name in ("lower", "upper"):
            return to_float(f"solvers.QP: {name}", block)
    elif isinstance(block, (np.ndarray, list, tuple)):
        array = np.asarray(block)
        if array.dtype.kind in "iuf":
            return array if array.dtype.kind == "f" else array.astype(np.float64)
    raise TypeError(
        f"solvers.QP: {name} must be a tensor, a numpy array, a sparse matrix or None, got "
        f"{type(block).__name__}"
    )


def _check_dtypes(named: dict[str, Any]) -> None:
    tensors = {name: block for name, block in named.items() if isinstance(block, Tensor)}
    for name, block in tensors.items():
        first, like = next(iter(tensors.items()))
        if (block.dtype, block.device) != (like.dtype, like.device):
            raise TypeError(
                f"solvers.QP: {name} is {block.dtype} on {block.device}, {first} is {like.dtype} "
                f"on {like.device}: nothing is cast unasked"
            )


def _rows(name: str, vector: Any) -> int:
    if not 1 <= vector.ndim <= 2:
        raise ValueError(
            f"solvers.QP: {name} must be a vector or (B, rows), got shape {tuple(vector.shape)}"
        )
    return vector.shape[-1]


def _seen(block: Any) -> str:
    return f"shape {tuple(block.shape)}" if hasattr(block, "shape") else f"{block!r}"


def _text(shape: tuple[Any, ...]) -> str:
    inner = ", ".join(map(str, shape))
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
